"""A cache bounded in entries and in bytes: what was used longest ago goes first.

For one thread, the event loop's: it takes no lock. What is larger than the whole cache is not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps at most ``max_entries`` values of together ``max_bytes``.

    Attributes:
        size_bytes: of what is kept, as it was told.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """The value, or None; it counts as used now."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value, and let go of others where there is no room."""
        before = self._kept.pop(key, None)
        if before is not None:
            self.size_bytes -= before[1]
        if size_bytes > self._max_bytes:
            return
        self._kept[key] = value, size_bytes
        self.size_bytes += size_bytes
        while len(self._kept) > self._max_entries or self.size_bytes > self._max_bytes:
            _, (_, dropped_bytes) = self._kept.popitem(last=False)
            self.size_bytes -= dropped_bytes

"""`memory:?max_bytes=…` keeps answers in the process: what was used longest ago goes first.

    max_bytes   of all keys and answers together, 65,536 to 2**40. Default 64 MiB

Each replica has its own, and it is empty after a start. An entry counts with what Python needs to hold it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from mesh.plugins import Url
from weft.errors import Reason, error

DEFAULT_MAX_BYTES: Final = 64 << 20
_LEAST, _MOST = 1 << 16, 1 << 40
_ENTRY_BYTES: Final = 300  # of an entry beside its key and its data


def open(url: Url) -> Memory:
    """Open the store that the URL describes."""
    raw = url.query.get("max_bytes", str(DEFAULT_MAX_BYTES))
    if url.host or url.path or set(url.query) - {"max_bytes"}:
        raise error(Reason.INVALID_FIELD, f"{url}: memory: takes max_bytes alone, such as memory:?max_bytes=67108864")
    if not (raw.isascii() and raw.isdigit() and len(raw) <= 13 and _LEAST <= int(raw) <= _MOST):
        message = f"{url}: max_bytes is {raw[:20]!r}; allowed is {_LEAST} to {_MOST}"
        raise error(Reason.INVALID_FIELD, message, max_bytes=raw[:20])
    return Memory(int(raw))


class Memory:
    """Answers in this process's memory. For one thread, the event loop's.

    Attributes:
        size_bytes: of what is kept.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        found = self._kept.get(key)
        if found is None:
            return None
        data, until_s = found
        if self._clock() >= until_s:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return data

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See the port. What is larger than all of the room is not kept."""
        if key in self._kept:
            self._drop(key)
        size = _size(key, data)
        if size > self._max_bytes:
            return
        self._kept[key] = data, self._clock() + ttl_s
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    async def close(self) -> None:
        """See the port."""
        self._kept.clear()
        self.size_bytes = 0

    def _drop(self, key: str) -> None:
        self.size_bytes -= _size(key, self._kept.pop(key)[0])


def _size(key: str, data: bytes) -> int:
    return len(key) + len(data) + _ENTRY_BYTES

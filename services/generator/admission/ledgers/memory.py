"""`memory:` counts in this process: each replica has the limits for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from limits.aio.storage import MemoryStorage

from mesh.plugins import Url
from services.generator.admission.counters import Counters

T = TypeVar("T")


def open(url: Url, unshared: Callable[[], None]) -> Memory:
    """Open it. The URL has no parameters."""
    return Memory()


class Memory:
    """Counts in this process."""

    def __init__(self) -> None:
        self._counters = Counters(MemoryStorage())

    async def run(self, work: Callable[[Counters], Awaitable[T]]) -> T:
        """Do `work`."""
        return await work(self._counters)

    async def close(self) -> None:
        """Nothing to let go of."""

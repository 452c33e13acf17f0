"""Threads for work that would hold the event loop up: embedding, searching, parsing.

A pool is bounded on both sides: so many threads, and so many calls waiting for one. What comes beyond
is refused with OVERLOADED at once: a call that would wait longer than its caller does helps nobody.
A call whose caller went away is dropped while it still waits; once it runs it runs to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from weft.errors import Reason, error

P = ParamSpec("P")
T = TypeVar("T")
_RETRY_AFTER_S: Final = 0.2


class Workers:
    """A bounded pool of threads. Close it with ``close``."""

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._name, self._limit = name, threads + max_waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"weft-{name}")
        self._pending = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` on a thread and wait for what it returns.

        Raises:
            WeftError: OVERLOADED when too many wait already.
        """
        if self._pending >= self._limit:
            raise error(
                Reason.OVERLOADED,
                f"{self._pending} calls are at or wait for the {self._name} threads, which is the limit; "
                f"try again in {_RETRY_AFTER_S} s",
                retry_after_s=_RETRY_AFTER_S,
                pool=self._name,
                limit=self._limit,
            )
        self._pending += 1
        try:
            future = self._executor.submit(work, *args, **kwargs)
            return await asyncio.wrap_future(future)
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Drop what waits and let go of the threads when what runs is done."""
        self._executor.shutdown(wait=False, cancel_futures=True)

"""Threads for work that would hold the event loop up: embedding, searching, parsing.

A pool is bounded on both sides: so many threads, and so many calls waiting for one. What comes beyond
is refused with OVERLOADED at once: a call that would wait longer than its caller does helps nobody.
A call whose caller went away is dropped while it still waits; once it runs it runs to its end.

A pool may stand ``behind`` another, as ingest stands behind searching. Its threads then have a lower priority
(Linux), and its work, between two steps of some ten milliseconds, asks ``give_way`` and is held back while the
others fill what is left of the processors. Not for ever, or searches without a pause would keep documents out for
good: a step goes through every ``MAX_HELD_S``, and where searches even wait for a thread, since the processors are
busy with other things, too, every ``MAX_HELD_QUEUED_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from weft.errors import Reason, error

P = ParamSpec("P")
T = TypeVar("T")
MAX_HELD_S: Final = 0.05
MAX_HELD_QUEUED_S: Final = 0.25
_LOOK_S: Final = 0.002
_RETRY_AFTER_S: Final = 0.2
_NICENESS: Final = 5  # a third of the weight: lower, and one that has the interpreter's lock would keep others waiting


class Workers:
    """A bounded pool of threads. Close it with ``close``."""

    def __init__(self, name: str, threads: int, max_waiting: int, *, behind: Workers | None = None) -> None:
        self._name, self._threads, self._limit = name, threads, threads + max_waiting
        self._behind = behind
        self._spare = max(1, (os.cpu_count() or 1) - threads)  # processors that this pool leaves
        self._pending = 0
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix=f"weft-{name}", initializer=_step_back if behind is not None else None
        )

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

    def give_way(self) -> None:
        """Called by work on these threads: let those go first whom this pool stands behind."""
        before = self._behind
        if before is None:
            return
        began_s = time.monotonic()
        # Looked at now and then rather than signalled: a lock would be one more thing that a thread of low
        # priority can be stopped with in its hands.
        while before.pending >= self._spare:
            most_s = MAX_HELD_QUEUED_S if before.queued else MAX_HELD_S
            if time.monotonic() - began_s >= most_s:
                break
            time.sleep(_LOOK_S)

    @property
    def pending(self) -> int:
        """Calls that run or wait for a thread."""
        return self._pending

    @property
    def queued(self) -> bool:
        """Whether calls wait for a thread."""
        return self._pending > self._threads

    def close(self) -> None:
        """Drop what waits and let go of the threads when what runs is done."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """Lower the priority of this thread. Linux has one for each; elsewhere it would be the whole process's."""
    if sys.platform == "linux":
        this = threading.get_native_id()
        with contextlib.suppress(OSError):  # then it just competes
            os.setpriority(os.PRIO_PROCESS, this, os.getpriority(os.PRIO_PROCESS, this) + _NICENESS)

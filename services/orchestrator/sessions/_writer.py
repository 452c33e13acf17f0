"""Group commit: the writes of many turns in one SQLite transaction, on one thread of its own.

While a transaction runs, new operations gather; the next transaction takes all of them (at most
``MAX_BATCH``). One caller alone waits for one commit; a thousand wait for a few dozen.

An operation is a function of the connection. It checks first and writes after, so that one which
refuses (any exception that isn't SQLite's) has written nothing and leaves the others untouched. When
SQLite itself fails, the batch is rolled back and each operation runs again in a transaction of its own:
a bad one fails alone. Operations must therefore stand being run twice.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from weft.errors import Reason, error

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
MAX_BATCH: Final = 128
_MAX_WAITING: Final = 4_096


class Writer:
    """The one writer of a database in this process."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions-write")
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()  # guards the two below
        self._waiting: deque[_Job] = deque()
        self._running = False

    async def run(self, operation: Operation[T], *, abandoned: Callable[[T], Operation[Any]] | None = None) -> T:
        """Run ``operation`` and return once it is committed.

        If the caller is cancelled meanwhile, the operation happens nevertheless, and then what
        ``abandoned`` makes of its result, to take it back.

        Raises:
            WeftError: OVERLOADED when too many wait already.
        """
        job = _Job(operation, self._loop.create_future(), abandoned)
        self._add(job)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            if job.future.done() and not job.future.cancelled():
                self._take_back(job)  # cancelled when the result was there and not taken yet
            raise
        return result

    def _add(self, job: _Job, *, bounded: bool = True) -> None:
        with self._lock:
            if bounded and len(self._waiting) >= _MAX_WAITING:
                raise error(
                    Reason.OVERLOADED,
                    f"{_MAX_WAITING} writes to the session store are waiting already; try again later",
                    retry_after_s=1.0,
                    limit=_MAX_WAITING,
                )
            self._waiting.append(job)
            if self._running:
                return
            self._running = True
        self._thread.submit(self._drain)

    # -- on the thread --------------------------------------------------------------------------------

    def _drain(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                if not batch:
                    self._running = False
                    return
            self._commit(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch)

    def _commit(self, batch: list[_Job]) -> None:
        try:
            self._transact(batch)
        except (sqlite3.Error, OSError) as exc:
            if len(batch) == 1:
                batch[0].outcome = exc
                return
            for job in batch:
                try:
                    self._transact([job])
                except (sqlite3.Error, OSError) as own:
                    job.outcome = own

    def _transact(self, batch: list[_Job]) -> None:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in batch:
                try:
                    job.outcome = job.operation(connection)
                except sqlite3.Error:
                    raise
                except Exception as refusal:
                    job.outcome = refusal
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # -- on the loop ----------------------------------------------------------------------------------

    def _deliver(self, batch: list[_Job]) -> None:
        for job in batch:
            if job.future.done():
                self._take_back(job)
            elif isinstance(job.outcome, Exception):
                job.future.set_exception(job.outcome)
            else:
                job.future.set_result(job.outcome)

    def _take_back(self, job: _Job) -> None:
        if job.abandoned is not None and not isinstance(job.outcome, Exception):
            # Never refused: there is at most one for each write, and who is told of the others would not be.
            self._add(_Job(job.abandoned(job.outcome), self._loop.create_future(), None), bounded=False)

    async def close(self) -> None:
        """Commit what waits, then close the connection."""

        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        # The thread takes one task after the other, so this one comes behind a running _drain.
        await self._loop.run_in_executor(self._thread, close)
        self._thread.shutdown(wait=False)


class _Job:
    __slots__ = ("abandoned", "future", "operation", "outcome")

    def __init__(
        self,
        operation: Operation[Any],
        future: asyncio.Future[Any],
        abandoned: Callable[[Any], Operation[Any]] | None,
    ) -> None:
        self.operation = operation
        self.future = future
        self.abandoned = abandoned
        self.outcome: Any = None

"""A running turn's events, for the readers on this replica.

Only what is stored is published, so a reader never has an event that another replica could not give it
again. Readers come and go while the turn runs; each begins behind the sequence it already has. When the
last one is gone, ``deserted`` is called: nobody listens, so the turn is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from services.orchestrator.records import Entry


class Broadcast:
    """Publishes a turn's events to any number of readers."""

    def __init__(self, deserted: Callable[[], None]) -> None:
        self._deserted: Callable[[], None] | None = deserted
        self._events: list[Entry] = []  # by sequence, from 0 without gaps
        self._closed: BaseException | None = None
        self._open = True
        self._readers = 0
        self._wakers: list[asyncio.Future[None]] = []

    def publish(self, entries: Iterable[Entry]) -> None:
        """Show stored entries to the readers; notes are passed over."""
        self._events.extend(entry for entry in entries if entry.sequence >= 0)
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """No more events: readers end, or raise ``error``. Only the first call counts."""
        if self._open:
            self._open = False
            self._closed = error
            self._deserted = None  # its owner holds us
            self._wake()

    async def read(self, after_sequence: int) -> AsyncGenerator[Entry, None]:
        """Events behind ``after_sequence``, as they come. Use within ``contextlib.aclosing``."""
        self._readers += 1
        try:
            position = after_sequence + 1
            while True:
                while position < len(self._events):
                    position += 1
                    yield self._events[position - 1]
                if not self._open:
                    if self._closed is not None:
                        raise self._closed
                    return
                waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._wakers.append(waker)
                await waker
        finally:
            self._readers -= 1
            if self._readers == 0 and self._deserted is not None:
                self._deserted()

    def _wake(self) -> None:
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

"""Store, then show: the one way by which a turn's events reach its readers.

Events gather here and leave together: one write to the session store, then one publication. Two rules say
when. Text leaves at once, and takes with it what has gathered, when it is the first or when the last text
left ``interval_s`` ago or more; else it waits for the rest of that interval. Other events wait at most
``HOLD_S`` for company. Pieces of text that leave together leave as one piece. So a short, quick answer
costs two writes, and a long, slow one a write each interval.

Sequences are given here, in the order of leaving, and stored with the events: they are the same for every
reader on every replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from services.orchestrator.broadcast import Broadcast
from services.orchestrator.ports import Sessions
from services.orchestrator.records import NO_SEQUENCE, Entry, Lease, Note, Prepared, Prompted
from services.orchestrator.types import Event, Finished, TextDelta
from weft.errors import WeftError

HOLD_S: Final = 0.025


class NotStored(Exception):
    """The log could not be written. What was to be shown is lost, so the turn must end here: not a
    ``WeftError``, lest a stage take it for its peer's failure and go on."""

    def __init__(self, error: WeftError) -> None:
        super().__init__(str(error))
        self.error = error


class Outbox:
    """Where the stages of one turn put their events.

    Attributes:
        first_write_s: when the first write began, on the monotonic clock; None before it.
        writing_s: what the writes so far took together, in seconds.
    """

    def __init__(
        self,
        sessions: Sessions,
        lease: Lease,
        broadcast: Broadcast,
        tasks: asyncio.TaskGroup,
        *,
        next_sequence: int,
        interval_s: float,
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._broadcast = broadcast
        self._tasks = tasks
        self._next = next_sequence
        self._interval_s = interval_s
        self.first_write_s: float | None = None
        self.writing_s = 0.0
        self._gathered: list[Event | Note] = []
        self._text_left_s = float("-inf")
        self._leaving = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def gather(self, event: Event | Note) -> None:
        """Take an event in that leaves with whatever leaves next."""
        self._gathered.append(event)

    async def put(self, event: Event) -> None:
        """Take an event in and see that it leaves soon; a piece of text that is due leaves at once."""
        self._gathered.append(event)
        wait_s = HOLD_S
        if isinstance(event, TextDelta):
            wait_s = max(0.0, self._text_left_s + self._interval_s - time.monotonic())
        if wait_s == 0.0:
            await self.leave()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._leave_later)

    async def leave(self) -> None:
        """Store and show what has gathered."""
        async with self._leaving:
            entries = self._take()
            if entries:
                started_s = time.monotonic()
                try:
                    await self._sessions.append(self._lease, entries)
                except WeftError as err:
                    raise NotStored(err) from err
                self.first_write_s = self.first_write_s or started_s
                self.writing_s += time.monotonic() - started_s
                self._broadcast.publish(entries)

    async def finish(self, finished: Finished, query: str) -> None:
        """Store and show the rest and the end."""
        async with self._leaving:
            entries = [*self._take(), Entry(self._next, finished)]
            try:
                await self._sessions.finish(self._lease, entries, finished, query)
            except WeftError as err:
                raise NotStored(err) from err
            self._broadcast.publish(entries)

    def close(self) -> None:
        """Forget what has gathered."""
        if self._timer is not None:
            self._timer.cancel()

    def _leave_later(self) -> None:
        self._timer = None
        self._tasks.create_task(self.leave())

    def _take(self) -> list[Entry]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        events, self._gathered = self._gathered, []
        entries = []
        for event in _joined(events):
            if isinstance(event, Prepared | Prompted):
                entries.append(Entry(NO_SEQUENCE, event))
                continue
            if isinstance(event, TextDelta):
                self._text_left_s = time.monotonic()
            entries.append(Entry(self._next, event))
            self._next += 1
        return entries


def _joined(events: Iterable[Event | Note]) -> list[Event | Note]:
    """The events, neighbouring pieces of text as one."""
    joined: list[Event | Note] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text, last.token_ids + event.token_ids)
        else:
            joined.append(event)
    return joined

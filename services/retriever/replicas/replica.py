"""A replica: the state that searches read, kept up with the log.

    read everything -> State -> (wait for the log -> read what changed -> next State, swapped in)*

A ``State`` is immutable: which sequence it has seen, and a ``View`` of each collection. The next one is
made beside the searches, on a thread of its own, and swapped in whole; no search ever waits for a change,
and one that began before it goes on reading what it began with. ``exchange`` is the one way to a next state, for
the log's changes as for segments joined meanwhile (``merging``), so that none is lost to another.

The log tells when somebody committed and is read in pages, so that a long one never lies in memory whole.
Changes that arrive while others are being applied go in together, next. Where applying grows long, the
replica rests about as long as it worked, unless somebody waits for an epoch, so that a stream of small
changes can't take the processor from the searches.

Errors: a log that can't be reached for a while is tried again, with a warning; a corrupt one ends
``follow`` with STORE_CORRUPT, and the process should end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.deadline import Deadline
from services.retriever.ports import Changes, Log, StoredDocument, VectorIndexes
from services.retriever.segments.view import View
from services.retriever.types import CollectionKey, Epoch
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
_WAIT_S: Final = 1.0
_MIN_REST_S: Final = 0.025
_MAX_REST_S: Final = 0.5
_RETRY_S: Final = 1.0
_SETTLE_S: Final = 1.0
_KEEP_BACK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class State:
    """All that a replica knows, at one position of the log."""

    sequence: int = 0
    views: Mapping[CollectionKey, View] = field(default_factory=dict)

    def with_view(self, view: View) -> State:
        """The same, with another view of a collection."""
        return State(self.sequence, {**self.views, view.collection.key: view})


class Replica:
    """Holds the current ``State``; see the module.

    Attributes:
        state: what searches read. Take it once per search.
        indexes: makes the vector indexes of its segments.
    """

    def __init__(self, log: Log, indexes: VectorIndexes, workers: Workers) -> None:
        self.state = State()
        self.indexes = indexes
        self._log, self._workers = log, workers
        self._urgent = asyncio.Event()
        self._moved = asyncio.Condition()
        self._changing = asyncio.Lock()  # one next state at a time
        self._waiting = 0
        self._loaded = False
        self._held: State | None = None  # made, and not shown before the log's end is reached

    @property
    def epoch(self) -> Epoch:
        """How far in the log the state looks."""
        return Epoch(self._log.log_id, self.state.sequence)

    async def begin(self, state: State) -> None:
        """Start from a state that was kept, unless the log does not reach that far.

        A log that was put back from a backup has lost its end; what was made of that must not be shown.
        """
        try:
            reached = (await self._log.read(state.sequence - 1, 1)).sequence if state.sequence else 0
        except WeftError as err:
            if err.reason != Reason.STORE_CORRUPT:
                raise
            reached = 0  # as a log says that has lost its end; if it is damaged, reading it from its beginning tells
        if reached < state.sequence:
            _log.warning("the change log ends before sequence %d, of which there is a snapshot", state.sequence)
            return
        self.state = state

    async def load(self) -> None:
        """Read all that is in the log."""
        while await self._apply_page():
            pass
        self._loaded = True

    async def follow(self) -> None:
        """Keep up with the log until cancelled.

        Raises:
            WeftError: STORE_CORRUPT.
        """
        while True:
            try:
                worked_s = 0.0
                if await self._log.wait_changed(self.state.sequence, _WAIT_S):
                    began_s = time.monotonic()
                    await self.load()
                    worked_s = time.monotonic() - began_s
            except WeftError as err:
                if err.reason == Reason.STORE_CORRUPT:
                    raise
                _log.warning("the change log cannot be read, trying again: %s", err)
                worked_s = _RETRY_S
            await self._rest(worked_s)

    async def settle(self, sequence: int) -> None:
        """Look at the log now, since this process has written to it, and wait a little until that is seen.

        So whoever writes and then searches on one replica finds what they wrote even without an epoch.
        """
        with contextlib.suppress(TimeoutError):
            await self._until(sequence, _SETTLE_S)

    async def reach(self, epoch: Epoch, deadline: Deadline) -> None:
        """Wait until the state looks as far as ``epoch``.

        Raises:
            WeftError: EPOCH_FOREIGN when it is of another log; EPOCH_NOT_REACHED when the deadline
                came first.
        """
        if epoch.log_id != self._log.log_id:
            raise error(
                Reason.EPOCH_FOREIGN,
                f"min_epoch is of log {epoch.log_id[:40]!r}, this is log {self._log.log_id}: the store was made anew "
                "or is another one; ingest again, or search without min_epoch",
                field="min_epoch.log_id",
                wanted_log=epoch.log_id[:40],
                log=self._log.log_id,
            )
        remaining_s = deadline.remaining_s()
        try:
            # A little is kept back, so that the answer says what was wrong and not only that it took too long.
            await self._until(epoch.sequence, remaining_s - min(_KEEP_BACK_S, remaining_s / 10))
        except TimeoutError:
            raise error(
                Reason.EPOCH_NOT_REACHED,
                f"min_epoch asks for sequence {epoch.sequence}, this replica had reached {self.state.sequence} "
                "when the deadline came; try again, or give more time",
                field="min_epoch",
                wanted=epoch.sequence,
                reached=self.state.sequence,
            ) from None

    async def exchange(self, change: Callable[[State], State]) -> None:
        """Make the next state of this one, on a thread, and swap it in. Others who change it wait, searches don't."""
        async with self._changing:
            state = await self._workers.run(change, self.state)
            async with self._moved:
                self.state = state
                self._moved.notify_all()

    async def wait_moved(self, state: State, timeout_s: float | None) -> bool:
        """Wait until another state than this is there, or so long; returns whether one is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.state is not state)
        return self.state is not state

    async def _until(self, sequence: int, timeout_s: float) -> None:
        if self.state.sequence >= sequence:
            return
        self._waiting += 1
        self._urgent.set()
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.state.sequence >= sequence)
        finally:
            self._waiting -= 1

    async def _apply_page(self) -> bool:
        base = self._held or self.state
        changes = await self._log.read(base.sequence)
        if changes.sequence <= base.sequence:
            return changes.more
        if self._held is None and not (self._loaded and changes.more and _restructures(base, changes)):
            await self.exchange(lambda state: next_state(state, changes, self.indexes))
            return changes.more
        made = self._held = await self._workers.run(next_state, base, changes, self.indexes)
        if not changes.more:
            self._held = None
            await self.exchange(lambda state: made if made.sequence > state.sequence else state)
        return changes.more

    async def _rest(self, worked_s: float) -> None:
        if worked_s and not self._waiting:
            await _signal(self._urgent, min(max(worked_s, _MIN_REST_S), _MAX_REST_S))


async def _signal(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for ``event`` or so long, and take it back."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


def next_state(state: State, changes: Changes, indexes: VectorIndexes) -> State:
    """The state after ``changes``. Pure; it shares with ``state`` what they do not touch."""
    if changes.sequence <= state.sequence:  # somebody else has read them, too, and was faster
        return state
    put: defaultdict[int, list[StoredDocument]] = defaultdict(list)
    gone: defaultdict[int, list[str]] = defaultdict(list)
    for stored in changes.documents:
        put[stored.collection_id].append(stored)
    for collection_id, name in changes.gone_documents:
        gone[collection_id].append(name)
    records = {collection.id: collection for collection in changes.collections}
    by_id: dict[int, View] = {view.collection.id: view for view in state.views.values()}
    for collection_id in changes.gone_collections:
        by_id.pop(collection_id, None)
    for collection_id, record in records.items():
        view = by_id.get(collection_id) or View.empty(record, indexes)
        by_id[collection_id] = view.changed(record, put[collection_id], gone[collection_id])
    # Of two collections under one name the later has replaced the other; it may have been made before that one.
    later_last = sorted(by_id.values(), key=lambda view: view.collection.sequence)
    return State(changes.sequence, {view.collection.key: view for view in later_last})


def _restructures(state: State, changes: Changes) -> bool:
    """Whether collections went away or changed their names.

    A page of the log tells how things stand at its end, not at the page's own: a collection that a later page
    replaces is gone already, and the one that replaces it has the name but not yet all its documents. Such pages
    are not shown one by one.
    """
    there = {view.collection.id: key for key, view in state.views.items()}
    return any(gone in there for gone in changes.gone_collections) or any(
        there.get(record.id, record.key) != record.key or (record.key in state.views and record.id not in there)
        for record in changes.collections
    )

"""The agent: finds out what a question is (new, running, over, waiting for another), and answers it.

    begin ─┬─ Taken ── run the turn here ──> its readers follow the broadcast
           ├─ Busy, this very turn ─┬─ it runs here ──> join its readers
           │                        └─ elsewhere ──> follow its log in the store
           ├─ Busy, another turn ──> wait, until the deadline: SESSION_BUSY
           └─ Ended ──> play the stored log

A turn's work is a task of its own (``running.py``), so that several readers may follow it. What it shows is
stored first, hence a reader can change its source at any event: when the turn's owner dies, loses its
lease or lets go, the reader begins again behind the last event it passed on and may become the next
owner itself. When the last reader is gone, the work is cancelled, the model stops, and the lease is given
back: whoever asks again with the same request_id goes on at once.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Tracer

from mesh import deadline as deadlines
from mesh.deadline import Deadline, LedgerRecorder
from services.orchestrator.ports import Sessions
from services.orchestrator.records import Busy, Ended, Entry, Opening, Taken, TurnState
from services.orchestrator.running import Moved, Running, Works
from services.orchestrator.turn import Options, Peers
from services.orchestrator.types import Finished, Started, TurnRequest
from weft import names
from weft.connection import new_session
from weft.errors import DeadlineExceeded, Reason, WeftError, error

_log = logging.getLogger(__name__)
_MADE_HERE: Final = re.compile(r"[0-9a-f]{32}")
_REAP_S: Final = 60.0
_REAP_NEXT_S: Final = 0.02  # while there are more
_REAP_SESSIONS: Final = 50
_WARM_UP_PAUSE_S: Final = 0.25
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.25
_LAST_WORD_SHARE: Final = 0.1  # of the deadline, left to say that the wait was in vain…
_LAST_WORD_S: Final = 0.25  # …and at most this long


class Agent:
    """Answers questions over sessions. Use as ``async with Agent(...)``: it owns the running turns."""

    def __init__(
        self,
        sessions: Sessions,
        peers: Peers,
        options: Options,
        *,
        owner: str,
        versions: Mapping[str, str],
        tracer: Tracer,
        mesh_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._sessions = sessions
        self._peers = peers
        self._options = options
        self._owner = f"{owner}/{uuid.uuid4().hex[:8]}"  # a restarted process is another owner
        self._versions = dict(versions)
        self._tracer = tracer
        self._mesh_up = mesh_up
        self._works = Works(sessions, peers, options, tracer)
        self._keepers: list[asyncio.Task[None]] = []
        self._closing = False

    async def __aenter__(self) -> Agent:
        chores = (self._works.keep_leases(), self._reap(), self._warm_up())
        self._keepers = [asyncio.create_task(chore) for chore in chores]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        await self._works.close()
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._peers.catalogue.close()

    # -- readers --------------------------------------------------------------------------------------

    async def chat(self, request: TurnRequest) -> AsyncGenerator[Entry, None]:
        """The events of a turn behind ``request.after_sequence``. Use within ``contextlib.aclosing``:
        closing it is how a caller goes away."""
        deadline = deadlines.current() or Deadline.after(self._options.overall_s)
        ledger = LedgerRecorder(deadline)
        request, may_create = await self._named(request)
        after, pause_s = request.after_sequence, _FIRST_PAUSE_S
        while True:
            if self._closing:
                raise error(Reason.SHUTTING_DOWN, "this instance is stopping; ask another one")
            try:
                async with aclosing(self._events(request, after, may_create, ledger)) as entries:
                    async for entry in entries:
                        yield entry
                        after, pause_s, may_create = entry.sequence, _FIRST_PAUSE_S, False
                        if isinstance(entry.event, Finished):
                            return
                return
            except Moved:
                pass
            except DeadlineExceeded as err:
                # A reader that joined a turn may have more time than the one who began it.
                if err.reason != Reason.DEADLINE_EXCEEDED or deadline.remaining_s() < _LONGEST_PAUSE_S:
                    raise
            deadline.check("following the turn")
            await asyncio.sleep(min(pause_s, deadline.remaining_s()))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _events(
        self, request: TurnRequest, after: int, may_create: bool, ledger: LedgerRecorder
    ) -> AsyncGenerator[Entry, None]:
        """Events from one source. Ends behind the last one, or raises the turn's failure or Moved: also where a turn
        ran to its end and showed nothing, since its reader is said to have more than there was by then."""
        outcome = await self._begin(request, may_create, ledger)
        if isinstance(outcome, Ended):
            _check_after(after, outcome.log, outcome.turn)
            for entry in outcome.log:
                if entry.sequence > after:
                    yield _as_replayed(entry)
            if outcome.failure is not None:
                raise outcome.failure.as_error()
            return
        running: Running | None
        if isinstance(outcome, Taken):
            try:
                _check_after(after, outcome.log, outcome.lease.turn)
            except WeftError:
                await self._sessions.release(outcome.lease)
                raise
            running = self._works.start(outcome, request, ledger)
        else:
            running = self._works.get(request.tenant, request.session)
            if running is None or running.lease.turn != outcome.turn or running.done.is_set():
                async with aclosing(self._follow(request, outcome.turn or 0, after, ledger.deadline)) as entries:
                    async for entry in entries:
                        yield entry
                raise Moved
        async with aclosing(running.broadcast.read(after)) as entries:
            async for entry in entries:
                yield entry
        raise Moved

    async def _follow(
        self, request: TurnRequest, turn: int, after: int, deadline: Deadline
    ) -> AsyncGenerator[Entry, None]:
        """Events of a turn that runs on another replica, from its log in the store."""
        pause_s = _FIRST_PAUSE_S
        while True:
            progress = await self._sessions.progress(request.tenant, request.session, turn, after)
            for entry in progress.log:
                after, pause_s = entry.sequence, _FIRST_PAUSE_S
                yield entry
            if progress.state is TurnState.FINISHED:
                return
            if progress.failure is not None:
                raise progress.failure.as_error()
            if not progress.leased:
                raise Moved
            deadline.check("following a turn that runs on another replica")
            await asyncio.sleep(min(pause_s, deadline.remaining_s()))
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)

    # -- the way in -----------------------------------------------------------------------------------

    async def _named(self, request: TurnRequest) -> tuple[TurnRequest, bool]:
        """The request with session and request id filled in, and whether its session may be new."""
        request_id = request.request_id
        if request.resume_turn is not None:
            progress = await self._sessions.progress(request.tenant, request.session, request.resume_turn, -1)
            started = progress.log[0].event
            assert isinstance(started, Started)
            if request_id and request_id != started.request_id:
                raise error(
                    Reason.INVALID_FIELD,
                    f"resume.turn: turn {request.resume_turn} belongs to another request_id than {request_id!r}; "
                    "send the one that the turn was asked with",
                    field="resume.turn",
                    turn=request.resume_turn,
                    request_id=request_id,
                )
            return replace(request, request_id=started.request_id), False
        if request.session:
            # Names that a caller thought up are made on first use. One of ours that is unknown has
            # expired, or is another tenant's.
            may_create = _MADE_HERE.fullmatch(request.session) is None
            return replace(request, request_id=request_id or uuid.uuid4().hex), may_create
        if not request_id:
            return replace(request, session=uuid.uuid4().hex, request_id=uuid.uuid4().hex), True
        # The same request again, its first answer lost, must find the session that it made.
        session = new_session(request.tenant, request_id)
        return replace(request, session=session.removeprefix("sessions/")), True

    async def _begin(self, request: TurnRequest, may_create: bool, ledger: LedgerRecorder) -> Taken | Busy | Ended:
        """Ask for the lease, waiting while another turn of the session has it."""
        span_context = trace.get_current_span().get_span_context()
        opening = Opening(
            tenant=request.tenant,
            session=request.session,
            create=may_create,
            request_id=request.request_id,
            question=request.question,
            owner=self._owner,
            trace_id=trace.format_trace_id(span_context.trace_id),
            versions=self._versions,
        )
        pause_s, last_word_s = _FIRST_PAUSE_S, min(_LAST_WORD_S, ledger.deadline.given_s * _LAST_WORD_SHARE)
        with ledger.stage("session"), self._tracer.start_as_current_span("turn.session") as span:
            span.set_attribute(names.SESSION, request.session)
            while True:
                outcome = await self._sessions.begin(opening)
                if not isinstance(outcome, Busy) or outcome.turn is not None:
                    return outcome
                remaining_s = ledger.deadline.remaining_s() - last_word_s
                if remaining_s <= 0:
                    raise _busy(request.session, outcome)
                await self._wait(request, min(pause_s, remaining_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _wait(self, request: TurnRequest, seconds: float) -> None:
        """Sleep, or less where the session's running turn is ours and ends."""
        running = self._works.get(request.tenant, request.session)
        if running is None:
            await asyncio.sleep(seconds)
            return
        try:
            await asyncio.wait_for(running.done.wait(), seconds)
        except TimeoutError:
            return

    async def _warm_up(self) -> None:
        """Fetch the tools and have the planner read their patterns, so that no turn waits for it."""
        await self._mesh_up()
        told = False
        while True:
            try:
                specs = await self._peers.catalogue.specs()
                await self._peers.planner.plan("", specs, datetime.datetime.now(datetime.UTC).date(), ())
                return
            except WeftError as err:
                if not told:
                    _log.info("no tools yet: %s", err)
                told = True
            await asyncio.sleep(_WARM_UP_PAUSE_S)

    async def _reap(self) -> None:
        """Remove expired sessions, for ever, a few at a time."""
        pause_s = _REAP_S
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # replicas don't all come at once
            pause_s = _REAP_S
            try:
                if await self._sessions.reap(_REAP_SESSIONS) == _REAP_SESSIONS:
                    pause_s = _REAP_NEXT_S
            except WeftError as err:
                _log.warning("expired sessions could not be removed: %s", err)


def _as_replayed(entry: Entry) -> Entry:
    if isinstance(entry.event, Started):
        return Entry(entry.sequence, replace(entry.event, replayed=True))
    return entry


def _check_after(after: int, log: Sequence[Entry], turn: int) -> None:
    last = max(entry.sequence for entry in log)
    if after > last:
        raise error(
            Reason.INVALID_FIELD,
            f"resume.after_sequence: is {after}; the last event of turn {turn} so far is {last}",
            field="resume.after_sequence",
            value=after,
            last=last,
        )


def _busy(session: str, busy: Busy) -> WeftError:
    return error(
        Reason.SESSION_BUSY,
        f"session {session!r} is busy with another turn, until the deadline of this one; ask again, "
        "or with a later deadline",
        retry_after_s=max(0.1, min(busy.expires_in_s, 1.0)),
        session=session,
    )

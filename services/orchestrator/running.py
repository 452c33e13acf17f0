"""The turns that run on this replica: one task each, under a lease that is kept alive.

How a turn's work ends, and what that leaves in the store:

    finished                         the turn is FINISHED
    the request's own fault, or an   the turn is FAILED and stays so
    answer that cannot be gone on
    cancelled, out of time, a peer   the lease is given back; anyone can resume the turn
    or the store broken, a defect
    lease lost                       nothing to give back; another owner works on it

Readers of a turn that ends in the last row, or by cancelling, are told ``Moved``: look again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry.trace import Tracer

from mesh import context as companions
from mesh import deadline as deadlines
from mesh.deadline import Deadline, LedgerRecorder
from services.orchestrator import ladder
from services.orchestrator.broadcast import Broadcast
from services.orchestrator.outbox import NotStored, Outbox
from services.orchestrator.ports import LeaseLost, Sessions
from services.orchestrator.records import Lease, Taken
from services.orchestrator.recovery import Recovered
from services.orchestrator.stages import Stages
from services.orchestrator.turn import Options, Peers, TurnRun
from services.orchestrator.types import Failure, TurnRequest
from weft.connection import session_bucket
from weft.errors import Reason, WeftError

_log = logging.getLogger(__name__)
_RENEW_S: Final = 1.0
_LET_GO_S: Final = 2.0  # for giving a lease back


class Moved(Exception):
    """The turn is no longer worked on here, and not over."""


@dataclass(slots=True, eq=False)
class Running:
    """A turn that runs here."""

    lease: Lease
    broadcast: Broadcast
    task: asyncio.Task[None] | None = None
    lost: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Cancel the work, once it has had its first step: a task that never began cleans nothing up."""
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel)

    def lose(self) -> None:
        """Cancel the work because the lease is another's."""
        self.lost = True
        self.stop()


class Works:
    """Owns the running turns."""

    def __init__(self, sessions: Sessions, peers: Peers, options: Options, tracer: Tracer) -> None:
        self._sessions = sessions
        self._peers = peers
        self._options = options
        self._tracer = tracer
        self._running: dict[tuple[str, str], Running] = {}  # by tenant and session: one lease each

    def get(self, tenant: str, session: str) -> Running | None:
        """The turn of a session that runs here."""
        return self._running.get((tenant, session))

    async def close(self) -> None:
        """Cancel all of them and wait until their leases are given back."""
        running = list(self._running.values())
        for one in running:
            one.stop()
        await asyncio.gather(*(one.done.wait() for one in running))

    def start(self, taken: Taken, request: TurnRequest, ledger: LedgerRecorder) -> Running:
        """Begin the work on a turn whose lease was taken. Its calls carry the session's bucket."""
        running = Running(taken.lease, Broadcast(lambda: running.stop()))
        running.broadcast.publish(taken.log)
        self._running[request.tenant, request.session] = running
        bucket = companions.current().bucket
        if bucket is None:
            bucket = session_bucket(f"sessions/{request.session}")
        with companions.bind(replace(companions.current(), bucket=bucket)):
            running.task = asyncio.create_task(self._work(running, taken, request, ledger))
        return running

    async def _work(self, running: Running, taken: Taken, request: TurnRequest, ledger: LedgerRecorder) -> None:
        cause: BaseException | None = None
        try:
            recovered = Recovered.of(taken.log)
            async with asyncio.timeout(ledger.deadline.remaining_s()), asyncio.TaskGroup() as tasks:
                outbox = Outbox(
                    self._sessions,
                    taken.lease,
                    running.broadcast,
                    tasks,
                    next_sequence=recovered.next_sequence,
                    interval_s=self._options.delta_interval_s,
                )
                try:
                    stages = Stages(ledger, self._tracer, self._options.stage_s)
                    await TurnRun(
                        self._peers, self._options, request, taken.history, recovered, taken.lease, outbox, stages
                    ).run()
                finally:
                    outbox.close()
        except (Exception, asyncio.CancelledError) as exc:
            cause = Moved()  # what readers are told if this is broken off, too
            cause = await self._settle(running, _cause_of(exc), ledger.deadline)
            if isinstance(exc, asyncio.CancelledError):
                # TaskGroup's frame (before 3.13) holds the exception that holds the frame, and with it all of the
                # turn: 30 KB that wait for the garbage collector, who seldom comes.
                exc.__traceback__ = None
        finally:
            if self._running.get((request.tenant, request.session)) is running:
                del self._running[request.tenant, request.session]
            running.broadcast.close(cause)
            running.done.set()

    async def _settle(self, running: Running, cause: BaseException, deadline: Deadline) -> BaseException:
        """Leave the turn in the store as its end demands; returns what its readers are told."""
        if running.lost or isinstance(cause, LeaseLost):
            return Moved()
        failure: BaseException = cause
        if isinstance(cause, asyncio.CancelledError):
            failure = Moved()
        elif isinstance(cause, NotStored):
            failure = cause.error
        elif isinstance(cause, TimeoutError):
            failure = deadlines.exceeded("answering", deadline.given_s)
        try:
            async with asyncio.timeout(_LET_GO_S):
                if isinstance(cause, WeftError) and _is_final(cause):
                    await self._sessions.fail(running.lease, Failure.of(cause))
                else:
                    await self._sessions.release(running.lease)
        except (WeftError, TimeoutError, LeaseLost) as exc:
            _log.warning("a lease was not given back and will expire: %s", exc)
        return failure

    async def keep_leases(self) -> None:
        """Renew the leases of what runs, for ever; a turn that lost its lease is stopped."""
        while True:
            await asyncio.sleep(_RENEW_S)
            by_lease = {id(running.lease): running for running in self._running.values()}
            if not by_lease:
                continue
            try:
                lost = await self._sessions.renew([running.lease for running in by_lease.values()])
            except WeftError as err:
                _log.warning("%d leases could not be renewed: %s", len(by_lease), err)
                continue
            for lease in lost:
                if not by_lease[id(lease)].done.is_set():
                    by_lease[id(lease)].lose()


def _is_final(err: WeftError) -> bool:
    return not ladder.is_environmental(err) or err.reason == Reason.ANSWER_INTERRUPTED


def _cause_of(exc: BaseException) -> BaseException:
    """What went wrong first, out of the groups that TaskGroup makes."""
    while isinstance(exc, BaseExceptionGroup):
        lost = exc.subgroup(LeaseLost)
        exc = (lost or exc).exceptions[0]
    return exc

"""Runs jobs: claims them, keeps their leases, hands them to the handler of their kind.

    claim ──> handler runs ──────────────────────────> finish
                 ║ every third of the lease: heartbeat with the newest progress
                 ╟ cancelled by somebody ──> handler is cancelled ──> CANCELLED
                 ╟ lease lost, or not renewed in time ──> handler is cancelled, nothing is written
                 ╟ this process stops ──> handler is cancelled ──> given back, for another to go on at once
                 ╙ handler raises ──> FAILED, or queued again where another try may help

A handler is a coroutine function of a ``Running``. It returns the result's bytes, tells how far it is by
``progress``, and calls ``check`` before each write it makes elsewhere: that raises ``LeaseLost`` as soon as
the lease may have run out by this process's own clock, which a paused process notices before its heartbeat
does. Whatever it did before it was stopped must stand being done again. It may raise ``Park`` to let go of a
job that has nothing to do for a moment.

Errors of a handler: UNAVAILABLE, RESOURCE_EXHAUSTED and EMBEDDER_UNAVAILABLE are tried again, on whichever
worker comes first, and so is what it didn't mean to raise (as INTERNAL, with a log line); others are final.

At most ``slots`` jobs run at once. ``stopping`` ends the claiming, and gives back what was
being claimed; ``close`` ends the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh import context as call_context
from mesh.jobs import Claim, JobProgress, Jobs, LeaseLost
from weft import names
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
_POLL_S: Final = 1.0  # expired leases and due times ring no bell
_RETRY_S: Final = 1.0
_LISTEN_S: Final = 0.25  # between two looks at whether a running job was cancelled
_PASSING_CODES: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})

Handler = Callable[["Running"], Awaitable[bytes]]


class Park(Exception):
    """A handler has nothing to do for ``after_s`` seconds: give the job back until then."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"parked for {after_s} s")
        self.after_s = after_s


class Running:
    """A claimed job, as its handler sees it."""

    def __init__(self, claim: Claim) -> None:
        self.job, self.lease = claim.job, claim.lease
        self.latest = claim.job.progress
        self.safe_until_s = 0.0  # on the monotonic clock
        self.told: JobProgress | None = self.latest  # what the queue knows of
        self.why = ""  # set before the handler is cancelled

    @property
    def fence(self) -> int:
        """The number to hand on to whatever else is written to."""
        return self.lease.fence

    def progress(self, done: int, total: int = 0, unit: str = "", message: str = "") -> None:
        """Tell how far the job is. Costs nothing: the next heartbeat takes the newest along."""
        self.latest = JobProgress(done, total, unit, message)

    def check(self) -> None:
        """Call it before each write elsewhere.

        Raises:
            LeaseLost: the lease may have run out.
        """
        if time.monotonic() >= self.safe_until_s:
            raise LeaseLost(self.lease)

    def renewed(self, asked_s: float) -> None:
        """The lease was prolonged by a call that began at ``asked_s`` of the monotonic clock."""
        self.safe_until_s = asked_s + self.lease.duration_s


class Worker:
    """Runs the jobs of ``handlers``' kinds. Start ``run`` as a task, ``close`` in the end."""

    def __init__(
        self,
        jobs: Jobs,
        handlers: Mapping[str, Handler],
        *,
        owner: str,
        slots: int,
        tracer: Tracer,
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._jobs, self._handlers, self._owner, self._slots = jobs, handlers, owner, slots
        self._tracer, self._stopping = tracer, stopping or asyncio.Event()
        self._tasks: dict[asyncio.Task[None], tuple[Running, asyncio.Task[bytes]]] = {}
        self._freed = asyncio.Event()
        self._claiming: asyncio.Task[Claim | None] | None = None

    async def run(self) -> None:
        """Claim and run jobs until cancelled or told to stop.

        Raises:
            WeftError: STORE_CORRUPT.
        """
        seen = 0
        while not self._stopping.is_set():
            if len(self._tasks) >= self._slots:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                seen = await self._jobs.changed(seen, 0.0)
                claimed = await self._claim()
            except WeftError as err:
                if err.reason == Reason.STORE_CORRUPT:
                    raise
                _log.warning("the job queue cannot be read, trying again: %s", err)
                await asyncio.sleep(_RETRY_S)
                continue
            if claimed is None:
                await self._jobs.changed(seen, _POLL_S)

    async def close(self) -> None:
        """Stop what runs and give it back."""
        self._stopping.set()
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        for running, work in self._tasks.values():
            _stop(running, work, running.why or "closing")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _claim(self) -> Claim | None:
        asked_s = time.monotonic()
        # Shielded, and started in the same step that learns of it: a job is never claimed and then forgotten.
        self._claiming = asyncio.create_task(self._jobs.claim(tuple(self._handlers), self._owner))
        self._claiming.add_done_callback(lambda done: self._start(done, asked_s))
        return await asyncio.shield(self._claiming)

    def _start(self, claiming: asyncio.Task[Claim | None], asked_s: float) -> None:
        claim = None if claiming.cancelled() or claiming.exception() is not None else claiming.result()
        if claim is None:
            return
        running = Running(claim)
        running.renewed(asked_s)
        work = asyncio.create_task(self._handle(running))
        task = asyncio.create_task(self._attend(running, work))
        self._tasks[task] = running, work
        task.add_done_callback(self._ended)
        if self._stopping.is_set():  # told to stop while it asked
            _stop(running, work, "closing")

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._freed.set()
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a job could not be ended; its lease will run out", exc_info=failure)

    async def _attend(self, running: Running, work: asyncio.Task[bytes]) -> None:
        """One job, from its claim to its end."""
        keeping = asyncio.create_task(self._keep(running, work))
        try:
            await asyncio.wait((work,))
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))
        try:
            await self._settle(running, work)
        except LeaseLost as lost:
            _log.warning("%s; another worker goes on", lost)

    async def _handle(self, running: Running) -> bytes:
        job = running.job
        parent = TraceContextTextMapPropagator().extract({names.METADATA_TRACEPARENT: job.traceparent})
        attributes: dict[str, str | int] = {
            names.TENANT: job.tenant,
            names.JOB: f"jobs/{job.id}",
            names.JOB_ATTEMPT: job.attempts,
        }
        with (
            call_context.bind(call_context.CallContext(job.tenant, job.id)),
            self._tracer.start_as_current_span(
                f"job.{job.kind}",
                context=parent,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
        ):
            try:
                return await self._handlers[job.kind](running)
            except WeftError as err:
                span.set_attribute(names.ERROR_REASON, err.reason)
                span.set_status(Status(StatusCode.ERROR))
                raise

    async def _settle(self, running: Running, work: asyncio.Task[bytes]) -> None:
        """Tell the queue how the handler ended."""
        lease = running.lease
        if running.why == "lost":
            raise LeaseLost(lease)
        if work.cancelled():
            if running.why == "cancel":
                await self._jobs.cancelled(lease)
            else:
                await self._jobs.give_back(lease)
            return
        failure = work.exception()
        if failure is None:
            await self._jobs.finish(lease, work.result(), running.latest)
        elif isinstance(failure, Park):
            await self._jobs.give_back(lease, failure.after_s)
        elif isinstance(failure, WeftError):
            passing = failure.code.name in _PASSING_CODES or failure.reason == Reason.EMBEDDER_UNAVAILABLE
            _log.warning("jobs/%s (%s) failed: %s", running.job.id, running.job.kind, failure)
            await self._jobs.fail(lease, failure, retry=passing, passing=passing)
        elif isinstance(failure, LeaseLost):
            raise failure
        else:
            _log.error("the handler of %r failed unexpectedly", running.job.kind, exc_info=failure)
            await self._jobs.fail(lease, _internal(failure), retry=True)

    async def _keep(self, running: Running, work: asyncio.Task[bytes]) -> None:
        """Renew the lease until cancelled; stop ``work`` when the lease is lost or the job was cancelled."""
        lease, seen = running.lease, 0
        interval_s = lease.duration_s / 3
        due_s = running.safe_until_s - 2 * interval_s
        await asyncio.sleep(min(_LISTEN_S, interval_s / 3))  # what was claimed just now needs no looking after
        while True:
            seen = await self._jobs.changed(seen, 0.0)
            try:
                asked_s = time.monotonic()
                if asked_s >= due_s or running.latest != running.told:
                    latest = running.latest
                    cancelling = await self._jobs.heartbeat(lease, latest)
                    running.renewed(asked_s)
                    running.told, due_s = latest, asked_s + interval_s
                else:
                    job = await self._jobs.get(lease.tenant, lease.job)
                    cancelling = job is None or job.cancelling
                if cancelling:
                    return _stop(running, work, "cancel")
                running.check()
            except LeaseLost:
                return _stop(running, work, "lost")
            except WeftError as err:
                if time.monotonic() >= running.safe_until_s:
                    return _stop(running, work, "lost")
                _log.warning("the lease of jobs/%s cannot be renewed, trying again: %s", lease.job, err)
                await asyncio.sleep(min(_RETRY_S, interval_s / 3))
                continue
            await asyncio.sleep(min(_LISTEN_S, interval_s / 3))
            await self._jobs.changed(seen, max(0.0, due_s - time.monotonic()))


def traceparent() -> str:
    """The current span as W3C trace context, for ``Submission``; '' outside of any."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(trace.get_current_span()))
    return carrier.get(names.METADATA_TRACEPARENT, "")


def _stop(running: Running, work: asyncio.Task[bytes], why: str) -> None:
    running.why = why
    work.cancel()


def _internal(failure: BaseException) -> WeftError:
    return error(
        Reason.INTERNAL,
        f"internal error ({type(failure).__name__}); the logs of the services tell more",
        error=type(failure).__name__,
    )

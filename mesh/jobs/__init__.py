"""Long work that outlives the call which asked for it: the port, and what goes through it.

    submit -> QUEUED ──claim──> RUNNING ──finish──> SUCCEEDED
                 ^                 │ ├────fail────> FAILED         (for good, or after too many tries)
                 └── give back, ───┘ └───cancelled─> CANCELLED
                     fail with a retry, lease expired

A job belongs to a tenant and has a *kind*, which says whose handler runs it, and a *key*: the caller's own
id of the request. The same (tenant, kind, key) again is the same job, whatever became of it, so a caller
that doesn't know whether it was heard just asks again.

Who claims a job has it on a *lease*, renewed by ``heartbeat``. A worker that dies stops renewing, and
another one claims the job when the lease has run out. Each claim has a *fence*, a number that grows with
each; every write names it and is refused with ``LeaseLost`` once a higher one was given out. So a worker
that was paused and wakes up can change nothing here, and passes its fence on to whatever else it writes to.

A job is tried a bounded number of times: ``strikes`` counts the claims since it last got further (a worker
that reports progress wipes them), and one too many ends the job as FAILED. Between tries it waits, twice as
long each time. A job given back by a worker that is stopping counts no strike.

The queue is bounded: past ``Limits.max_queued``, ``submit`` refuses with OVERLOADED. Tenants share workers
fairly: among those waiting, the job goes first whose tenant has the fewest running.

Backends are the modules of ``queues``, found by the scheme of a URL; ``tests/conformance/test_jobs.py`` says what
each must keep. ``worker`` runs handlers, ``service`` is ``weft.jobs.v1.JobService``, ``metrics`` shows the backlog.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from weft.errors import Reason, WeftError, error


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays as it is."""
        return self in _ENDED


_ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is, in units of its kind."""

    done: int = 0
    total: int = 0  # 0 while not known
    unit: str = ""
    message: str = ""  # one line for a person


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that is asked for."""

    tenant: str
    kind: str
    key: str  # the caller's id of the request
    payload: bytes  # for the handler; part of what makes a request the same
    max_strikes: int = 5  # claims without any progress between them
    durable: bool = False  # it survives a power cut from when it is in the queue
    traceparent: str = ""  # W3C trace context of the call that asked


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of long work, as it stands."""

    tenant: str
    id: str  # 32 hex digits
    kind: str
    key: str
    payload: bytes
    state: JobState
    progress: JobProgress
    attempts: int  # claims so far
    created_s: float
    updated_s: float  # when ``state`` last changed
    cancelling: bool = False  # somebody asked the worker to stop
    error: WeftError | None = None  # why it failed
    result: bytes = b""  # a serialised google.protobuf.Any
    traceparent: str = ""
    max_strikes: int = 5


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job for a while."""

    tenant: str
    job: str  # id
    owner: str
    fence: int  # grows with each claim of the job
    duration_s: float  # of the lease, counted from each renewal


@dataclass(frozen=True, slots=True)
class Claim:
    """A job, and the lease on it."""

    job: Job
    lease: Lease


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a queue."""

    max_queued: int = 1_000  # jobs that wait, of all tenants
    lease_s: float = 6.0
    backoff_s: float = 1.0  # before the second try; doubles, up to ``max_backoff_s``
    max_backoff_s: float = 60.0
    passing_strikes: int = 60  # where something is away for a while: about 55 minutes
    kept_s: float = 86_400.0  # an ended job is forgotten after that
    retry_after_s: float = 5.0  # what a caller is told who finds the queue full

    def wait_s(self, strikes: int) -> float:
        """How long a job waits after its ``strikes``-th try in vain."""
        return min(self.max_backoff_s, self.backoff_s * 2 ** min(max(0, strikes - 1), 30))


class LeaseLost(Exception):
    """The job was claimed by somebody else, has ended, or is gone: stop working on it, and write nothing."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"the lease of {lease.owner} on jobs/{lease.job} (fence {lease.fence}) is lost")
        self.lease = lease


class Jobs(Protocol):
    """The queue with the records of its jobs. Every method may raise STORE_CORRUPT or DEPENDENCY_UNAVAILABLE."""

    @property
    def limits(self) -> Limits:
        """What it was opened with."""

    # -- for those who ask ----------------------------------------------------------------------------

    async def submit(self, wanted: Submission) -> Job:
        """Put a job in the queue, or return the one that has this tenant, kind and key.

        Raises:
            WeftError: REQUEST_ID_REUSED when that one has another payload; OVERLOADED when the queue is full.
        """

    async def get(self, tenant: str, job: str) -> Job | None:
        """The job, or None."""

    async def find(self, tenant: str, kind: str, key: str) -> Job | None:
        """The job of that key, or None."""

    async def list_jobs(
        self, tenant: str, *, state: JobState | None = None, before: str = "", limit: int = 50
    ) -> tuple[list[Job], str]:
        """A tenant's jobs, newest first, and the ``before`` of the next page ('' at the end)."""

    async def wait(self, tenant: str, job: str, timeout_s: float) -> Job | None:
        """The job when it has ended, or as it stands when the time is up; None where there is none."""

    async def cancel(self, tenant: str, job: str) -> Job | None:
        """Ask a job to stop. A waiting one ends at once, a running one when its worker has noticed."""

    async def retry(self, tenant: str, job: str) -> Job | None:
        """Put a job that FAILED back in the queue, its strikes wiped; any other stays as it is.

        Raises:
            WeftError: OVERLOADED when the queue is full.
        """

    async def hurry(self, tenant: str, job: str) -> None:
        """Let a job that waits for its next try, or was parked, go now."""

    async def delete(self, tenant: str, job: str) -> bool:
        """Forget a job that has ended; whether there was one.

        Raises:
            WeftError: JOB_ACTIVE when it has not ended.
        """

    # -- for workers ----------------------------------------------------------------------------------

    async def claim(self, kinds: tuple[str, ...], owner: str) -> Claim | None:
        """Take the next job of one of ``kinds`` that is due, or whose lease has run out; None if there is none."""

    async def heartbeat(self, lease: Lease, progress: JobProgress | None = None) -> bool:
        """Prolong a lease and note ``progress``; returns whether somebody asked the job to stop.

        Raises:
            LeaseLost: so does every method below.
        """

    async def finish(self, lease: Lease, result: bytes, progress: JobProgress | None = None) -> None:
        """End the job well."""

    async def fail(self, lease: Lease, failure: WeftError, *, retry: bool, passing: bool = False) -> None:
        """End the job badly; with ``retry``, only if it has had all its strikes, else it waits for another try.

        ``passing``: it will do once something else is back, and has ``Limits.passing_strikes``.
        """

    async def cancelled(self, lease: Lease) -> None:
        """End the job as cancelled."""

    async def give_back(self, lease: Lease, after_s: float = 0.0) -> None:
        """Put the job back in the queue, due in ``after_s``: no fault of its own, and no strike."""

    # -- for both -------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``.

        Whoever looks, then waits with the ``seen`` from before the look, misses nothing.
        """

    async def backlog(self) -> Mapping[str, tuple[int, int]]:
        """Jobs that wait and jobs that run, by kind."""

    async def sweep(self) -> bool:
        """Forget a few jobs that ended long ago; returns whether there may be more."""

    async def close(self) -> None:
        """Let go of the store."""


def unknown_job(job: str) -> WeftError:
    """The error for a job that isn't there."""
    return error(
        Reason.JOB_NOT_FOUND,
        f"there is no jobs/{job}; ListJobs tells those there are, and ended ones are forgotten after a day",
        job=f"jobs/{job}",
    )


def queue_full(waiting: int, limits: Limits) -> WeftError:
    """The error for one job too many."""
    return error(
        Reason.OVERLOADED,
        f"{waiting} jobs wait already, which is the limit; try again in {limits.retry_after_s:g} s",
        retry_after_s=limits.retry_after_s,
        waiting=waiting,
        limit=limits.max_queued,
    )


def abandoned(job: str, strikes: int) -> WeftError:
    """The error of a job whose workers kept dying."""
    return error(
        Reason.JOB_ABANDONED,
        f"jobs/{job} was begun {strikes} times without getting any further, and its worker went away each time; "
        "the logs of the services tell more",
        job=f"jobs/{job}",
        tries=strikes,
    )


def key_reused(kind: str, key: str) -> WeftError:
    """The error for a key that came with another request."""
    return error(
        Reason.REQUEST_ID_REUSED,
        f"request_id {key[:128]!r} was used for another {kind} already; use a new request_id for a new request",
        request_id=key[:128],
        kind=kind,
    )


def still_active(job: str, state: JobState) -> WeftError:
    """The error for forgetting a job that has not ended."""
    return error(
        Reason.JOB_ACTIVE,
        f"jobs/{job} is {state}; cancel it first, and delete it when it has ended",
        job=f"jobs/{job}",
        state=state,
    )

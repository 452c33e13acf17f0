"""``client.jobs``: long work that goes on after the call which asked for it.

    job = (await c.ingest("library/", detach=True)).job
    done = await c.jobs.wait(job, on_progress=lambda job: print(job.progress.done, "of", job.progress.total))
    print(done.state, done.error or done.result)

A job is named ``jobs/{id}``; the id alone will do. Jobs that ended are remembered for a day.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf import duration_pb2
from grpc import aio

from weft import convert
from weft.answers import Job
from weft.connection import Connection
from weft.errors import Reason, error
from weft.jobs.v1 import jobs_pb2, jobs_pb2_grpc

OnJob = Callable[[Job], None]
SERVICE: Final = "retriever"  # the one service that runs jobs so far
STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled")
_PAGE: Final = 100
_SLICE_S: Final = 20.0  # one WaitJob; the next goes to whichever replica is there by then
_LOOK_EVERY_S: Final = 0.5
_SLACK_S: Final = 10.0


class Jobs:
    """The jobs of a client's tenant."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s

    async def get(self, job: str) -> Job:
        """One job.

        Raises:
            NotFound: no such job.
        """
        reply = await self._call("GetJob", jobs_pb2.GetJobRequest(name=_name(job)), self._timeout_s)
        return convert.job(reply.job)

    async def list(self, state: str | None = None) -> AsyncIterator[Job]:
        """Jobs, newest first; only those in ``state`` where it is given: "queued", "running", "succeeded"…"""
        request = jobs_pb2.ListJobsRequest(page_size=_PAGE)
        request.state = _state(state)  # type: ignore[assignment]
        while True:
            reply = await self._call("ListJobs", request, self._timeout_s)
            for message in reply.jobs:
                yield convert.job(message)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def wait(self, job: str, timeout_s: float | None = None, *, on_progress: OnJob | None = None) -> Job:
        """The job when it has ended, or as it stands when the time is up: look at ``ended``.

        Args:
            job: its name.
            timeout_s: wait at most this long, in seconds; unset: until it ends.
            on_progress: called with the job about twice a second, in the event loop.
        """
        request = jobs_pb2.WaitJobRequest(name=_name(job))
        until_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            slice_s = max(0.0, min(_LOOK_EVERY_S if on_progress else _SLICE_S, until_s - time.monotonic()))
            request.timeout.CopyFrom(duration_pb2.Duration(nanos=int(slice_s % 1 * 1e9), seconds=int(slice_s)))
            found = convert.job((await self._call("WaitJob", request, slice_s + _SLACK_S)).job)
            if on_progress is not None:
                on_progress(found)
            if found.ended or time.monotonic() >= until_s:
                return found

    async def cancel(self, job: str) -> Job:
        """Ask a job to stop; returns it as it stands. A running one ends a moment later, an ended one stays."""
        reply = await self._call("CancelJob", jobs_pb2.CancelJobRequest(name=_name(job)), self._timeout_s)
        return convert.job(reply.job)

    async def delete(self, job: str) -> None:
        """Forget a job that has ended.

        Raises:
            NotFound: no such job.
            FailedPrecondition: it has not ended.
        """
        await self._call("DeleteJob", jobs_pb2.DeleteJobRequest(name=_name(job)), self._timeout_s)

    async def _call(self, method: str, request: Any, timeout_s: float) -> Any:
        stub = jobs_pb2_grpc.JobServiceStub(self._connection.channel(SERVICE))
        try:
            return await getattr(stub, method)(
                request, timeout=timeout_s, metadata=self._connection.metadata(uuid.uuid4().hex)
            )
        except aio.AioRpcError as exc:
            raise self._connection.explain(exc, SERVICE, timeout_s) from exc


def _name(job: str) -> str:
    return job if job.startswith("jobs/") else f"jobs/{job}"


def _state(state: str | None) -> int:
    if state is None:
        return jobs_pb2.JOB_STATE_UNSPECIFIED
    if state not in STATES:
        raise error(
            Reason.INVALID_FIELD, f"state: is {state!r}; allowed are {', '.join(STATES)}", field="state", value=state
        )
    return jobs_pb2.JobState.Value(f"JOB_STATE_{state.upper()}")

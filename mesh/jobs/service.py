"""``weft.jobs.v1.JobService`` over a queue: protobuf in and out, and no decisions.

Any service that runs jobs binds it (``binding``). The tenant is the call's own: another's jobs are not found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from mesh import context as call_context
from mesh import deadline as call_deadline
from mesh.jobs import Job, Jobs, JobState, unknown_job
from mesh.server import Binding
from mesh.validation import check_name, check_page, invalid
from weft.errors import to_proto
from weft.jobs.v1 import jobs_pb2 as pb
from weft.jobs.v1 import jobs_pb2_grpc

DEFAULT_PAGE: Final = 50
_NAME: Final = re.compile(r"jobs/([0-9a-f]{32})")
_NO_DEADLINE_S: Final = 30.0
_KEEP_BACK_S: Final = 0.25  # of a call's deadline, for the way back
_STATES: Final[Mapping[JobState, pb.JobState]] = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_WANTED: Final[Mapping[int, JobState]] = {number: state for state, number in _STATES.items()}


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """Implements ``weft.jobs.v1.JobService``."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def GetJob(self, request: pb.GetJobRequest, context: aio.ServicerContext) -> pb.GetJobResponse:
        """One job."""
        job_id = _id(request.name)
        return pb.GetJobResponse(job=_found(job_id, await self._jobs.get(_tenant(), job_id)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: aio.ServicerContext) -> pb.ListJobsResponse:
        """The tenant's jobs, newest first."""
        size, token = check_page(request.page_size, request.page_token, default_size=DEFAULT_PAGE)
        state = _state(request.state)
        jobs, following = await self._jobs.list_jobs(_tenant(), state=state, before=token, limit=size)
        return pb.ListJobsResponse(jobs=[to_message(job) for job in jobs], next_page_token=following)

    async def WaitJob(self, request: pb.WaitJobRequest, context: aio.ServicerContext) -> pb.WaitJobResponse:
        """One job, when it has ended or the time is up."""
        job_id = _id(request.name)
        deadline = call_deadline.current() or call_deadline.Deadline.after(_NO_DEADLINE_S)
        remaining_s = deadline.remaining_s()
        timeout_s = remaining_s - min(_KEEP_BACK_S, remaining_s / 4)
        if request.HasField("timeout"):
            wanted_s = request.timeout.ToNanoseconds() / 1e9
            if wanted_s < 0:
                raise invalid("timeout", f"is {wanted_s:g} s; it must not be negative", timeout_s=wanted_s)
            timeout_s = min(timeout_s, wanted_s)
        return pb.WaitJobResponse(job=_found(job_id, await self._jobs.wait(_tenant(), job_id, timeout_s)))

    async def CancelJob(self, request: pb.CancelJobRequest, context: aio.ServicerContext) -> pb.CancelJobResponse:
        """Ask a job to stop."""
        job_id = _id(request.name)
        return pb.CancelJobResponse(job=_found(job_id, await self._jobs.cancel(_tenant(), job_id)))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: aio.ServicerContext) -> pb.DeleteJobResponse:
        """Forget a job that has ended."""
        job_id = _id(request.name)
        if not await self._jobs.delete(_tenant(), job_id):
            raise unknown_job(job_id)
        return pb.DeleteJobResponse()


def binding(jobs: Jobs) -> Binding:
    """The service, ready to be bound by whichever process runs jobs."""
    descriptor = pb.DESCRIPTOR.services_by_name["JobService"]
    return Binding(descriptor, jobs_pb2_grpc.add_JobServiceServicer_to_server, JobServicer(jobs))


def to_message(job: Job) -> pb.Job:
    """A job on the wire."""
    progress = job.progress
    return pb.Job(
        name=f"jobs/{job.id}",
        kind=job.kind,
        state=_STATES[job.state],
        progress=pb.JobProgress(done=progress.done, total=progress.total, unit=progress.unit, message=progress.message),
        error=to_proto(job.error) if job.error is not None else None,
        result=AnyMessage.FromString(job.result) if job.result else None,
        attempts=job.attempts,
        create_time=_time(job.created_s),
        update_time=_time(job.updated_s),
    )


def _found(job_id: str, job: Job | None) -> pb.Job:
    if job is None:
        raise unknown_job(job_id)
    return to_message(job)


def _id(name: str) -> str:
    return check_name("name", name, _NAME, "jobs/0123456789abcdef0123456789abcdef").group(1)


def _state(wanted: int) -> JobState | None:
    if wanted == pb.JOB_STATE_UNSPECIFIED:
        return None
    if wanted not in _WANTED:
        raise invalid("state", f"is {wanted}, which this release doesn't know", value=wanted)
    return _WANTED[wanted]


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _tenant() -> str:
    return call_context.current().tenant

"""JobService on a real wire: names, pages, waiting, cancelling, deleting, and nothing of another tenant's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.trace import NoOpTracer

from mesh.jobs import JobProgress, Limits, Submission, service
from mesh.jobs.queues import sqlite
from mesh.jobs.queues.sqlite import SqliteJobs
from mesh.load import LoadMeter
from mesh.server import MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from weft import names
from weft.errors import Reason, WeftError, error, from_rpc_error
from weft.jobs.v1 import jobs_pb2 as pb
from weft.jobs.v1 import jobs_pb2_grpc


class Served(NamedTuple):
    """A queue, and the service over it."""

    queue: SqliteJobs
    stub: Any


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    queue = await sqlite.open_file(tmp_path / "jobs.db", Limits())
    server = MeshServer(
        tracer=NoOpTracer(),
        metrics=Metrics(service="retriever", instance_id="retriever-1", version="v1"),
        load=LoadMeter(LoadWeights()),
    )
    port = await server.start("127.0.0.1", 0, [service.binding(queue)])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(queue, jobs_pb2_grpc.JobServiceStub(channel))
    await server.stop(0)
    await queue.close()


async def submit(queue: SqliteJobs, key: str, tenant: str = "default") -> str:
    return f"jobs/{(await queue.submit(Submission(tenant, 'work', key, b''))).id}"


async def failure(call: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_job_is_shown_with_its_progress_its_result_and_its_error(served: Served) -> None:
    queue, stub = served
    good, bad = await submit(queue, "good"), await submit(queue, "bad")
    claim = await queue.claim(("work",), "w")
    assert claim is not None
    await queue.heartbeat(claim.lease, JobProgress(1, 4, "documents", "one.txt"))
    shown = (await stub.GetJob(pb.GetJobRequest(name=good), timeout=5)).job
    assert (shown.kind, shown.state, shown.attempts) == ("work", pb.JOB_STATE_RUNNING, 1)
    assert shown.progress == pb.JobProgress(done=1, total=4, unit="documents", message="one.txt")
    assert abs(shown.create_time.ToSeconds() - time.time()) < 60
    result = any_pb2.Any()
    result.Pack(pb.JobProgress(done=4))
    await queue.finish(claim.lease, result.SerializeToString())
    shown = (await stub.GetJob(pb.GetJobRequest(name=good), timeout=5)).job
    unpacked = pb.JobProgress()
    assert shown.state == pb.JOB_STATE_SUCCEEDED
    assert shown.result.Unpack(unpacked)
    assert unpacked.done == 4
    claim = await queue.claim(("work",), "w")
    assert claim is not None
    await queue.fail(claim.lease, error(Reason.COLLECTION_NOT_FOUND, "it is gone", collection="c"), retry=False)
    shown = (await stub.GetJob(pb.GetJobRequest(name=bad), timeout=5)).job
    assert (shown.state, shown.error.reason, shown.error.code) == (
        pb.JOB_STATE_FAILED,
        "COLLECTION_NOT_FOUND",
        "NOT_FOUND",
    )


async def test_jobs_are_listed_newest_first_in_pages_and_by_state(served: Served) -> None:
    queue, stub = served
    made = [await submit(queue, str(number)) for number in range(5)]
    first = await stub.ListJobs(pb.ListJobsRequest(page_size=3), timeout=5)
    rest = await stub.ListJobs(pb.ListJobsRequest(page_size=3, page_token=first.next_page_token), timeout=5)
    assert [job.name for job in (*first.jobs, *rest.jobs)] == made[::-1]
    assert rest.next_page_token == ""
    await stub.CancelJob(pb.CancelJobRequest(name=made[2]), timeout=5)
    cancelled = await stub.ListJobs(pb.ListJobsRequest(state=pb.JOB_STATE_CANCELLED), timeout=5)
    assert [job.name for job in cancelled.jobs] == [made[2]]


async def test_waiting_returns_when_the_job_ends_and_when_the_time_is_up(served: Served) -> None:
    queue, stub = served
    name = await submit(queue, "a")
    began_s = time.monotonic()
    brief = pb.WaitJobRequest(name=name, timeout=duration_pb2.Duration(nanos=200_000_000))
    assert (await stub.WaitJob(brief, timeout=10)).job.state == pb.JOB_STATE_QUEUED
    assert (await stub.WaitJob(pb.WaitJobRequest(name=name), timeout=1)).job.state == pb.JOB_STATE_QUEUED
    assert time.monotonic() - began_s < 8
    waiting = asyncio.ensure_future(stub.WaitJob(pb.WaitJobRequest(name=name), timeout=10))
    await asyncio.sleep(0.1)
    ended_s = time.monotonic()
    await stub.CancelJob(pb.CancelJobRequest(name=name), timeout=5)
    assert (await waiting).job.state == pb.JOB_STATE_CANCELLED
    assert time.monotonic() - ended_s < 5


async def test_only_an_ended_job_is_deleted_and_then_it_is_unknown(served: Served) -> None:
    queue, stub = served
    name = await submit(queue, "a")
    assert (await failure(stub.DeleteJob(pb.DeleteJobRequest(name=name), timeout=5))).reason == "JOB_ACTIVE"
    await stub.CancelJob(pb.CancelJobRequest(name=name), timeout=5)
    await stub.DeleteJob(pb.DeleteJobRequest(name=name), timeout=5)
    for call in (
        stub.DeleteJob(pb.DeleteJobRequest(name=name), timeout=5),
        stub.GetJob(pb.GetJobRequest(name=name), timeout=5),
        stub.WaitJob(pb.WaitJobRequest(name=name), timeout=5),
        stub.CancelJob(pb.CancelJobRequest(name=name), timeout=5),
    ):
        err = await failure(call)
        assert (err.reason, err.metadata["job"]) == ("JOB_NOT_FOUND", name)


async def test_another_tenants_job_is_not_found(served: Served) -> None:
    queue, stub = served
    name = await submit(queue, "a", tenant="one")
    for call, request in (
        (stub.GetJob, pb.GetJobRequest(name=name)),
        (stub.WaitJob, pb.WaitJobRequest(name=name)),
        (stub.CancelJob, pb.CancelJobRequest(name=name)),
        (stub.DeleteJob, pb.DeleteJobRequest(name=name)),
    ):
        err = await failure(call(request, timeout=5, metadata=[(names.METADATA_TENANT, "other")]))
        assert err.reason == "JOB_NOT_FOUND"
    assert not (await stub.ListJobs(pb.ListJobsRequest(), timeout=5)).jobs
    listed = await stub.ListJobs(pb.ListJobsRequest(), timeout=5, metadata=[(names.METADATA_TENANT, "one")])
    assert [job.name for job in listed.jobs] == [name]


async def test_what_is_malformed_is_refused_by_its_field(served: Served) -> None:
    stub = served.stub
    for call, field in (
        (stub.GetJob(pb.GetJobRequest(name="jobs/1"), timeout=5), "name"),
        (stub.CancelJob(pb.CancelJobRequest(), timeout=5), "name"),
        (stub.ListJobs(pb.ListJobsRequest(page_size=5_000), timeout=5), "page_size"),
        (stub.ListJobs(pb.ListJobsRequest(page_token="x"), timeout=5), "page_token"),
        (stub.ListJobs(pb.ListJobsRequest(state=77), timeout=5), "state"),
        (
            stub.WaitJob(
                pb.WaitJobRequest(name="jobs/" + "0" * 32, timeout=duration_pb2.Duration(seconds=-1)), timeout=5
            ),
            "timeout",
        ),
    ):
        err = await failure(call)
        assert (err.reason, err.field) == ("INVALID_FIELD", field)

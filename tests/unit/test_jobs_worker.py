"""The worker: leases kept while a handler runs, and what becomes of a job when anything goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from mesh import context as call_context
from mesh.jobs import Job, JobProgress, JobState, LeaseLost, Limits, Submission, metrics
from mesh.jobs.queues import sqlite
from mesh.jobs.queues.sqlite import SqliteJobs
from mesh.jobs.worker import Handler, Park, Running, Worker, traceparent
from weft.errors import Reason, error

LIMITS = Limits(lease_s=0.6, backoff_s=0.1)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteJobs]:
    opened = await sqlite.open_file(tmp_path / "jobs.db", LIMITS)
    yield opened
    await opened.close()


@asynccontextmanager
async def working(queue: SqliteJobs, handlers: Mapping[str, Handler], slots: int = 4) -> AsyncIterator[Worker]:
    worker = Worker(queue, handlers, owner="w", slots=slots, tracer=NoOpTracer())
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await worker.close()


async def submit(queue: SqliteJobs, kind: str = "work", key: str = "k", **fields: object) -> str:
    return (await queue.submit(Submission("t", kind, key, b"", **fields))).id  # type: ignore[arg-type]


async def ended(queue: SqliteJobs, job: str) -> Job:
    found = await queue.wait("t", job, 10.0)
    assert found is not None
    assert found.state.ended, found
    return found


async def until(queue: SqliteJobs, job: str, state: JobState) -> Job:
    bell = 0
    async with asyncio.timeout(10):
        while True:
            bell = await queue.changed(bell, 0.0)
            found = await queue.get("t", job)
            if found is not None and found.state is state:
                return found
            await queue.changed(bell, 10.0)


async def for_ever(running: Running) -> bytes:
    await asyncio.sleep(60)
    return b""


async def test_a_job_runs_for_its_tenant_and_its_result_and_progress_are_kept(queue: SqliteJobs) -> None:
    async def handler(running: Running) -> bytes:
        running.progress(2, 3, "things", "going")
        return f"{call_context.current().tenant} {running.job.payload!r}".encode()

    async with working(queue, {"work": handler}):
        job = await ended(queue, await submit(queue))
    assert (job.state, job.result, job.attempts) == (JobState.SUCCEEDED, b"t b''", 1)
    assert job.progress == JobProgress(2, 3, "things", "going")


async def test_a_long_job_keeps_its_lease_and_tells_how_far_it_is(queue: SqliteJobs) -> None:
    async def handler(running: Running) -> bytes:
        for number in range(16):
            running.check()
            running.progress(number, 16)
            await asyncio.sleep(LIMITS.lease_s / 8)
        return b"done"

    seen: set[int] = set()
    bell = 0
    async with working(queue, {"work": handler}):
        name = await submit(queue)
        found = await until(queue, name, JobState.RUNNING)
        async with working(queue, {"work": for_ever}):  # would take it if it could
            while not found.state.ended:
                seen.add(found.progress.done)
                bell = await queue.changed(bell, 10.0)
                found = await queue.get("t", name) or found
    assert (found.result, found.attempts) == (b"done", 1)
    assert len(seen) > 3


async def test_no_more_jobs_run_at_once_than_there_are_slots(queue: SqliteJobs) -> None:
    under_way = most = 0

    async def handler(running: Running) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return b""

    async with working(queue, {"work": handler}, slots=3):
        names = [await submit(queue, key=str(number)) for number in range(12)]
        for name in names:
            await ended(queue, name)
    assert most == 3


async def test_a_cancelled_job_stops_soon_and_is_cancelled(queue: SqliteJobs) -> None:
    stopped = asyncio.Event()

    async def handler(running: Running) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return b""

    async with working(queue, {"work": handler}):
        name = await submit(queue)
        await until(queue, name, JobState.RUNNING)
        await queue.cancel("t", name)
        job = await ended(queue, name)
    assert job.state is JobState.CANCELLED
    assert stopped.is_set()


async def test_a_process_that_was_paused_too_long_is_stopped_and_its_check_refuses(
    queue: SqliteJobs, tmp_path: Path
) -> None:
    stopped, refused = asyncio.Event(), False

    async def claim_elsewhere() -> None:
        another = await sqlite.open_file(tmp_path / "jobs.db", LIMITS)
        await asyncio.sleep(LIMITS.lease_s + 0.1)
        assert await another.claim(("work",), "another") is not None
        await another.close()

    async def handler(running: Running) -> bytes:
        nonlocal refused
        if running.job.attempts > 1:
            return b"second"
        pause = threading.Thread(target=asyncio.run, args=(claim_elsewhere(),))
        pause.start()
        pause.join()  # the whole process stands still, and its loop with it
        try:
            running.check()
        except LeaseLost:
            refused = True
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return b"first"

    async with working(queue, {"work": handler}):
        name = await submit(queue)
        job = await ended(queue, name)  # ``another`` never renews: the lease runs out once more
    assert (job.result, job.attempts) == (b"second", 3)
    assert stopped.is_set()
    assert refused


async def test_work_stops_when_its_lease_runs_out_while_the_queue_is_away(
    queue: SqliteJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = asyncio.Event()

    async def away(*_: object) -> None:
        raise error(Reason.DEPENDENCY_UNAVAILABLE, "away")

    async def handler(running: Running) -> bytes:
        if running.job.attempts > 1:
            return b"again"
        monkeypatch.setattr(queue, "heartbeat", away)
        monkeypatch.setattr(queue, "get", away)
        try:
            await asyncio.sleep(60)
        finally:
            monkeypatch.undo()
            stopped.set()
        return b"first"

    async with working(queue, {"work": handler}):
        name = await submit(queue)
        await asyncio.wait_for(stopped.wait(), 10)
        assert (await ended(queue, name)).result == b"again"


async def test_a_failure_that_may_pass_is_tried_again_and_one_for_good_is_not(queue: SqliteJobs) -> None:
    async def passing(running: Running) -> bytes:
        if running.job.attempts < 3:
            raise error(Reason.DEPENDENCY_UNAVAILABLE, "away")
        return b"in the end"

    async def final(running: Running) -> bytes:
        raise error(Reason.COLLECTION_NOT_FOUND, "gone", collection="c")

    async def broken(running: Running) -> bytes:
        raise KeyError("not foreseen")

    async with working(queue, {"passing": passing, "final": final, "broken": broken}):
        names = [await submit(queue, kind, max_strikes=3) for kind in ("passing", "final", "broken")]
        good, bad, odd = [await ended(queue, name) for name in names]
    assert (good.state, good.result, good.attempts) == (JobState.SUCCEEDED, b"in the end", 3)
    assert (bad.state, bad.attempts) == (JobState.FAILED, 1)
    assert bad.error is not None
    assert bad.error.reason == "COLLECTION_NOT_FOUND"
    assert (odd.state, odd.attempts) == (JobState.FAILED, 3)
    assert odd.error is not None
    assert (odd.error.reason, odd.error.metadata) == ("INTERNAL", {"error": "KeyError"})


async def test_a_parked_job_lets_others_go_and_comes_back(queue: SqliteJobs) -> None:
    order = []

    async def handler(running: Running) -> bytes:
        order.append(running.job.key)
        if running.job.key == "slow" and running.job.attempts < 3:
            raise Park(0.1)
        return b""

    async with working(queue, {"work": handler}, slots=1):
        slow, quick = await submit(queue, key="slow"), await submit(queue, key="quick")
        assert (await ended(queue, quick)).state is JobState.SUCCEEDED
        assert (await ended(queue, slow)).attempts == 3
    assert order == ["slow", "quick", "slow", "slow"]


async def test_a_worker_that_stops_gives_its_jobs_back_for_another_to_go_on_at_once(queue: SqliteJobs) -> None:
    async with working(queue, {"work": for_ever}):
        name = await submit(queue)
        await until(queue, name, JobState.RUNNING)
    there = await queue.get("t", name)
    assert there is not None
    assert there.state is JobState.QUEUED

    async def handler(running: Running) -> bytes:
        return b"went on"

    async with working(queue, {"work": handler}):
        job = await ended(queue, name)
    assert (job.result, job.attempts) == (b"went on", 2)


async def test_a_worker_that_is_told_to_stop_claims_nothing_more_but_ends_what_it_has(queue: SqliteJobs) -> None:
    stopping, started, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(running: Running) -> bytes:
        started.set()
        await go_on.wait()
        return b""

    worker = Worker(queue, {"work": handler}, owner="w", slots=2, tracer=NoOpTracer(), stopping=stopping)
    task = asyncio.create_task(worker.run())
    first = await submit(queue, key="first")
    await asyncio.wait_for(started.wait(), 5.0)
    stopping.set()
    second = await submit(queue, key="second")
    await asyncio.wait_for(task, 5.0)
    go_on.set()
    assert (await ended(queue, first)).state is JobState.SUCCEEDED
    await worker.close()  # a claim that was under way when it was told is given back
    still = await queue.get("t", second)
    assert still is not None
    assert still.state is JobState.QUEUED


async def test_a_job_s_span_belongs_to_the_trace_that_asked_for_it(queue: SqliteJobs) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")

    async def handler(running: Running) -> bytes:
        return b""

    with tracer.start_as_current_span("asking") as asking:
        name = (await queue.submit(Submission("t", "work", "k", b"", traceparent=traceparent()))).id
    worker = Worker(queue, {"work": handler}, owner="w", slots=1, tracer=tracer)
    task = asyncio.create_task(worker.run())
    await ended(queue, name)
    task.cancel()
    await worker.close()
    (span,) = [span for span in spans.get_finished_spans() if span.name == "job.work"]
    assert span.context.trace_id == asking.get_span_context().trace_id
    assert span.attributes is not None
    assert (span.attributes["weft.job"], span.attributes["weft.tenant"]) == (f"jobs/{name}", "t")


async def test_the_backlog_is_shown_as_gauges(queue: SqliteJobs) -> None:
    registry = CollectorRegistry()
    for key in ("a", "b"):
        await submit(queue, key=key)
    await queue.claim(("work",), "w")
    task = asyncio.create_task(metrics.watch(queue, ("work", "idle"), registry))
    await asyncio.sleep(0.5)  # the first look is at once
    task.cancel()
    values = {
        (name, kind): registry.get_sample_value(name, {"kind": kind})
        for name in ("weft_jobs_waiting", "weft_jobs_running")
        for kind in ("work", "idle")
    }
    assert list(values.values()) == [1, 0, 1, 0]

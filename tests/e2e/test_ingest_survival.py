"""An ingest outlives the retriever that took it in: real processes over one store, killed and stopped in mid-work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.retriever_process import process
from tests.support.retriever_server import parts, start
from weft.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

pytestmark = pytest.mark.timeout(240)
CHUNKS = 40  # more than one group, so that documents are staged before they are published
DOCUMENTS = {
    f"{number}.txt": "\n\n".join(f"doc{number} part{part}. " + "It goes on. " * 70 for part in range(CHUNKS))
    for number in range(240)
}


class Replica:
    """Stubs of one process."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.retriever: Any = retriever_pb2_grpc.RetrieverServiceStub(channel)
        self.jobs: Any = jobs_pb2_grpc.JobServiceStub(channel)

    async def detached(self) -> str:
        """Ingest, and return the job's name once all is uploaded."""
        messages = [start(request_id="r", detach=True), *parts(DOCUMENTS)[1:]]
        (answer,) = [m async for m in self.retriever.IngestDocuments(iter(messages), timeout=60)]
        return str(answer.finished.job)

    async def until_done(self, name: str, documents: int) -> jobs_pb2.Job:
        """The job, once so many of its documents are done."""
        async with asyncio.timeout(60):
            while (job := (await self.jobs.GetJob(jobs_pb2.GetJobRequest(name=name), timeout=5)).job) is not None:
                if job.progress.done >= documents:
                    return job
                assert job.state != jobs_pb2.JOB_STATE_FAILED, job
                await asyncio.sleep(0.05)
        raise AssertionError

    async def ended(self, name: str) -> jobs_pb2.Job:
        job = (await self.jobs.WaitJob(jobs_pb2.WaitJobRequest(name=name), timeout=120)).job
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
        return job

    async def all_there_once(self) -> None:
        """Every document is in, whole, and nothing of it twice."""
        request = pb.ListDocumentsRequest(page_size=1_000)
        listed = (await self.retriever.ListDocuments(request, timeout=5)).documents
        assert sorted(document.source for document in listed) == sorted(DOCUMENTS)
        assert {document.chunk_count for document in listed} == {CHUNKS}
        collection = (
            await self.retriever.GetCollection(pb.GetCollectionRequest(name="collections/default"), timeout=5)
        ).collection
        assert (collection.document_count, collection.chunk_count) == (len(DOCUMENTS), len(DOCUMENTS) * CHUNKS)
        assert len({document.epoch.sequence for document in listed}) == len(DOCUMENTS)
        for number in (0, len(DOCUMENTS) // 2, len(DOCUMENTS) - 1):
            search = pb.SearchRequest(query=f"doc{number}", top_k=100, min_epoch=collection.epoch)
            hits = (await self.retriever.Search(search, timeout=10)).hits
            names = [hit.passage.name for hit in hits if f"doc{number} " in hit.passage.text]
            assert len(names) == len(set(names)) == CHUNKS


@contextlib.asynccontextmanager
async def replica(place: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Replica]]:
    async with process(place) as (started, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield started, Replica(channel)


def kept_bytes(place: Path) -> list[Path]:
    return [path for path in (place / "blobs").rglob("*") if path.is_file()]


async def test_killed_in_mid_ingest_another_replica_finishes_and_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    messages = [start(request_id="r"), *parts(DOCUMENTS)[1:]]

    async def watch(one: Replica, killed: asyncio.subprocess.Process) -> None:
        async for message in one.retriever.IngestDocuments(iter(messages), timeout=60):
            acknowledged.add(message.progress.source)
            if len(acknowledged) > 20 and killed.returncode is None:
                killed.kill()
                await killed.wait()

    async with replica(tmp_path) as (killed, one):  # alone, so that the job is its own
        with pytest.raises(grpc.aio.AioRpcError):
            await watch(one, killed)
    async with replica(tmp_path) as (_, other):
        assert 20 < len(acknowledged) < len(DOCUMENTS)
        # Whoever asked, and doesn't know what became of it, asks again and is told.
        again = [m async for m in other.retriever.IngestDocuments(iter(messages), timeout=60)]
        assert acknowledged <= {m.progress.source for m in again[:-1] if m.progress.epoch.sequence}
        assert again[-1].finished.documents == len(DOCUMENTS)
        assert not again[-1].finished.failed
        (job,) = (await other.jobs.ListJobs(jobs_pb2.ListJobsRequest(), timeout=5)).jobs
        assert job.attempts > 1
        await other.all_there_once()
        assert kept_bytes(tmp_path) == []


async def test_a_replica_that_is_stopped_hands_its_job_over_at_once(tmp_path: Path) -> None:
    async with replica(tmp_path) as (stopped, one), replica(tmp_path) as (_, other):
        name = await one.detached()
        done = (await one.until_done(name, 10)).progress.done
        stopped.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(stopped.wait(), 10) == 0
        job = (await other.jobs.GetJob(jobs_pb2.GetJobRequest(name=name), timeout=5)).job
        assert job.state != jobs_pb2.JOB_STATE_RUNNING or job.attempts > 1  # its lease would go on for 6 s
        await other.until_done(name, min(done + 5, len(DOCUMENTS)))
        await other.ended(name)
        await other.all_there_once()


async def test_killed_again_and_again_an_ingest_gets_to_its_end(tmp_path: Path) -> None:
    async with replica(tmp_path) as (_, first):
        name = await first.detached()
        done = (await first.until_done(name, 5)).progress.done
    async with replica(tmp_path) as (_, alone):  # it goes on when the lease of the one before has run out
        await alone.until_done(name, min(done + 20, len(DOCUMENTS)))
    async with replica(tmp_path) as (_, last):
        await last.ended(name)  # a quick machine may be through before any kill: how often it was begun says nothing
        await last.all_there_once()

"""The SDK's jobs against a real retriever: detached ingests, waiting, cancelling, moving a collection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import weft
from tests.support.retriever_server import served

MANY = [weft.Document(f"{number}.txt", f"document{number} goes on. " * 4_000) for number in range(40)]


async def test_a_detached_ingest_is_awaited_with_its_progress_and_its_result(tmp_path: Path) -> None:
    seen: list[int] = []
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        uploaded = await c.ingest([*MANY, weft.Document("bad.bin", b"\x00\x01")], detach=True)
        assert (uploaded.documents, uploaded.epoch, uploaded.failed) == (0, None, ())
        job = await c.jobs.wait(uploaded.job, on_progress=lambda job: seen.append(job.progress.done))
        assert (job.name, job.kind, job.state, job.ended, job.error) == (
            uploaded.job,
            "ingest",
            "succeeded",
            True,
            None,
        )
        assert job.progress == weft.JobProgress(41, 41, "documents", job.progress.message)
        assert seen == sorted(seen)
        assert job.result is not None
        assert (job.result.documents, [failed.source for failed in job.result.failed]) == (40, ["bad.bin"])
        assert job.updated_s >= job.created_s > 0
        found = await c.search("document7", min_epoch=job.result.epoch)
        assert found.hits[0].source == "7.txt"


async def test_waiting_ends_with_the_time_and_a_cancelled_job_ends_soon(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        name = (await c.ingest(MANY, detach=True)).job
        running = await c.jobs.wait(name, 0.05)
        assert not running.ended
        with pytest.raises(weft.FailedPrecondition) as caught:
            await c.jobs.delete(name)
        assert caught.value.reason == "JOB_ACTIVE"
        await c.jobs.cancel(name.removeprefix("jobs/"))
        assert (await c.jobs.wait(name, 10)).state == "cancelled"
        await c.jobs.delete(name)
        with pytest.raises(weft.NotFound) as missing:
            await c.jobs.get(name)
        assert missing.value.reason == "JOB_NOT_FOUND"


async def test_jobs_are_listed_newest_first_by_state_and_for_their_tenant_only(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        names = [(await c.ingest(weft.Document(f"{n}.txt", "text"), detach=True)).job for n in range(3)]
        await asyncio.gather(*(c.jobs.wait(name) for name in names))
        assert [job.name async for job in c.jobs.list()] == names[::-1]
        assert [job.name async for job in c.jobs.list("succeeded")] == names[::-1]
        assert [job.name async for job in c.jobs.list("failed")] == []
        with pytest.raises(weft.InvalidArgument) as caught:
            _ = [job async for job in c.jobs.list("done")]
        assert caught.value.field == "state"
        async with weft.Client(target=retriever.target, tenant="other") as stranger:
            assert [job async for job in stranger.jobs.list()] == []
            with pytest.raises(weft.NotFound):
                await stranger.jobs.get(names[0])


async def test_a_collection_is_moved_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever, weft.Client(target=retriever.target) as c:
        await c.ingest(weft.Document("a.txt", "text"), collection="notes")
        job = await c.jobs.wait((await c.reindex("notes", "none:")).name)
        assert (job.kind, job.state, job.result) == ("reindex", "succeeded", None)
        with pytest.raises(weft.NotFound) as missing:
            await c.reindex("nobody", "none:")
        assert missing.value.reason == "COLLECTION_NOT_FOUND"
        with pytest.raises(weft.InvalidArgument):
            await c.reindex("notes", "unheard-of:")

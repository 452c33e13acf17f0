"""Moving a collection to another embedder: searched, changed and watched by a lagging replica all the while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.trace import NoOpTracer

from mesh.deadline import Deadline
from mesh.jobs import Job, JobState
from mesh.jobs.worker import Running, Worker
from services.retriever.documents.limits import Limits
from services.retriever.documents.parsing import Parsers
from services.retriever.ingest import reindex
from services.retriever.ingest.preparing import Preparer
from services.retriever.ingest.reindex import Reindexer
from services.retriever.ingest.sweeping import remove_half_made
from services.retriever.logs import sqlite
from services.retriever.ports import Changes, Embedder, Log
from services.retriever.replicas.replica import Replica
from services.retriever.types import Collection, CollectionKey, Epoch, Query, Vectors
from services.retriever.workers import Workers
from tests.support.retrieval import KEY, OPENERS, BagOfWords, House, house, indexes, put
from weft.errors import Reason, WeftError


class Other(BagOfWords):
    """Another embedder: the same words, in another space. As slow as it is told."""

    url = "other:"
    pause_s = 0.0
    embedded: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.embedded = []
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.gate.wait(10)
        time.sleep(self.pause_s)
        self.embedded += texts
        return np.ascontiguousarray(super().embed(texts)[:, ::-1])

    def embed_query(self, text: str) -> Vectors:
        return np.ascontiguousarray(super().embed([text])[:, ::-1])


def openers(other: Other) -> Mapping[str, Callable[[], Embedder]]:
    return {**OPENERS, "other:": lambda: other}


@asynccontextmanager
async def working(of: House) -> AsyncIterator[Worker]:
    """A worker that reindexes."""
    reindexer = Reindexer(of.log, of.embedders, Preparer(of.log, of.workers, Parsers(Limits(), 1)))

    async def handle(running: Running) -> bytes:
        return str((await reindexer.run(running)).epoch).encode()

    worker = Worker(of.jobs, {reindex.KIND: handle}, owner="w", slots=2, tracer=NoOpTracer())
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await worker.close()


async def filled(of: House, count: int = 20) -> Collection:
    made = await of.library.create_collection(KEY, "bag:")
    for number in range(count):
        await put(of.log, made, f"{number}.txt", f"the word{number} alone")
    return made


async def ended(of: House, job: Job) -> Job:
    found = await of.jobs.wait("default", job.id, 20.0)
    assert found is not None
    assert found.state.ended, found
    return found


async def sources(of: House, text: str, epoch: Epoch | None = None) -> list[str]:
    found = await of.searcher.search(Query(KEY, text, min_epoch=epoch, explain=True), Deadline.after(5))
    return [hit.document.source for hit in found.hits]


async def test_all_documents_are_found_by_the_new_embedder_on_every_replica(tmp_path: Path) -> None:
    other = Other()
    async with (
        house(tmp_path, openers=openers(other)) as one,
        house(tmp_path, openers=openers(other)) as two,
        working(one),
    ):
        old = await filled(one)
        job = await ended(one, await one.library.reindex(KEY, "other:"))
        assert (job.state, job.progress.done, job.progress.total) == (JobState.SUCCEEDED, 20, 20)
        new = await one.library.get_collection(KEY)
        assert (new.embedder, new.document_count, new.created_s) == ("other:", 20, old.created_s)
        assert new.id != old.id
        epoch = Epoch(one.log.log_id, new.sequence)
        for replica in (one, two):
            for number in range(20):
                assert (await sources(replica, f"word{number}", epoch))[0] == f"{number}.txt"
            assert replica.replica.state.views[KEY].collection.embedder == "other:"
            assert set(replica.replica.state.views) == {KEY}
        assert [there.key for there in await two.library.list_collections("default", "", 9)] == [KEY]
        # It is there already: asked again, there is nothing to do.
        again = await ended(one, await one.library.reindex(KEY, "other:"))
        assert again.id != job.id
        assert again.state is JobState.SUCCEEDED
        assert sum("alone" in text for text in other.embedded) == 20


async def test_it_is_searched_and_changed_all_the_while_and_nothing_is_lost(tmp_path: Path) -> None:
    other = Other()
    other.pause_s = 0.03
    async with (
        house(tmp_path, openers=openers(other)) as one,
        house(tmp_path, openers=openers(other)) as two,
        working(one),
    ):
        await filled(one)
        there = await one.library.get_collection(KEY)
        await two.replica.reach(Epoch(two.log.log_id, there.sequence), Deadline.after(5))
        job = await one.library.reindex(KEY, "other:")
        searches, expected = 0, {f"{number}.txt" for number in range(20)}
        number = 100
        while not (now := await one.jobs.get("default", job.id) or job).state.ended:
            # What an ingest does: it follows the collection to where it went.
            for source in (f"{number}.txt", f"{number % 10}.txt"):
                made = await one.library.get_collection(KEY)
                try:
                    await put_as(one, made, source, f"the word{number} anew", other)
                except WeftError as err:
                    assert err.reason == Reason.COLLECTION_NOT_FOUND
                    continue
                expected.add(source)
            if number % 3 == 0 and f"{number - 1}.txt" in expected:
                await one.library.delete_document(KEY, (await document(one, f"{number - 1}.txt")))
                expected.discard(f"{number - 1}.txt")
            assert (await sources(two, "word13"))[0] == "13.txt"
            searches += 1
            number += 1
            await asyncio.sleep(0.1)
        assert now.state is JobState.SUCCEEDED, now
        assert searches > 3
        new = await one.library.get_collection(KEY)
        listed = {document.source for document in await one.library.list_documents(KEY, "", 1_000)}
        assert listed == expected
        assert (new.embedder, new.document_count) == ("other:", len(expected))
        await two.replica.reach(Epoch(two.log.log_id, new.sequence), Deadline.after(5))
        assert two.replica.state.views[KEY].live_count == new.chunk_count


async def put_as(of: House, collection: Collection, source: str, text: str, other: Other) -> None:
    """As ``put``, with whichever embedder the collection has."""
    if collection.embedder == other.url:
        await put(of.log, collection, source, text, other)
    else:
        await put(of.log, collection, source, text)


async def document(of: House, source: str) -> str:
    (name,) = [there.name for there in await of.library.list_documents(KEY, "", 1_000) if there.source == source]
    return name


class Paged:
    """A log that is read a chunk at a time."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.log_id = log.log_id

    async def read(self, after: int) -> Changes:
        return await self._log.read(after, 1)


async def test_a_replica_that_lags_behind_never_shows_the_collection_gone_or_half_full(tmp_path: Path) -> None:
    async with house(tmp_path, openers=openers(Other())) as one, working(one):
        made = await filled(one)
        log = await sqlite.open_file(tmp_path / "log.db")
        workers = Workers("lagging", 1, 10)
        lagging = Replica(Paged(log), indexes(), workers)  # type: ignore[arg-type]
        await lagging.load()
        await put(one.log, made, "last.txt", "put before the move")
        await ended(one, await one.library.reindex(KEY, "other:"))
        new = await one.library.get_collection(KEY)
        await put_as(one, new, "later.txt", "put behind the move", Other())
        counts, pages = [], 0
        while (more := await lagging._apply_page()) or lagging.state.sequence <= new.sequence:
            counts.append(lagging.state.views[KEY].live_count)
            pages += 1
            assert more
        assert pages > 20
        assert set(counts) <= {20, 21, 22}
        assert lagging.state.views[KEY].live_count == 22
        assert lagging.state.views[KEY].collection.id == new.id
        await log.close()
        workers.close()


async def test_another_worker_goes_on_where_one_stopped(tmp_path: Path) -> None:
    other = Other()
    other.pause_s = 0.02
    async with house(tmp_path, openers=openers(other)) as one:
        await filled(one)
        async with working(one):
            job = await one.library.reindex(KEY, "other:")
            async with asyncio.timeout(10):
                while len(other.embedded) < 6:  # noqa: ASYNC110 - it is counted on a thread
                    await asyncio.sleep(0.01)
        assert (await one.library.get_collection(KEY)).embedder == "bag:"
        async with working(one):
            done = await ended(one, job)
        assert (done.state, done.attempts) == (JobState.SUCCEEDED, 2)
        assert 20 <= len(other.embedded) <= 22  # at most what was under way is done twice


async def test_a_cancelled_move_leaves_the_collection_as_it_was(tmp_path: Path) -> None:
    other = Other()
    other.pause_s = 0.05
    async with house(tmp_path, openers=openers(other)) as one, working(one):
        made = await filled(one)
        job = await one.library.reindex(KEY, "other:")
        async with asyncio.timeout(10):
            while len(other.embedded) < 3:  # noqa: ASYNC110 - it is counted on a thread
                await asyncio.sleep(0.01)
        await one.jobs.cancel("default", job.id)
        assert (await ended(one, job)).state is JobState.CANCELLED
        assert (await one.library.get_collection(KEY)).id == made.id
        assert await one.log.get_collection(reindex.aside(KEY)) is None
        assert (await sources(one, "word7"))[0] == "7.txt"


async def test_what_a_move_left_that_was_given_up_is_swept_but_not_what_one_is_at(tmp_path: Path) -> None:
    other = Other()
    other.pause_s = 0.02
    async with house(tmp_path, openers=openers(other)) as one:
        await filled(one)
        async with working(one):
            job = await one.library.reindex(KEY, "other:")
            async with asyncio.timeout(10):
                while len(other.embedded) < 3:  # noqa: ASYNC110 - it is counted on a thread
                    await asyncio.sleep(0.01)
            await remove_half_made(one.jobs, one.log, [KEY, reindex.aside(KEY)])
            assert await one.log.get_collection(reindex.aside(KEY)) is not None
        await remove_half_made(one.jobs, one.log, [KEY, reindex.aside(KEY)])
        assert await one.log.get_collection(reindex.aside(KEY)) is not None  # it waits for another worker
        await one.jobs.cancel("default", job.id)
        await remove_half_made(one.jobs, one.log, [KEY, reindex.aside(KEY)])
        assert await one.log.get_collection(reindex.aside(KEY)) is None
        assert (await one.library.get_collection(KEY)).document_count == 20


async def test_a_move_whose_half_is_swept_begins_anew(tmp_path: Path) -> None:
    other = Other()
    other.pause_s = 0.02
    async with house(tmp_path, openers=openers(other)) as one, working(one):
        await filled(one)
        job = await one.library.reindex(KEY, "other:")
        async with asyncio.timeout(10):
            while len(other.embedded) < 3:  # noqa: ASYNC110 - it is counted on a thread
                await asyncio.sleep(0.01)
        await one.log.delete_collection(reindex.aside(KEY))
        assert (await ended(one, job)).state is JobState.SUCCEEDED
        moved = await one.library.get_collection(KEY)
        assert (moved.embedder, moved.document_count) == ("other:", 20)


async def test_a_second_move_waits_for_the_first_and_a_deleted_collection_ends_it(tmp_path: Path) -> None:
    other = Other()
    other.gate.clear()
    async with house(tmp_path, openers=openers(other)) as one, working(one):
        await filled(one)
        job = await one.library.reindex(KEY, "other:")
        assert (await one.library.reindex(KEY, "other:")).id == job.id
        with pytest.raises(WeftError) as caught:
            await one.library.reindex(KEY, "none:")
        assert (caught.value.reason, caught.value.metadata["job"]) == ("JOB_ACTIVE", f"jobs/{job.id}")
        await one.library.delete_collection(KEY)
        other.gate.set()
        failed = await ended(one, job)
        assert failed.error is not None
        assert failed.error.reason == "COLLECTION_NOT_FOUND"
        assert await one.log.get_collection(reindex.aside(KEY)) is None


async def test_of_moves_asked_for_in_the_same_moment_one_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path, openers=openers(Other())) as one:
        await filled(one)
        asked = await asyncio.gather(*(one.library.reindex(KEY, "other:") for _ in range(8)))
        assert len({job.id for job in asked}) == 1
        states = {job.id: job.state for job in (await one.jobs.list_jobs(KEY.tenant))[0]}
        assert states.pop(asked[0].id) is JobState.QUEUED
        assert set(states.values()) <= {JobState.CANCELLED}


async def test_what_cannot_be_moved_is_refused_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        with pytest.raises(WeftError) as caught:
            await one.library.reindex(CollectionKey("default", "nobody"), "bag:")
        assert caught.value.reason == "COLLECTION_NOT_FOUND"
        await filled(one, 1)
        with pytest.raises(WeftError) as caught:
            await one.library.reindex(KEY, "away:")
        assert caught.value.reason == "EMBEDDER_UNAVAILABLE"

"""Ingest as a job on a real wire: the same request again, callers that go away, detaching, cancelling, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from mesh.jobs import Limits, Submission
from mesh.jobs.queues import sqlite
from services.retriever.ingest import ingesting
from services.retriever.ingest.uploads import Item
from services.retriever.intakes import sqlite as intakes
from services.retriever.types import CollectionKey, Outcome, document_name
from tests.support.retriever_server import Served, failure, header, parts, served, start
from weft.errors import Reason, WeftError, error
from weft.jobs.v1 import jobs_pb2
from weft.retriever.v1 import retriever_pb2 as pb

INDEXED, UNCHANGED = pb.INGEST_OUTCOME_INDEXED, pb.INGEST_OUTCOME_UNCHANGED
DOCUMENTS = {f"{number}.txt": f"text of number{number}" for number in range(5)}
LONG = {f"{number}.txt": f"document{number} goes on. " * 4_000 for number in range(60)}  # some 30 ms each


async def ended(retriever: Served, name: str) -> jobs_pb2.Job:
    job = (await retriever.jobs.WaitJob(jobs_pb2.WaitJobRequest(name=name), timeout=30)).job
    assert job.state not in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING)
    return job


async def only_job(retriever: Served) -> jobs_pb2.Job:
    (job,) = (await retriever.jobs.ListJobs(jobs_pb2.ListJobsRequest(), timeout=5)).jobs
    return job


async def until(retriever: Served, seen: Callable[[Sequence[jobs_pb2.Job]], bool]) -> Sequence[jobs_pb2.Job]:
    """The jobs, once ``seen`` likes them."""
    async with asyncio.timeout(20):
        while True:
            jobs = (await retriever.jobs.ListJobs(jobs_pb2.ListJobsRequest(), timeout=5)).jobs
            if seen(jobs):
                return jobs
            await asyncio.sleep(0.02)


async def listed(retriever: Served) -> list[str]:
    response = await retriever.stub.ListDocuments(pb.ListDocumentsRequest(page_size=1_000), timeout=5)
    return sorted(document.source for document in response.documents)


def result(job: jobs_pb2.Job) -> pb.IngestFinished:
    finished = pb.IngestFinished()
    assert job.result.Unpack(finished)
    return finished


async def test_the_same_request_again_gets_the_same_answer_and_does_nothing(tmp_path: Path) -> None:
    documents = DOCUMENTS | {"bad.bin": b"\x00\x01"}
    async with served(tmp_path) as retriever:
        first = await retriever.ingest(documents, request_id="r")
        assert [p.outcome for p in first.progress[:5]] == [INDEXED] * 5
        again = await retriever.ingest(documents, request_id="r")
        assert again == first
        job = await only_job(retriever)
        assert (job.kind, job.state, job.attempts) == ("ingest", jobs_pb2.JOB_STATE_SUCCEEDED, 1)
        assert result(job) == first.finished
    async with served(tmp_path) as restarted:
        assert await restarted.ingest(documents, request_id="r") == first


@pytest.mark.parametrize(
    "documents",
    [
        DOCUMENTS | {"0.txt": "another text"},
        DOCUMENTS | {"more.txt": "text"},
        {"0.txt": DOCUMENTS["0.txt"]},
        dict(reversed(DOCUMENTS.items())),
        {},
    ],
    ids=["changed", "more", "fewer", "reordered", "none"],
)
async def test_other_documents_under_the_same_request_id_are_refused(
    documents: dict[str, str | bytes], tmp_path: Path
) -> None:
    async with served(tmp_path) as retriever:
        first = await retriever.ingest(DOCUMENTS, request_id="r")
        err = await failure(retriever.ingest(documents, request_id="r"))
        assert err.reason == "REQUEST_ID_REUSED"
        err = await failure(retriever.ingest(DOCUMENTS, request_id="r", collection="collections/other"))
        assert err.reason == "REQUEST_ID_REUSED"
        assert await retriever.ingest(DOCUMENTS, request_id="r") == first
        assert await retriever.sources("another", min_epoch=first.finished.epoch) == []
        other_tenant = await retriever.ingest(documents, request_id="r", tenant="other")
        assert other_tenant.finished.documents == len(documents)


async def test_a_refusal_in_the_middle_of_the_reports_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest(DOCUMENTS, request_id="r")
        for changed in range(200):
            others = {} if changed % 2 else DOCUMENTS | {"4.txt": "another text"}
            refused = failure(retriever.ingest(others, request_id="r"))
            assert (await asyncio.wait_for(refused, 10)).reason == "REQUEST_ID_REUSED"


async def test_a_detached_ingest_is_acknowledged_when_it_is_uploaded_and_its_job_does_the_rest(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(LONG, request_id="r", detach=True)
        assert outcome.progress == []
        assert outcome.finished.documents == 0
        job = await ended(retriever, outcome.finished.job)
        assert (job.progress.done, job.progress.total, job.progress.unit) == (60, 60, "documents")
        assert result(job).documents == 60
        assert await listed(retriever) == sorted(LONG)
        later = await retriever.ingest(LONG, request_id="r")
        assert [p.outcome for p in later.progress] == [INDEXED] * 60
        assert later.finished == result(job)
        assert (await retriever.ingest(LONG, request_id="r", detach=True)).finished == result(job)


async def test_a_caller_that_goes_away_after_the_last_document_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        call = retriever.stub.IngestDocuments(iter(parts(LONG)), timeout=60)
        await call.read()
        await until(retriever, lambda jobs: jobs[0].progress.total == len(LONG))
        call.cancel()
        job = await ended(retriever, (await only_job(retriever)).name)
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED
        assert await listed(retriever) == sorted(LONG)


async def test_a_broken_upload_leaves_what_arrived_and_goes_on_when_it_is_sent_again(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def half() -> AsyncIterator[pb.IngestDocumentsRequest]:
        for message in parts({source: DOCUMENTS[source] for source in list(DOCUMENTS)[:3]})[1:-1]:
            yield message
        sent.set()
        await asyncio.sleep(60)

    async def broken() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start(request_id="r")
        async for message in half():
            yield message

    async with served(tmp_path) as retriever:
        call = retriever.stub.IngestDocuments(broken(), timeout=60)
        first = await call.read()
        await sent.wait()
        await call.read()
        call.cancel()
        job = await ended(retriever, (await only_job(retriever)).name)
        assert (job.state, job.error.reason) == (jobs_pb2.JOB_STATE_FAILED, "UPLOAD_INCOMPLETE")
        assert await listed(retriever) == ["0.txt", "1.txt"]
        again = await retriever.ingest(DOCUMENTS, request_id="r")
        assert [p.outcome for p in again.progress] == [INDEXED] * 5
        assert again.progress[0] == first.progress
        assert again.finished.documents == 5
        assert (await only_job(retriever)).state == jobs_pb2.JOB_STATE_SUCCEEDED


async def test_documents_are_waited_for_where_later_ones_are_there_already(tmp_path: Path) -> None:
    """What waited of an earlier upload was let go, what was refused of it is still listed."""
    async with served(tmp_path) as retriever:
        await retriever.ingest({"0.txt": "text"})
    queue = await sqlite.open_file(tmp_path / "jobs.db", Limits())
    key = CollectionKey("default", "default")
    job = await queue.submit(Submission("default", ingesting.KIND, "r", ingesting.payload(key)))
    intake = await intakes.open_file(tmp_path / "intake.db")
    upload = await intake.begin("default", job.id, "gone", "default")
    refused = WeftError(Reason.DOCUMENT_EMPTY, "it is empty")
    await intake.put(
        "default", job.id, upload, [Item(3, "3.txt", sha256(b"").hexdigest(), outcome=Outcome.FAILED, error=refused)]
    )

    async def slow() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start(request_id="r")
        for number in (1, 2):
            await asyncio.sleep(0.5)
            yield header(f"{number}.txt")
            yield pb.IngestDocumentsRequest(data=b"text")
        yield header("3.txt")

    async with served(tmp_path) as retriever:
        messages = [message async for message in retriever.stub.IngestDocuments(slow(), timeout=30)]
        assert [m.progress.outcome for m in messages[:-1]] == [INDEXED, INDEXED, pb.INGEST_OUTCOME_FAILED]
        assert messages[-1].finished.documents == 2
        assert await listed(retriever) == ["0.txt", "1.txt", "2.txt"]
    await intake.close()
    await queue.close()


async def test_a_cancelled_ingest_stops_and_its_caller_is_told(tmp_path: Path) -> None:
    longer = {f"{number}.txt": LONG["0.txt"] + str(number) for number in range(240)}  # or it is over before the cancel
    async with served(tmp_path) as retriever:
        ingesting = asyncio.ensure_future(failure(retriever.ingest(longer, request_id="r")))
        (job,) = await until(retriever, lambda jobs: len(jobs) > 0 and jobs[0].progress.done >= 2)
        await retriever.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=job.name), timeout=5)
        err = await asyncio.wait_for(ingesting, 10)
        assert (err.reason, err.metadata["job"]) == ("JOB_CANCELLED", job.name)
        assert (await ended(retriever, job.name)).state == jobs_pb2.JOB_STATE_CANCELLED
        there = await listed(retriever)
        assert 2 <= len(there) < len(longer)
        await asyncio.sleep(0.3)
        assert await listed(retriever) == there
        assert (await failure(retriever.ingest(longer, request_id="r"))).reason == "JOB_CANCELLED"
        assert (await retriever.ingest(LONG)).finished.documents == 60


async def test_an_ingest_has_so_many_documents_and_no_more(tmp_path: Path) -> None:
    async with served(tmp_path, max_ingest_documents=3) as retriever:
        err = await failure(retriever.ingest(DOCUMENTS))
        assert (err.reason, err.field, err.metadata["limit"]) == ("INVALID_FIELD", "document", "3")
        three = {source: DOCUMENTS[source] for source in list(DOCUMENTS)[:3]}
        assert (await retriever.ingest(three)).finished.documents == 3


async def test_senders_that_pause_keep_nobody_from_ingesting(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def pausing(source: str) -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start()
        yield header(f"before {source}")
        yield pb.IngestDocumentsRequest(data=b"whole")
        yield header(source)
        yield pb.IngestDocumentsRequest(data=b"first half, ")
        await go_on.wait()
        yield pb.IngestDocumentsRequest(data=b"second half")

    async def finished(call: AsyncIterator[pb.IngestDocumentsResponse]) -> int:
        return [message.finished.documents async for message in call][-1]

    async with served(tmp_path) as retriever:
        paused = [retriever.stub.IngestDocuments(pausing(f"{n}.txt"), timeout=60) for n in range(4)]
        waiting = [asyncio.ensure_future(finished(call)) for call in paused]
        running = jobs_pb2.JOB_STATE_RUNNING
        await until(retriever, lambda jobs: [job.state for job in jobs] == [running] * 4)
        assert (await retriever.ingest({"quick.txt": "text"})).finished.documents == 1  # once one of them is parked
        go_on.set()
        assert await asyncio.gather(*waiting) == [2, 2, 2, 2]


async def test_a_full_queue_is_refused_and_says_when_to_come_again(tmp_path: Path) -> None:
    async with served(tmp_path, max_queued_jobs=2) as retriever:
        queue = await sqlite.open_file(tmp_path / "jobs.db", Limits())
        for key in ("a", "b"):
            await queue.submit(Submission("default", "nobody's", key, b""))
        err = await failure(retriever.ingest({"late.txt": "text"}))
        assert (err.reason, err.retry_after_s) == ("OVERLOADED", 5.0)
        for job in (await queue.list_jobs("default"))[0]:
            await queue.cancel("default", job.id)
        await queue.close()
        assert (await retriever.ingest({"late.txt": "text"})).finished.documents == 1


@pytest.mark.parametrize("newer", ["the newer version", "as it was"], ids=["changed", "unchanged"])
async def test_one_source_from_two_ingests_ends_as_the_later_one(
    newer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, older_is_through = intakes.SqliteIntake.settle, asyncio.Event()

    async def late(self: intakes.SqliteIntake, tenant: str, job: str, fence: int, items: Sequence[Item]) -> None:
        if (items[0].number, items[0].source) == (1, "same.txt"):
            await older_is_through.wait()
        await settle(self, tenant, job, fence, items)

    async with served(tmp_path) as retriever:
        await retriever.ingest({"same.txt": "as it was"})
        monkeypatch.setattr(intakes.SqliteIntake, "settle", late)
        slow = await retriever.ingest(LONG | {"same.txt": "the older version"}, detach=True)
        quick = await retriever.ingest({"same.txt": newer}, detach=True)
        older = result(await ended(retriever, slow.finished.job))
        assert (older.documents, older.unchanged) == (61, 1)
        older_is_through.set()
        epoch = result(await ended(retriever, quick.finished.job)).epoch
        response = await retriever.search("older newer version as it was", min_epoch=epoch)
        assert [hit.passage.text for hit in response.hits] == [newer]


async def test_a_document_deleted_before_its_ingest_is_through_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = intakes.SqliteIntake.settle
    async with served(tmp_path) as retriever:

        async def deleted_and_away(*_: object) -> None:
            """It is there by now; somebody deletes it; then the store fails, and the job is tried again."""
            monkeypatch.setattr(intakes.SqliteIntake, "settle", settle)
            name = f"collections/default/documents/{document_name('a.txt')}"
            await retriever.stub.DeleteDocument(pb.DeleteDocumentRequest(name=name), timeout=5)
            raise error(Reason.DEPENDENCY_UNAVAILABLE, "the disk is full")

        monkeypatch.setattr(intakes.SqliteIntake, "settle", deleted_and_away)
        answer = await retriever.ingest({"a.txt": "text", "b.txt": "another text"})
        assert await listed(retriever) == ["b.txt"]
        assert (answer.progress[0].outcome, answer.progress[0].chunks) == (UNCHANGED, 0)
        assert (answer.finished.documents, answer.finished.chunks) == (2, 1)
        assert (await only_job(retriever)).attempts == 2
        await retriever.ingest({"a.txt": "text"})
        assert await listed(retriever) == ["a.txt", "b.txt"]


async def test_what_an_ingest_does_is_one_trace(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "text"})
        await ended(retriever, (await only_job(retriever)).name)
        found = [s for s in retriever.spans.get_finished_spans() if s.name == "job.ingest"]
        (call,) = [s for s in retriever.spans.get_finished_spans() if s.name.endswith("/IngestDocuments")]
        assert found[0].context.trace_id == call.context.trace_id
        assert found[0].parent is not None
        assert found[0].parent.span_id == call.context.span_id


async def test_a_collection_is_moved_by_a_job_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest(DOCUMENTS)

        async def move(name: str, embedder: str) -> pb.ReindexCollectionResponse:
            request = pb.ReindexCollectionRequest(name=name, embedder=embedder)
            return await retriever.stub.ReindexCollection(request, timeout=10)

        job = await ended(retriever, (await move("collections/default", "none:")).job)
        moved = pb.Collection()
        assert (job.kind, job.state) == ("reindex", jobs_pb2.JOB_STATE_SUCCEEDED)
        assert job.result.Unpack(moved)
        assert (moved.name, moved.embedder, moved.document_count) == ("collections/default", "none:", 5)
        for name, embedder, reason in (
            ("collections/nobody", "none:", "COLLECTION_NOT_FOUND"),
            ("", "none:", "INVALID_FIELD"),
            ("collections/~default", "none:", "INVALID_FIELD"),
            ("collections/default", "", "INVALID_FIELD"),
            ("collections/default", "unheard-of:", "INVALID_FIELD"),
        ):
            assert (await failure(move(name, embedder))).reason == reason

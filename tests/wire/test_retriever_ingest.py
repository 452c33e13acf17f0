"""IngestDocuments on a real wire: progress, bad documents among good ones, large ones, broken streams."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from services.retriever.logs.sqlite import SqliteLog
from services.retriever.ports import Content
from services.retriever.types import Collection, Document
from tests.support.retriever_server import epoch_of, failure, header, parts, served, start
from weft.errors import Reason, error
from weft.retriever.v1 import retriever_pb2 as pb

INDEXED, UNCHANGED, FAILED = pb.INGEST_OUTCOME_INDEXED, pb.INGEST_OUTCOME_UNCHANGED, pb.INGEST_OUTCOME_FAILED


def data(content: bytes) -> pb.IngestDocumentsRequest:
    return pb.IngestDocumentsRequest(data=content)


async def test_progress_comes_for_each_document_in_order_and_finished_sums_up(tmp_path: Path) -> None:
    documents = {"a.txt": "one", "b.md": "# Two\n\ntwo", "c.txt": "three"}
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(documents)
    assert [(p.source, p.outcome, p.chunks, p.documents_done) for p in outcome.progress] == [
        ("a.txt", INDEXED, 1, 1),
        ("b.md", INDEXED, 1, 2),
        ("c.txt", INDEXED, 1, 3),
    ]
    assert outcome.progress[-1].bytes_done == sum(len(content) for content in documents.values())
    done = outcome.finished
    assert (done.documents, done.unchanged, done.chunks, len(done.failed), done.job) == (3, 0, 3, 0, "")
    assert done.epoch == outcome.progress[-1].epoch


async def test_the_same_again_changes_nothing_and_a_changed_one_replaces_the_old(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        first = await retriever.ingest({"a.txt": "one fox", "b.txt": "two"})
        again = await retriever.ingest({"a.txt": "one fox", "b.txt": "two"})
        assert [p.outcome for p in again.progress] == [UNCHANGED] * 2
        assert (again.finished.documents, again.finished.unchanged, again.finished.chunks) == (2, 2, 2)
        assert epoch_of(again) == epoch_of(first)
        changed = await retriever.ingest({"a.txt": "one dog", "b.txt": "two"})
        assert [p.outcome for p in changed.progress] == [INDEXED, UNCHANGED]
        assert epoch_of(changed).sequence == epoch_of(first).sequence + 1
        assert not (await retriever.search("fox", min_epoch=epoch_of(changed))).hits
        assert await retriever.sources("dog") == ["a.txt"]


async def test_another_title_or_other_metadata_is_a_change(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        for title, metadata, outcome in [
            ("", {}, INDEXED),
            ("T", {}, INDEXED),
            ("T", {}, UNCHANGED),
            ("T", {"a": 1}, INDEXED),
        ]:
            done = await retriever.ingest([start(), header("a.txt", metadata, title=title), data(b"text")])
            assert [p.outcome for p in done.progress] == [outcome]


async def test_bad_documents_are_named_and_harm_no_other(tmp_path: Path) -> None:
    messages = [
        *parts(
            {
                "good.txt": "kept",
                "noise.txt": b"\x80\x01\xfe\x02",
                "empty.txt": b"",
                "blank.md": " \n\n",
                "x.pdf": b"%PDF",
            }
        ),
        *(header("bell\x07.txt"), data(b"x"), header(""), data(b"x"), header("big.txt", size_bytes=1 << 40)),
        *(header("fat.txt", {"k": "v" * 20_000}), data(b"x"), header("grows.txt"), *[data(b"y" * 1_000)] * 3),
        *(header("last.txt"), data(b"kept too")),
    ]
    async with served(tmp_path, max_document_bytes=2_000) as retriever:
        outcome = await retriever.ingest(messages)
        assert {p.source: p.error.reason for p in outcome.finished.failed} == {
            "noise.txt": "DOCUMENT_UNREADABLE",
            "empty.txt": "DOCUMENT_EMPTY",
            "blank.md": "DOCUMENT_EMPTY",
            "x.pdf": "DOCUMENT_UNREADABLE",
            "bell\x07.txt": "INVALID_FIELD",
            "": "INVALID_FIELD",
            "big.txt": "DOCUMENT_TOO_LARGE",
            "fat.txt": "INVALID_FIELD",
            "grows.txt": "DOCUMENT_TOO_LARGE",
        }
        assert all(p.error.message and p.error.code == "INVALID_ARGUMENT" for p in outcome.finished.failed)
        assert [p.source for p in outcome.progress if p.outcome == INDEXED] == ["good.txt", "last.txt"]
        assert (outcome.finished.documents, outcome.progress[-1].documents_done) == (2, 11)
        assert sorted(await retriever.sources("kept", min_epoch=epoch_of(outcome))) == ["good.txt", "last.txt"]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "start"),
        ([header("a.txt")], "start"),
        ([data(b"x")], "start"),
        ([start(request_id="")], "start.request_id"),
        ([start(request_id="x" * 129)], "start.request_id"),
        ([start("elsewhere")], "start.collection"),
        ([start(), data(b"x")], "data"),
        ([start(), start()], "part"),
        ([start(), pb.IngestDocumentsRequest()], "part"),
        ([start(), header("a.txt"), data(b"x" * ((1 << 20) + 1))], "data"),
    ],
)
async def test_a_stream_that_breaks_the_protocol_is_refused(
    messages: list[pb.IngestDocumentsRequest], field: str, tmp_path: Path
) -> None:
    async with served(tmp_path) as retriever:
        err = await failure(retriever.ingest(messages))
        assert (err.reason, err.field) == ("INVALID_FIELD", field)
        assert (await retriever.ingest({"a.txt": "text"})).finished.documents == 1


async def test_the_same_source_twice_in_a_stream_ends_as_the_last_one(tmp_path: Path) -> None:
    messages = [start()]
    for number in range(12):
        messages += [header("a.txt"), data(f"version{number}".encode())]
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(messages)
        response = await retriever.search(" ".join(f"version{n}" for n in range(12)), min_epoch=epoch_of(outcome))
        assert [hit.passage.text for hit in response.hits] == ["version11"]
        assert [p.outcome for p in outcome.progress] == [INDEXED] * 12


async def test_many_small_documents_end_in_their_order_whatever_becomes_of_each(tmp_path: Path) -> None:
    documents: dict[str, bytes | str] = {f"{n}.txt": f"text number {n}" for n in range(60)}
    documents |= {"20.txt": b"\x00\x01", "30.txt": "long " * 30_000, "59.txt": "\n"}
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(documents)
        assert [p.source for p in outcome.progress] == [*documents]
        failed = {p.source: p.error.reason for p in outcome.progress if p.outcome == FAILED}
        assert failed == {"20.txt": "DOCUMENT_UNREADABLE", "59.txt": "DOCUMENT_EMPTY"}
        assert [p.documents_done for p in outcome.progress] == [*range(1, 61)]
        assert await retriever.sources("number 58", min_epoch=outcome.finished.epoch, top_k=1) == ["58.txt"]


async def test_one_document_that_the_log_refuses_does_not_take_its_group_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = SqliteLog.publish

    async def refusing(self: SqliteLog, collection: Collection, contents: Sequence[Content]) -> list[Document]:
        if any(content.document.source == "bad.txt" for content in contents):
            raise error(Reason.DOCUMENT_UNREADABLE, "this store can't hold it")
        return await publish(self, collection, contents)

    monkeypatch.setattr(SqliteLog, "publish", refusing)
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest({"a.txt": "one", "b.txt": "two", "bad.txt": "three", "c.txt": "four"})
        assert [p.outcome for p in outcome.progress] == [INDEXED, INDEXED, FAILED, INDEXED]


async def test_a_document_of_many_chunks_goes_in_whole(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {number} tells of thing{number}. " + "It is long. " * 60 for number in range(600))
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest({"long.txt": text})
        assert outcome.finished.chunks == 600
        for number in (0, 31, 32, 63, 64, 599):
            (hit,) = (await retriever.search(f"thing{number}", top_k=1, min_epoch=epoch_of(outcome))).hits
            assert text[hit.passage.start_char : hit.passage.end_char] == hit.passage.text
            assert hit.passage.name.endswith(f"/chunks/{number}")


async def test_a_sender_that_goes_away_leaves_no_half_document(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def messages() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start()
        yield header("whole.txt")
        yield data(b"whole")
        yield header("half.txt")
        yield data(b"half of it")
        sent.set()
        await asyncio.sleep(60)

    async with served(tmp_path) as retriever:
        call = retriever.stub.IngestDocuments(messages(), timeout=60)
        first = await call.read()
        await sent.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert first.progress.source == "whole.txt"
        assert await retriever.sources("whole half", min_epoch=first.progress.epoch) == ["whole.txt"]
        # Nothing hangs on: the stream's slot is free again.
        for number in range(6):
            assert (await retriever.ingest({"next.txt": f"text {number}"})).finished.documents == 1


async def test_a_sender_is_held_back_while_the_store_of_uploads_is_full(tmp_path: Path) -> None:
    content = ("words that fill the space of a large document. " * 20_000).encode()[:900_000]
    taken = 0

    async def messages() -> AsyncIterator[pb.IngestDocumentsRequest]:
        nonlocal taken
        yield start()
        for number in range(100):
            yield header(f"{number}.txt")
            yield data(content)
            taken += 1

    async with served(tmp_path, ingest_threads=1, max_waiting_bytes=10_000_000) as retriever:
        call = retriever.stub.IngestDocuments(messages(), timeout=60)
        await call.read()
        await asyncio.sleep(0)
        ahead = taken
        call.cancel()
    assert ahead < 60  # what the store may hold, and what gRPC buffers on both sides


async def test_a_collection_deleted_meanwhile_fails_the_documents_and_not_the_stream(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def messages() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start("collections/c")
        yield header("a.txt")
        yield data(b"one")
        yield header("b.txt")
        await gone.wait()
        yield data(b"two")
        yield header("c.txt")
        yield data(b"three")

    async with served(tmp_path) as retriever:
        call = retriever.stub.IngestDocuments(messages(), timeout=30)
        answers = aiter(call)
        assert (await anext(answers)).progress.outcome == INDEXED
        await retriever.stub.DeleteCollection(pb.DeleteCollectionRequest(name="collections/c"), timeout=5)
        gone.set()
        rest = [message async for message in answers]
        assert [m.progress.error.reason for m in rest[:-1]] == ["COLLECTION_NOT_FOUND"] * 2
        assert rest[-1].finished.documents == 1


async def test_a_collection_whose_embedder_is_away_takes_nothing_in(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "text"})
    with sqlite3.connect(tmp_path / "log.db") as db:
        db.execute("UPDATE collections SET embedder = 'minilm:', wanted_embedder = 'minilm:'")
    db.close()
    async with served(tmp_path, model_cache=str(tmp_path / "empty")) as retriever:
        err = await failure(retriever.ingest({"b.txt": "more"}))
        assert err.reason == "EMBEDDER_UNAVAILABLE"
        assert err.code is grpc.StatusCode.FAILED_PRECONDITION

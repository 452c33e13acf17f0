"""ingest and search: what is sent, what is counted, and reading one's own writes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import weft
from tests.support.scripted import Server, finished, scripted_server, started
from weft.common.v1 import passage_pb2
from weft.errors import Reason, WeftError, error
from weft.ingest import passed_over
from weft.retriever.v1 import retriever_pb2


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with scripted_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("# A\nalpha")
    (tmp_path / "sub" / "b.txt").write_text("beta")
    (tmp_path / "sub" / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "d.md").write_text("not this")
    return tmp_path


async def test_a_folder_is_walked_for_readable_files_and_hidden_ones_stay_out(server: Server, folder: Path) -> None:
    async with server.client() as c:
        result = await c.ingest(folder, collection="books")
    assert server.retriever.documents == {f"{folder}/a.md": b"# A\nalpha", f"{folder}/sub/b.txt": b"beta"}
    assert passed_over([folder, folder / "a.md", weft.Document("d", "text")]) == {".png": 1}
    assert server.retriever.collections == ["collections/books"]
    assert result == weft.IngestResult(documents=2, unchanged=0, chunks=4, epoch=weft.Epoch("0" * 32, 2))


async def test_a_path_keeps_the_name_it_was_given(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    async with server.client() as c:
        await c.ingest(["./sub", "a.md", "sub/b.txt"])
    assert list(server.retriever.documents) == ["sub/b.txt", "a.md"]


async def test_a_document_in_memory_brings_its_title_and_metadata(server: Server) -> None:
    document = weft.Document("mail:1", "Grüße", title="Hello", mime_type="text/plain", metadata={"year": 2024})
    async with server.client() as c:
        await c.ingest(document)
    (header,) = server.retriever.headers
    assert (header.source, header.title, header.mime_type) == ("mail:1", "Hello", "text/plain")
    assert dict(header.metadata) == {"year": 2024}
    assert server.retriever.documents == {"mail:1": "Grüße".encode()}


async def test_a_large_document_travels_in_parts_and_arrives_whole(server: Server, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # 5 MB: more than one message may hold
    (tmp_path / "large.txt").write_bytes(content)
    async with server.client() as c:
        await c.ingest(tmp_path / "large.txt")
    assert server.retriever.documents == {f"{tmp_path}/large.txt": content}


async def test_progress_tells_of_each_document(server: Server, folder: Path) -> None:
    seen: list[weft.IngestProgress] = []
    async with server.client() as c:
        await c.ingest(folder, on_progress=seen.append)
        await c.ingest(folder, on_progress=seen.append)
    assert [(p.outcome, p.documents_done, p.documents_total) for p in seen] == [
        ("indexed", 1, 2),
        ("indexed", 2, 2),
        ("unchanged", 1, 2),
        ("unchanged", 2, 2),
    ]
    assert seen[1].bytes_done == seen[1].bytes_total == 13


async def test_a_document_that_is_refused_is_named_and_harms_no_other(server: Server, folder: Path) -> None:
    source = f"{folder}/a.md"
    server.retriever.refused = {source: error(Reason.DOCUMENT_EMPTY, "no text in it", source=source)}
    async with server.client() as c:
        result = await c.ingest(folder)
    (failed,) = result.failed
    assert (result.documents, failed.source, failed.error.reason) == (1, source, "DOCUMENT_EMPTY")
    assert isinstance(failed.error, weft.InvalidArgument)


async def test_a_file_that_cannot_be_opened_is_named_and_harms_no_other(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone.md").write_text("x")
    opened = Path.open  # root may read everything, so permissions alone won't do

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "gone.md":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    async with server.client() as c:
        result = await c.ingest(folder)
    (failed,) = result.failed
    assert result.documents == 2
    assert failed.source.endswith("gone.md")
    assert "Permission denied" in str(failed.error)


@pytest.mark.parametrize("why", [grpc.StatusCode.UNAVAILABLE, error(Reason.UPLOAD_INCOMPLETE, "nothing was heard")])
async def test_an_upload_that_breaks_goes_on_with_what_has_no_answer(
    why: WeftError | grpc.StatusCode, server: Server, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    server.retriever.break_after, server.retriever.break_with = 2, why
    seen: list[weft.IngestProgress] = []
    async with server.client() as c:
        result = await c.ingest(tmp_path, on_progress=seen.append)
    assert result.documents == 5
    assert result.chunks == 10
    assert len(server.retriever.headers) == 5  # none was sent for nothing
    assert [p.documents_done for p in seen] == [1, 2, 3, 4, 5]
    assert len(set(server.retriever.request_ids)) == 2


@pytest.mark.parametrize(
    ("path", "problem"), [("nowhere", "does not exist"), ("pictures", "holds no readable files"), ("pipe", "neither")]
)
async def test_a_path_that_will_not_do_is_named(server: Server, tmp_path: Path, path: str, problem: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    async with server.client() as c:
        with pytest.raises(weft.InvalidArgument, match=problem) as failure:
            await c.ingest(tmp_path / path)
    assert failure.value.field == "paths"
    assert failure.value.metadata["path"] == str(tmp_path / path)


async def test_nothing_to_ingest_is_an_error(server: Server) -> None:
    async with server.client() as c:
        with pytest.raises(weft.InvalidArgument, match="nothing to ingest"):
            await c.ingest([])


async def test_a_search_gives_hits_with_their_documents(server: Server) -> None:
    passage = passage_pb2.Passage(name="collections/c/documents/d/chunks/1", text="Blue.", title="Sky", page=2)
    passage.metadata.update({"year": 2024, "score": 0.5})
    highlight = retriever_pb2.Highlight(start_char=0, end_char=4)
    parts = {"lexical": 2.5, "dense": 0.5}
    server.retriever.hits = [retriever_pb2.Hit(passage=passage, score=0.9, highlights=[highlight], parts=parts)]
    async with server.client() as c:
        await c.search("sky")
        result = await c.search(
            *("sky", 3), collection="c", filter="year = 2024", max_per_document=2, rerank=True, explain=True
        )
    (hit,) = result.hits
    assert (hit.text, hit.score, hit.document) == ("Blue.", 0.9, "collections/c/documents/d")
    assert (hit.metadata, hit.title, hit.page) == ({"year": 2024, "score": 0.5}, "Sky", 2)
    assert (hit.highlights, hit.parts) == (((0, 4),), parts)
    plain, full = server.retriever.searches
    assert (full.top_k, full.filter, full.max_per_document, full.rerank, full.explain) == (
        3,
        "year = 2024",
        2,
        True,
        True,
    )
    assert (plain.top_k, plain.filter, plain.max_per_document, plain.rerank, plain.explain) == (5, "", 0, False, False)


async def test_searches_and_asks_look_as_far_as_this_client_has_written(server: Server, folder: Path) -> None:
    server.chat.scripts = [[started(), finished(1, "")]]
    async with server.client() as c:
        await c.search("before")
        await c.ingest(folder)
        await c.search("after")
        await c.search("elsewhere", collection="other")
        await c.ask("after")
        await c.search("explicit", min_epoch=weft.Epoch("f" * 32, 77))
    before, after, elsewhere, explicit = server.retriever.searches
    assert not before.HasField("min_epoch")
    assert after.min_epoch.sequence == 2
    assert not elsewhere.HasField("min_epoch")
    assert server.chat.requests[0].min_epoch.sequence == 2
    assert explicit.min_epoch.sequence == 77


async def test_a_store_that_was_replaced_is_told_once_and_then_forgotten(server: Server, folder: Path) -> None:
    async with server.client() as c:
        await c.ingest(folder)
        server.retriever.failure = error(Reason.EPOCH_FOREIGN, "another log")
        with pytest.raises(weft.FailedPrecondition):
            await c.search("x")
        server.retriever.failure = None
        await c.search("x")
    assert not server.retriever.searches[-1].HasField("min_epoch")


async def test_a_search_that_nobody_answers_says_who_is_missing(server: Server) -> None:
    server.retriever.failure = grpc.StatusCode.UNAVAILABLE
    async with server.client() as c:
        with pytest.raises(weft.Unavailable, match="no retriever can be reached") as failure:
            await c.search("x")
    assert failure.value.metadata["service"] == "retriever"


async def test_a_message_larger_than_4_mib_is_refused_and_harms_nothing(server: Server) -> None:
    async with server.client() as c:
        with pytest.raises(weft.ResourceExhausted) as failure:
            await c.search("x" * (4 * 1024 * 1024 + 1))
        await c.search("x")
    assert failure.value.reason == "MESSAGE_TOO_LARGE"
    assert "a message may have 4194304: send less" in failure.value.message
    assert failure.value.metadata["max_bytes"] == "4194304"

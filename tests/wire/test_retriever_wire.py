"""RetrieverService on a real wire: searching, records, and requests that are refused."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
import pytest

from mesh.settings import load
from services.retriever.settings import Settings
from tests.support.models import model_cache
from tests.support.retriever_server import epoch_of, failure, header, served, start
from weft import names
from weft.common.v1 import epoch_pb2
from weft.errors import WeftError
from weft.retriever.v1 import retriever_pb2 as pb

GUIDE = "# Guide\n\nHow to begin.\n\n## Setup\n\nInstall the frobnicator with care. " + "It takes a while. " * 60


async def test_an_ingested_document_is_found_with_title_section_and_offsets(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest(
            [start(), header("docs/guide.md", {"team": "search"}), pb.IngestDocumentsRequest(data=GUIDE.encode())]
        )
        response = await retriever.search("frobnicator", explain=True, min_epoch=epoch_of(outcome))
    (hit,) = response.hits
    assert (hit.passage.title, hit.passage.source) == ("Guide", "docs/guide.md")
    assert hit.passage.section == "Guide § Setup"
    assert hit.passage.metadata["team"] == "search"
    assert hit.passage.name.startswith("collections/default/documents/guide-md-")
    assert hit.passage.end_char - hit.passage.start_char == len(hit.passage.text)
    assert [hit.passage.text[h.start_char : h.end_char] for h in hit.highlights] == ["frobnicator"]
    assert hit.parts["lexical"] == pytest.approx(hit.score)
    assert response.epoch == epoch_of(outcome)
    assert not response.degraded
    assert not response.cached


async def test_a_search_leaves_its_hits_epoch_and_collection_in_the_span(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest({"a.txt": "one fox"})
        await retriever.search("fox", min_epoch=epoch_of(outcome))
        (span,) = [s for s in retriever.spans.get_finished_spans() if s.name.endswith("Search")]
    epoch = epoch_of(outcome)
    assert span.attributes is not None
    assert span.attributes[names.HITS] == 1
    assert span.attributes[names.COLLECTION] == "collections/default"
    assert span.attributes[names.EPOCH] == f"{epoch.log_id}:{epoch.sequence}"
    assert "fox" not in str(dict(span.attributes))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SearchRequest(), "query"),
        (pb.SearchRequest(query=" \n "), "query"),
        (pb.SearchRequest(query="x" * 8_193), "query"),
        (pb.SearchRequest(query="x" * 1_000_000), "query"),
        (pb.SearchRequest(query="bell \x07"), "query"),
        (pb.SearchRequest(query="q", top_k=0), "top_k"),
        (pb.SearchRequest(query="q", top_k=101), "top_k"),
        (pb.SearchRequest(query="q", top_k=10**6), "top_k"),
        (pb.SearchRequest(query="q", max_per_document=101), "max_per_document"),
        (pb.SearchRequest(query="q", collection="default"), "collection"),
        (pb.SearchRequest(query="q", collection="collections/../x"), "collection"),
        (pb.SearchRequest(query="q", collection="collections/" + "x" * 64), "collection"),
        (pb.SearchRequest(query="q", min_epoch=epoch_pb2.Epoch(sequence=1)), "min_epoch.log_id"),
    ],
)
async def test_a_request_out_of_bounds_is_refused_by_its_field(
    request_: pb.SearchRequest, field: str, tmp_path: Path
) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "text"})
        err = await failure(retriever.stub.Search(request_, timeout=5))
        assert (err.reason, err.field) == ("INVALID_FIELD", field)
        assert len(err.message) < 400
        assert await retriever.sources("text") == ["a.txt"]  # nothing else is harmed


async def test_a_filter_leaves_what_it_says_and_says_where_it_cannot_be_read(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        messages = [start()]
        for number, team in enumerate(("search", "sales", "search")):
            data = b"word " * (number + 1)
            messages += [header(f"{number}.txt", {"team": team, "n": number}), pb.IngestDocumentsRequest(data=data)]
        await retriever.ingest(messages)
        assert sorted(await retriever.sources("word", filter='team = "search"')) == ["0.txt", "2.txt"]
        assert await retriever.sources("word", filter="team:sales OR n > 5") == ["1.txt"]
        assert await retriever.sources("word", filter="n > 5") == []
        assert len(await retriever.sources("word", filter="  ")) == 3
        err = await failure(retriever.search("q", filter="team = "))
    assert (err.reason, err.field, err.metadata["position"]) == ("FILTER_INVALID", "filter", "7")


async def test_a_message_beyond_four_mebibytes_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        err = await failure(retriever.search("x" * (4 * 1024 * 1024 + 1)))
        assert err.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await retriever.ingest({"a.txt": "text"})


@pytest.mark.parametrize("top_k", [None, 1, 100])
async def test_top_k_is_five_unless_said(top_k: int | None, tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({f"{n}.txt": "the same word" for n in range(120)})
        response = await retriever.search("word", **({} if top_k is None else {"top_k": top_k}))
    assert len(response.hits) == (top_k or 5)


async def test_a_remembered_answer_says_so_and_sees_what_min_epoch_asks_for(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "one fox"})
        answers = [await retriever.search("fox", allow_cached=allowed) for allowed in (True, True, False)]
        assert [answer.cached for answer in answers] == [False, True, False]
        assert answers[1].hits == answers[0].hits == answers[2].hits
        outcome = await retriever.ingest({"b.txt": "a second fox"})
        later = await retriever.search("fox", min_epoch=epoch_of(outcome))
        assert (later.cached, len(later.hits)) == (False, 2)
        assert later.epoch.sequence >= epoch_of(outcome).sequence


async def test_a_rerank_without_a_reranker_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "one fox"})
        response = await retriever.search("fox", rerank=True)
        assert [hit.passage.source for hit in response.hits] == ["a.txt"]
        assert [lack.stage for lack in response.degraded] == ["reranking"]


async def test_an_unknown_collection_is_not_found(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        err = await failure(retriever.search("q", collection="collections/nowhere"))
        assert (err.reason, err.metadata["collection"]) == ("COLLECTION_NOT_FOUND", "collections/nowhere")
        assert (await failure(retriever.search("q"))).reason == "COLLECTION_NOT_FOUND"


async def test_an_epoch_not_reached_in_time_and_one_of_another_log_are_told_apart(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        outcome = await retriever.ingest({"a.txt": "text"})
        later = epoch_pb2.Epoch(log_id=epoch_of(outcome).log_id, sequence=epoch_of(outcome).sequence + 1)
        request = pb.SearchRequest(query="text", min_epoch=later)
        err = await failure(retriever.stub.Search(request, timeout=0.5))
        assert err.reason == "EPOCH_NOT_REACHED"
        assert err.metadata["reached"] == str(epoch_of(outcome).sequence)
        foreign = epoch_pb2.Epoch(log_id="0" * 32, sequence=1)
        assert (await failure(retriever.search("text", min_epoch=foreign))).reason == "EPOCH_FOREIGN"


async def test_what_one_replica_took_in_the_other_finds_at_once_by_its_epoch(tmp_path: Path) -> None:
    async with served(tmp_path) as one, served(tmp_path) as other:
        for number in range(10):
            outcome = await one.ingest({f"{number}.txt": f"word{number}"})
            assert await other.sources(f"word{number}", min_epoch=epoch_of(outcome)) == [f"{number}.txt"]


async def test_documents_are_listed_by_name_page_by_page_and_deleted(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({f"{n}.txt": f"text {n}" for n in range(5)})
        first = await retriever.stub.ListDocuments(pb.ListDocumentsRequest(page_size=3), timeout=5)
        rest = await retriever.stub.ListDocuments(
            pb.ListDocumentsRequest(page_size=3, page_token=first.next_page_token), timeout=5
        )
        listed = [*first.documents, *rest.documents]
        assert [d.name for d in listed] == sorted(d.name for d in listed)
        assert sorted(d.source for d in listed) == [f"{n}.txt" for n in range(5)]
        assert (len(first.documents), len(rest.documents), rest.next_page_token) == (3, 2, "")
        got = await retriever.stub.GetDocument(pb.GetDocumentRequest(name=listed[0].name), timeout=5)
        assert got.document == listed[0]
        assert (got.document.chunk_count, got.document.mime_type, len(got.document.sha256)) == (1, "text/plain", 64)
        deleted = await retriever.stub.DeleteDocument(pb.DeleteDocumentRequest(name=listed[0].name), timeout=5)
        assert listed[0].source not in await retriever.sources("text", min_epoch=deleted.epoch)
        for call in (
            retriever.stub.GetDocument(pb.GetDocumentRequest(name=listed[0].name), timeout=5),
            retriever.stub.DeleteDocument(pb.DeleteDocumentRequest(name=listed[0].name), timeout=5),
        ):
            assert (await failure(call)).reason == "DOCUMENT_NOT_FOUND"
        bad = retriever.stub.ListDocuments(pb.ListDocumentsRequest(page_size=1_001), timeout=5)
        assert (await failure(bad)).field == "page_size"


async def test_collections_are_made_once_listed_and_deleted(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        create = pb.CreateCollectionRequest(name="collections/b", embedder="none:")
        made = (await retriever.stub.CreateCollection(create, timeout=5)).collection
        assert (await retriever.stub.CreateCollection(create, timeout=5)).collection == made
        await retriever.ingest({"a.txt": "text"}, collection="collections/a")
        got = (await retriever.stub.GetCollection(pb.GetCollectionRequest(name="collections/a"), timeout=5)).collection
        assert (got.document_count, got.chunk_count, got.embedder, got.dimension) == (1, 1, "none:", 0)
        assert got.create_time.seconds > 0
        page = await retriever.stub.ListCollections(pb.ListCollectionsRequest(page_size=1), timeout=5)
        rest = pb.ListCollectionsRequest(page_size=1, page_token=page.next_page_token)
        more = await retriever.stub.ListCollections(rest, timeout=5)
        assert [c.name for c in (*page.collections, *more.collections)] == ["collections/a", "collections/b"]
        assert more.next_page_token == ""
        gone = await retriever.stub.DeleteCollection(pb.DeleteCollectionRequest(name="collections/a"), timeout=5)
        err = await failure(retriever.search("text", collection="collections/a", min_epoch=gone.epoch))
        assert err.reason == "COLLECTION_NOT_FOUND"
        again = retriever.stub.DeleteCollection(pb.DeleteCollectionRequest(name="collections/a"), timeout=5)
        assert (await failure(again)).reason == "COLLECTION_NOT_FOUND"


@pytest.mark.parametrize(
    ("embedder", "reason"),
    [("nosuch:", "INVALID_FIELD"), ("none:?x", "INVALID_FIELD"), ("minilm:", "EMBEDDER_UNAVAILABLE")],
)
async def test_an_embedder_that_cannot_be_is_refused(embedder: str, reason: str, tmp_path: Path) -> None:
    async with served(tmp_path, model_cache=str(tmp_path / "empty")) as retriever:
        create = pb.CreateCollectionRequest(name="collections/a", embedder=embedder)
        assert (await failure(retriever.stub.CreateCollection(create, timeout=5))).reason == reason
        assert not (await retriever.stub.ListCollections(pb.ListCollectionsRequest(), timeout=5)).collections


async def test_another_configuration_under_a_taken_name_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, embedder="minilm:", model_cache=str(tmp_path / "empty")) as retriever:
        # Its model isn't there, so the collection does without it, and remembers what it should have.
        create = pb.CreateCollectionRequest(name="collections/a")
        assert (await retriever.stub.CreateCollection(create, timeout=5)).collection.embedder == "none:"
        await retriever.ingest({"a.txt": "text"}, collection="collections/a")
        (lack,) = (await retriever.search("text", collection="collections/a")).degraded
        assert (lack.stage, lack.reason, lack.fallback) == ("embedding", "EMBEDDER_UNAVAILABLE", "lexical_only")
    async with served(tmp_path) as retriever:
        await retriever.stub.CreateCollection(pb.CreateCollectionRequest(name="collections/b"), timeout=5)
        other = pb.CreateCollectionRequest(name="collections/b", embedder="minilm:")
        assert (await failure(retriever.stub.CreateCollection(other, timeout=5))).reason == "COLLECTION_EXISTS"


async def test_tenants_share_nothing_but_names(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"a.txt": "the secret of mine"}, tenant="mine")
        outcome = await retriever.ingest({"a.txt": "the secret of yours"}, tenant="yours")
        for tenant in ("mine", "yours"):
            found = await retriever.search("secret mine yours", tenant=tenant, min_epoch=epoch_of(outcome))
            assert [hit.passage.text for hit in found.hits] == [f"the secret of {tenant}"]
        assert (await failure(retriever.search("secret", tenant="third"))).reason == "COLLECTION_NOT_FOUND"


async def test_searches_and_ingests_run_beside_each_other(tmp_path: Path) -> None:
    async with served(tmp_path) as retriever:
        await retriever.ingest({"0.txt": "the common word"})

        async def read() -> None:
            for _ in range(20):
                assert (await retriever.search("common word")).hits

        async def write(name: str) -> None:
            outcome = await retriever.ingest({f"{name}{n}.txt": f"the common word {name} {n}" for n in range(20)})
            assert outcome.finished.documents == 20

        await asyncio.gather(*(read() for _ in range(8)), *(write(name) for name in "abcdef"))
        listed = await retriever.stub.ListDocuments(pb.ListDocumentsRequest(page_size=1_000), timeout=5)
        assert len(listed.documents) == 121


async def test_a_corrupt_store_ends_the_process_with_a_clear_word(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"\0garbage" * 999)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.retriever"),
        env={**os.environ, "WEFT_STORE": f"sqlite:///{tmp_path}", "WEFT_RETRIEVER__EMBEDDER": "none:"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "STORE_CORRUPT" in out.decode()
    assert str(tmp_path / "log.db") in out.decode()
    assert "Traceback" not in out.decode()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WEFT_RETRIEVER__INDEX", "chroma:", "there are faiss"),
        ("WEFT_RETRIEVER__EMBEDDER", "no url", "is not a URL"),
        ("WEFT_RETRIEVER__SEARCH_THREADS", "-1", "WEFT_RETRIEVER__SEARCH_THREADS"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WeftError, match=says):
        load(Settings)


async def test_with_the_model_a_paraphrase_is_found_and_another_language_is_not_harmed(tmp_path: Path) -> None:
    cache = model_cache()
    documents = {
        "cars.txt": "The garage repairs automobiles and replaces worn brakes.",
        "bread.txt": "Sourdough needs a starter, flour, water and a hot oven.",
        "bridge.txt": "黑豹队的防守只丢了308分，在联赛中排名第六。",
        "moon.txt": "月球绕地球运行一周大约需要二十七天。",
    }
    async with served(tmp_path, embedder="minilm:", model_cache=str(cache)) as retriever:
        outcome = await retriever.ingest(documents)
        assert outcome.finished.documents == len(documents)
        assert (await retriever.sources("Who can fix my vehicle?"))[0] == "cars.txt"  # not a word in common
        assert (await retriever.sources("How do I bake?"))[0] == "bread.txt"
        assert (await retriever.sources("黑豹队丢了多少分？"))[0] == "bridge.txt"
        response = await retriever.search("月球绕地球多少天？", explain=True)
        assert response.hits[0].passage.source == "moon.txt"
        assert -1 <= response.hits[0].parts["dense"] <= 1
        assert not response.degraded
        made = await retriever.stub.GetCollection(pb.GetCollectionRequest(name="collections/default"), timeout=5)
        assert (made.collection.embedder, made.collection.dimension) == ("minilm:", 384)
    # The same store without the model: words alone, and it says so.
    async with served(tmp_path, embedder="minilm:", model_cache=str(tmp_path / "empty")) as retriever:
        response = await retriever.search("automobiles")
        assert [hit.passage.source for hit in response.hits] == ["cars.txt"]
        assert [lack.fallback for lack in response.degraded] == ["lexical_only"]
        assert (await failure(retriever.ingest({"more.txt": "more"}))).reason == "EMBEDDER_UNAVAILABLE"

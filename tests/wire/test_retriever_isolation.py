"""Tenants and collections share nothing: whatever is called, in whatever order, no answer holds a byte of others.

Three tenants with collections of the same names, documents of the same sources, and words in common. Each text,
title, source and metadata value carries a mark of whose it is. Random calls of every method, with filters and
queries that name the others' marks, run against one served retriever: its log, views, caches, jobs and an
embedding server are the real ones. Each answer is searched for foreign marks, as bytes, and the
documents that are there are compared with a model.

WEFT_TEST_ISOLATION_CASES says how many calls; the default is for every day, 10,000 take about a minute.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.embedding_server import embedding_server
from tests.support.retrieval import BagOfWords
from tests.support.retriever_server import Served, header, served, start
from weft import names
from weft.jobs.v1 import jobs_pb2
from weft.retriever.v1 import retriever_pb2 as pb

pytest.importorskip("tenacity")
CASES = int(os.environ.get("WEFT_TEST_ISOLATION_CASES", "1000"))
CALLS = 25  # of one example
TENANTS = ("ta", "tb", "tc")
COLLECTIONS = ("ca", "cb")
DOCUMENTS = ("one", "two", "same")
Home = tuple[str, str]  # tenant, collection
HOMES = [(tenant, collection) for tenant in TENANTS for collection in COLLECTIONS]


def mark(home: Home) -> str:
    return f"secret{home[0]}{home[1]}"


def source(home: Home, document: str) -> str:
    """Two sources are one home's own, the third is the same everywhere."""
    return "same.txt" if document == "same" else f"{mark(home)}{document}.txt"


homes = st.sampled_from(HOMES)
documents = st.sampled_from(DOCUMENTS)
marks = homes.map(mark)
# Few enough that different tenants often ask the very same.
queries = st.one_of(st.just("common"), st.just("secret word"), marks)
conditions = st.one_of(
    marks.map('team = "{}"'.format),
    marks.map('NOT team = "{}"'.format),
    marks.map('source:"{}" OR title:"secret"'.format),
    marks.map('(team:"secret" AND NOT title:"{}") OR owner.name:*'.format),
    st.sampled_from(['team:"secret"', "n >= 0", "tags:shared", "-absent:*", 'source = "same.txt"']),
    st.just("update_time > 2020-01-01"),
)
searches = st.tuples(
    st.just("search"),
    homes,
    st.builds(
        lambda query, options: {"query": query, **options},
        queries,
        st.one_of(
            st.just({}),
            st.sampled_from([{"top_k": 100}, {"explain": True}, {"max_per_document": 1}, {"allow_cached": False}]),
            st.builds(lambda condition: {"filter": condition}, conditions),
        ),
    ),
)
others = st.one_of(
    st.tuples(st.sampled_from(["get", "delete"]), homes, documents),
    st.tuples(st.sampled_from(["list", "collection", "collections", "create", "jobs"]), homes, st.none()),
    st.tuples(
        st.just("job"), homes, st.tuples(st.sampled_from(["GetJob", "CancelJob", "WaitJob", "DeleteJob"]), homes)
    ),
)
drops = st.tuples(st.just("drop"), homes, st.none())
moves = st.tuples(st.just("reindex"), homes, st.booleans())
ingests = st.tuples(st.just("ingest"), homes, documents)
BY_LOT = [searches] * 12 + [ingests] * 6 + [others] * 5 + [drops, moves]
steps = st.integers(0, len(BY_LOT) - 1).flatmap(BY_LOT.__getitem__)


class World:
    """The served retriever, and what should be in it."""

    def __init__(self, retriever: Served, embedder: str) -> None:
        self.retriever, self.embedder = retriever, embedder
        self.there: dict[Home, set[str]] = {}
        self.jobs: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
        self.answers = self.searches = self.found = 0

    async def do(self, step: tuple[str, Home, Any]) -> None:
        what, home, with_ = step
        await getattr(self, f"_{what}")(home, with_)

    async def call(
        self, home: Home, method: Callable[..., Awaitable[Any]], request: Any, *, own_tenant: bool = False
    ) -> Any:
        """Call, and look for what is foreign in the answer, or in the error beyond what the caller said."""
        try:
            answer = await method(request, timeout=10, metadata=[(names.METADATA_TENANT, home[0])])
            self.check(home, answer.SerializeToString(), own_tenant=own_tenant)
        except grpc.aio.AioRpcError as exc:
            told = f"{exc.details()} {exc.debug_error_string()} {exc.trailing_metadata()}".encode()
            self.check(home, told, said=request.SerializeToString(), own_tenant=own_tenant)
            return None
        return answer

    def check(self, home: Home, data: bytes, *, said: bytes = b"", own_tenant: bool = False) -> None:
        self.answers += 1
        for other in HOMES:
            if other != home and not (own_tenant and other[0] == home[0]):
                foreign = mark(other).encode()
                assert foreign not in data or foreign in said, (home, other)

    async def _search(self, home: Home, fields: dict[str, Any]) -> None:
        request = pb.SearchRequest(collection=f"collections/{home[1]}", **fields)
        answer = await self.call(home, self.retriever.stub.Search, request)
        assert (answer is None) == (home not in self.there)
        if answer is not None:
            self.searches += 1
            self.found += bool(answer.hits)
            assert {hit.passage.source for hit in answer.hits} <= self.there[home]
            if fields.get("filter", "").startswith("team = ") and mark(home) not in fields["filter"]:
                assert not answer.hits

    async def _ingest(self, home: Home, document: str) -> None:
        text = f"common word {mark(home)} of {document}. " * 3
        metadata = {
            "team": mark(home),
            "n": len(document),
            "tags": ["shared", mark(home)],
            "owner": {"name": mark(home)},
        }
        messages = [
            start(f"collections/{home[1]}", request_id=f"{mark(home)}{self.answers}"),
            header(source(home, document), metadata, title=f"Title {mark(home)}", mime_type="text/plain"),
            pb.IngestDocumentsRequest(data=text.encode()),
        ]
        outcome = await self.retriever.ingest(messages, tenant=home[0])
        for message in (*outcome.progress, outcome.finished):
            self.check(home, message.SerializeToString())
        assert outcome.finished.documents == 1
        self.there.setdefault(home, set()).add(source(home, document))

    async def _name(self, home: Home, document: str) -> str:
        from services.retriever.types import document_name

        return f"collections/{home[1]}/documents/{document_name(source(home, document))}"

    async def _get(self, home: Home, document: str) -> None:
        request = pb.GetDocumentRequest(name=await self._name(home, document))
        answer = await self.call(home, self.retriever.stub.GetDocument, request)
        assert (answer is not None) == (source(home, document) in self.there.get(home, ()))

    async def _delete(self, home: Home, document: str) -> None:
        request = pb.DeleteDocumentRequest(name=await self._name(home, document))
        answer = await self.call(home, self.retriever.stub.DeleteDocument, request)
        assert (answer is not None) == (source(home, document) in self.there.get(home, ()))
        self.there.get(home, set()).discard(source(home, document))

    async def _list(self, home: Home, _: None) -> None:
        request = pb.ListDocumentsRequest(collection=f"collections/{home[1]}", page_size=2)
        listed: list[str] = []
        while True:
            answer = await self.call(home, self.retriever.stub.ListDocuments, request)
            assert (answer is None) == (home not in self.there)
            if answer is None:
                return
            listed += [document.source for document in answer.documents]
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        assert sorted(listed) == sorted(self.there[home])

    async def _collection(self, home: Home, _: None) -> None:
        request = pb.GetCollectionRequest(name=f"collections/{home[1]}")
        answer = await self.call(home, self.retriever.stub.GetCollection, request)
        assert (answer is None) == (home not in self.there)
        if answer is not None:
            assert answer.collection.document_count == len(self.there[home])

    async def _collections(self, home: Home, _: None) -> None:
        answer = await self.call(home, self.retriever.stub.ListCollections, pb.ListCollectionsRequest())
        assert [one.name for one in answer.collections] == sorted(
            f"collections/{collection}" for tenant, collection in self.there if tenant == home[0]
        )

    async def _create(self, home: Home, _: None) -> None:
        request = pb.CreateCollectionRequest(name=f"collections/{home[1]}")
        await self.call(home, self.retriever.stub.CreateCollection, request)
        self.there.setdefault(home, set())

    async def _drop(self, home: Home, _: None) -> None:
        request = pb.DeleteCollectionRequest(name=f"collections/{home[1]}")
        answer = await self.call(home, self.retriever.stub.DeleteCollection, request)
        assert (answer is None) == (self.there.pop(home, None) is None)

    async def _reindex(self, home: Home, to_words: bool) -> None:
        """It goes on beside what comes next; the half-made collection is nobody's to see."""
        embedder = "none:" if to_words else self.embedder
        request = pb.ReindexCollectionRequest(name=f"collections/{home[1]}", embedder=embedder)
        answer = await self.call(home, self.retriever.stub.ReindexCollection, request)
        assert answer is None or home in self.there

    async def _jobs(self, home: Home, _: None) -> None:
        answer = await self.call(home, self.retriever.jobs.ListJobs, jobs_pb2.ListJobsRequest(), own_tenant=True)
        self.jobs[home[0]] = [job.name for job in answer.jobs]

    async def _job(self, home: Home, with_: tuple[str, Home]) -> None:
        method, (other, _) = with_
        for name in self.jobs[other][:1]:
            request = getattr(jobs_pb2, f"{method}Request")(name=name)
            answer = await self.call(home, getattr(self.retriever.jobs, method), request, own_tenant=True)
            assert answer is None or other == home[0]


def test_no_call_gives_a_byte_of_another_tenant_or_collection(tmp_path: Path) -> None:
    with asyncio.Runner() as runner, embedding_server(BagOfWords()) as server:
        retriever = served(tmp_path, embedder=server.url())
        world = World(runner.run(retriever.__aenter__()), server.url())

        async def fill() -> None:
            for home in HOMES:
                for document in DOCUMENTS:
                    await world._ingest(home, document)

        @settings(
            max_examples=max(1, CASES // CALLS), deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # what is there depends on all before
        )  # fmt: skip
        @given(st.lists(steps, min_size=CALLS, max_size=CALLS))
        def run(calls: list[tuple[str, Home, Any]]) -> None:
            async def example() -> None:
                for step in calls:
                    await world.do(step)

            runner.run(example())

        try:
            runner.run(fill())
            run()
        finally:
            runner.run(retriever.__aexit__(None, None, None))
        assert world.answers >= CASES
        assert world.found > world.searches / 4 > CASES / 20  # there was something to find

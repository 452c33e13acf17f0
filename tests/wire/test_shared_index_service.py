"""Two retrievers that share a log and an index in one PostgreSQL, through gRPC; and one that must not have it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.embedding_server import embedding_server
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from tests.support.retrieval import BagOfWords
from tests.support.retriever_server import epoch_of, served
from weft.errors import WeftError
from weft.retriever.v1 import retriever_pb2 as pb

pytestmark = pytest.mark.postgresql


async def test_what_one_retriever_takes_in_the_other_finds_by_its_vectors_until_it_is_deleted(
    postgresql_server: PostgresqlServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    pytest.importorskip("tenacity")
    index = await postgresql_server.make_index()
    store = index.replace("pgvector:", "postgresql:", 1)
    with embedding_server(BagOfWords()) as embedder:
        options = {"embedder": embedder.url(), "index": index}
        async with (
            served(tmp_path / "a", store=store, **options) as one,
            served(tmp_path / "b", store=store, **options) as other,
        ):
            epoch = epoch_of(await one.ingest({"fox.txt": "fox owl", "hare.txt": "hare wolf"}))
            found = await other.search("zyx", min_epoch=epoch, explain=True)
            assert {hit.passage.source for hit in found.hits} == {"fox.txt", "hare.txt"}, "no word of it is in them"
            assert list(found.degraded) == []
            assert found.epoch.log_id == epoch.log_id
            assert found.epoch.sequence >= epoch.sequence
            await asyncio.to_thread(postgresql_server.kill)
            found = await other.search("fox")
            assert [hit.passage.source for hit in found.hits] == ["fox.txt"]
            assert [(lack.stage, lack.fallback) for lack in found.degraded] == [("index", "lexical_only")]
            await asyncio.to_thread(postgresql_server.start)
            for _ in range(100):
                found = await other.search("zyx")
                if not found.degraded:
                    break
                await asyncio.sleep(0.1)
            assert {hit.passage.source for hit in found.hits} == {"fox.txt", "hare.txt"}
            gone = await one.stub.DeleteCollection(pb.DeleteCollectionRequest(name="collections/default"))
            epoch = epoch_of(await one.ingest({"newt.txt": "newt"}))
            assert epoch.sequence > gone.epoch.sequence
            found = await other.search("zyx", min_epoch=epoch)
            assert {hit.passage.source for hit in found.hits} == {"newt.txt"}
            assert not one.failures
            assert not other.failures


async def test_a_retriever_with_another_log_does_not_start_on_an_index_in_use(
    postgresql_server: PostgresqlServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    index = await postgresql_server.make_index()
    async with served(tmp_path / "a", index=index):
        with pytest.raises(WeftError) as caught:
            async with served(tmp_path / "b", index=index):
                pass
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.field == "WEFT_RETRIEVER__INDEX"

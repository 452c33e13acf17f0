"""A retriever whose store is PostgreSQL, and what it does while the server is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from tests.support.retriever_server import Served, epoch_of, failure, served
from weft.jobs.v1 import jobs_pb2
from weft.retriever.v1 import retriever_pb2 as pb

pytestmark = pytest.mark.postgresql
AWAY_S = 10.0
T = TypeVar("T")


async def eventually(call: Callable[[], Awaitable[T]], within_s: float) -> T:
    """Call until it doesn't fail."""
    until_s = time.monotonic() + within_s
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.1)


async def test_two_replicas_share_documents_jobs_and_deletions(
    tmp_path: Path,
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    store = await postgresql_server.make_database()
    async with served(tmp_path / "one", store=store) as one, served(tmp_path / "other", store=store) as other:
        long = "\n\n".join(f"part{number}. " + "It goes on. " * 70 for number in range(80))
        outcome = await one.ingest({"a.txt": "apples grow on trees", "long.txt": long})
        epoch = epoch_of(outcome)
        assert await other.sources("apples", min_epoch=epoch) == ["a.txt"]
        assert (await other.search("part77", min_epoch=epoch)).hits[0].passage.text.startswith("part77.")
        jobs = await other.jobs.ListJobs(jobs_pb2.ListJobsRequest(), timeout=5)
        assert [job.state for job in jobs.jobs] == [jobs_pb2.JOB_STATE_SUCCEEDED]
        name = (await one.search("apples")).hits[0].passage.name.partition("/chunks/")[0]
        gone = await other.stub.DeleteDocument(pb.DeleteDocumentRequest(name=name), timeout=5)
        assert "a.txt" not in await one.sources("apples", min_epoch=gone.epoch)
    async with served(tmp_path / "third", store=store) as third:
        assert (await third.search("part77", min_epoch=epoch)).hits


async def test_while_the_server_is_away_searches_go_on_writes_say_so_and_then_all_recovers_by_itself(
    tmp_path: Path,
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    store = await postgresql_server.make_database()
    async with served(tmp_path / "one", store=store) as one, served(tmp_path / "other", store=store) as other:
        outcome = await one.ingest({"a.txt": "apples grow on trees"})
        for replica in (one, other):
            assert await replica.sources("apples", min_epoch=epoch_of(outcome)) == ["a.txt"]
        await asyncio.to_thread(postgresql_server.kill)
        until_s = time.monotonic() + AWAY_S
        searches = 0
        while time.monotonic() < until_s:
            for replica in (one, other):
                assert await replica.sources("apples") == ["a.txt"]
                searches += 1
            await _refused(one)
            await asyncio.sleep(0.05)
        assert searches > 50
        await asyncio.to_thread(postgresql_server.start)
        again = await eventually(lambda: one.ingest({"b.txt": "bread is baked"}), 15)
        assert again.finished.documents == 1
        assert await other.sources("bread", min_epoch=epoch_of(again)) == ["b.txt"]
        assert not one.failures
        assert not other.failures


async def _refused(replica: Served) -> None:
    began_s = time.monotonic()
    for call in (
        replica.stub.CreateCollection(pb.CreateCollectionRequest(name="collections/new"), timeout=10),
        replica.ingest({"b.txt": "bread is baked"}),
    ):
        err = await failure(call)
        assert err.reason == "DEPENDENCY_UNAVAILABLE", err
        assert "postgresql://weft:***@" in err.message
    assert time.monotonic() - began_s < 5

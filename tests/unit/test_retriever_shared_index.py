"""A shared index between replicas: who writes, what an answer may claim, a store that is killed, hangs or is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from mesh.deadline import Deadline
from mesh.plugins import Url
from services.retriever.indexes import pgvector
from services.retriever.indexes.pgvector import PgvectorIndex
from services.retriever.ports import Changes
from services.retriever.replicas import applying
from services.retriever.replicas.applying import Applier
from services.retriever.search.queries import ask as embed
from services.retriever.types import Epoch, Found, Query
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from tests.support.retrieval import KEY, BagOfWords, House, house, put
from weft.errors import WeftError

pytestmark = pytest.mark.postgresql


@pytest.fixture
async def index(postgresql_server: PostgresqlServer) -> str:  # noqa: F811
    return await postgresql_server.make_index()


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "LEASE_S", 0.9)
    monkeypatch.setattr(applying, "_RETRY_S", 0.1)


@asynccontextmanager
async def opened(index: str, log_id: str = "1" * 32) -> AsyncIterator[PgvectorIndex]:
    made = pgvector.open(Url.parse(index))
    try:
        await made.start(log_id)
        yield made
    finally:
        await made.close()


async def run(index: str, *statements: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(index.replace("pgvector:", "postgresql:", 1))
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


async def ask(of: House, text: str, deadline_s: float = 20, **fields: object) -> Found:
    return await of.searcher.search(Query(KEY, text, top_k=10, **fields), Deadline.after(deadline_s))  # type: ignore[arg-type]


async def made_with(of: House, *texts: str) -> int:
    made = await of.log.create_collection(KEY, "bag:", "bag:", BagOfWords.dimension)
    sequences = [(await put(of.log, made, f"{text}.txt", text)).sequence for text in texts]
    return sequences[-1] if sequences else made.sequence


async def whole(of: House, text: str, sequence: int, within_s: float = 15.0) -> Found:
    """The first answer that lacks nothing and looks as far as ``sequence``."""
    until_s = time.monotonic() + within_s
    await of.replica.reach(Epoch(of.log.log_id, sequence), Deadline.after(within_s))
    while True:
        found = await ask(of, text)
        if not found.lacks and found.epoch.sequence >= sequence:
            return found
        assert time.monotonic() < until_s, found
        await asyncio.sleep(0.05)


def sources(found: Found) -> set[str]:
    return {hit.document.source for hit in found.hits}


# -- who writes ---------------------------------------------------------------------------------------


async def test_one_has_the_lease_and_a_holder_that_was_paused_can_write_nothing(index: str) -> None:
    async with opened(index) as one, opened(index) as other:
        old = await one.claim("one", 0.3)
        assert old is not None
        assert await other.claim("other", 0.3) is None
        assert await one.claim("one", 0.3) == old
        assert await one.apply(old, 0, Changes(5))
        await asyncio.sleep(0.4)
        assert await one.apply(old, 5, Changes(6)), "late, but nobody else has begun"
        new = await other.claim("other", 5)
        assert new is not None
        assert new.fence > old.fence
        assert not await one.apply(old, 6, Changes(7))
        assert not await one.clear(old)
        await one.give_up(old)
        assert await one.claim("one", 5) is None
        assert not await other.apply(new, 5, Changes(7)), "it begins where the index is not"
        assert await other.apply(new, 6, Changes(7))
        assert await one.watermark(6, 1) == 7


async def test_the_lease_is_not_given_away_in_the_middle_of_a_write(index: str) -> None:
    async with opened(index) as one, opened(index) as other:
        old = await one.claim("one", 0.1)
        assert old is not None
        async with one._transaction() as writing:
            assert await writing.fetchval(pgvector.sql.HOLD, old.fence) == 0
            await asyncio.sleep(0.2)
            assert await other.claim("other", 5) is None
            await writing.execute(pgvector.sql.MOVE, 3)
        assert await other.claim("other", 5) is not None
        assert await other.watermark(0, 1) == 3


async def test_when_the_holder_goes_away_another_goes_on(index: str, tmp_path: Path) -> None:
    async with house(tmp_path, index=index, applies=False) as one, house(tmp_path, index=index, applies=False) as other:
        holder = asyncio.create_task(Applier(one.log, one.index).run())  # type: ignore[arg-type]
        await whole(one, "fox", await made_with(one, "fox owl"))
        successor = asyncio.create_task(Applier(other.log, other.index).run())  # type: ignore[arg-type]
        try:
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)
            found = await whole(one, "zyx", await made_with(one, "fox owl", "hare wolf"))
            assert sources(found) == {"fox owl.txt", "hare wolf.txt"}
        finally:
            successor.cancel()
            await asyncio.gather(successor, return_exceptions=True)


# -- what an answer may claim -------------------------------------------------------------------------


async def test_an_answer_looks_no_farther_than_the_index_and_an_epoch_waits_for_both(
    index: str, tmp_path: Path
) -> None:
    async with house(tmp_path, index=index, applies=False) as one:
        sequence = await made_with(one, "fox owl", "hare wolf")
        await one.replica.reach(Epoch(one.log.log_id, sequence), Deadline.after(5))
        for _ in range(2):
            found = await ask(one, "fox")
            assert (found.epoch.sequence, found.cached, found.lacks) == (0, False, ())
            assert sources(found) == {"fox owl.txt"}, "by its words"
        with pytest.raises(WeftError) as caught:
            await ask(one, "fox", 0.3, min_epoch=Epoch(one.log.log_id, sequence))
        assert caught.value.reason == "EPOCH_NOT_REACHED"
        assert caught.value.metadata == {"wanted": str(sequence), "reached": "0", "part": "index"}
        assert "the shared index had reached 0" in caught.value.message
        waiting = asyncio.create_task(ask(one, "fox", min_epoch=Epoch(one.log.log_id, sequence)))
        applier = asyncio.create_task(Applier(one.log, one.index).run())  # type: ignore[arg-type]
        try:
            found = await waiting
            assert found.epoch.sequence == sequence
            assert sources(found) == {"fox owl.txt", "hare wolf.txt"}
            assert (await ask(one, "fox")).cached
        finally:
            applier.cancel()
            await asyncio.gather(applier, return_exceptions=True)


async def test_what_the_replica_does_not_know_is_left_out_and_others_take_its_place(index: str, tmp_path: Path) -> None:
    async with house(tmp_path, index=index) as one:
        near = [f"zyx {number}" for number in range(200)]
        sequence = await made_with(one, *near, "zyx kept")
        await whole(one, "zyx", sequence)
        view = one.replica.state.views[KEY]
        sequence = await made_with(one, *(f"zyx new {number}" for number in range(60)))
        made = await one.log.get_collection(KEY)
        assert made is not None
        for text in near[:150]:
            name = next(d.name for d in await one.log.list_documents(made, "", 1_000) if d.source == f"{text}.txt")
            sequence = await one.log.delete_document(made, name) or 0
        await whole(one, "zyx", sequence)
        assert one.shared is not None
        asked = embed(BagOfWords(), "zyx")
        hits, lacks = await one.shared.find(view, Query(KEY, "blorp", top_k=40), asked, Deadline.after(10))
        assert hits is not None
        assert lacks == ()
        assert len(hits) == 40
        assert not any("new" in hit.document.source for hit in hits), "the old view never saw those"


# -- a store that is away, hangs, or is another -------------------------------------------------------


async def test_a_store_that_is_killed_costs_the_vectors_and_nothing_else_and_comes_back_by_itself(
    tmp_path: Path,
) -> None:
    server = PostgresqlServer()
    try:
        index = await server.start().make_index()
        async with house(tmp_path, index=index) as one:
            await whole(one, "fox", await made_with(one, "fox owl", "hare wolf"))
            await asyncio.to_thread(server.kill)
            sequence = await made_with(one, "fox owl", "hare wolf", "newt fox")
            found = await ask(one, "fox", min_epoch=Epoch(one.log.log_id, sequence))
            (lack,) = found.lacks
            assert (lack.stage, lack.reason, lack.fallback) == ("index", "DEPENDENCY_UNAVAILABLE", "lexical_only")
            assert sources(found) == {"fox owl.txt", "newt fox.txt"}
            assert found.epoch.sequence == sequence
            began_s = time.monotonic()
            assert (await ask(one, "wolf", 5)).lacks
            assert time.monotonic() - began_s < 1
            await asyncio.to_thread(server.start)
            found = await whole(one, "fox", sequence)
            assert sources(found) == {"fox owl.txt", "newt fox.txt", "hare wolf.txt"}
    finally:
        server.close()


async def test_a_store_that_hangs_costs_a_search_a_bounded_time(
    index: str,
    tmp_path: Path,
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    async with house(tmp_path, index=index) as one:
        sequence = await made_with(one, "fox owl", "hare wolf")
        await whole(one, "fox", sequence)
        postgresql_server.pause()
        try:
            began_s = time.monotonic()
            found = await ask(one, "wolf", 1.0)
            assert time.monotonic() - began_s < 1.0
            assert [lack.stage for lack in found.lacks] == ["index"]
            assert sources(found) == {"hare wolf.txt"}
            began_s = time.monotonic()
            assert (await ask(one, "owl", 10.0)).lacks
            assert time.monotonic() - began_s < 0.8, "it is left alone for a while"
        finally:
            postgresql_server.resume()
        assert sources(await whole(one, "wolf", sequence)) == {"fox owl.txt", "hare wolf.txt"}


async def test_a_replica_starts_without_the_store_and_takes_it_up_later(tmp_path: Path) -> None:
    server = PostgresqlServer()
    try:
        index = await server.start().make_index()
        await asyncio.to_thread(server.kill)
        async with house(tmp_path, index=index) as one:
            sequence = await made_with(one, "fox owl", "hare wolf")
            await one.replica.reach(Epoch(one.log.log_id, sequence), Deadline.after(5))
            assert sources(await ask(one, "fox")) == {"fox owl.txt"}
            await asyncio.to_thread(server.start)
            assert len((await whole(one, "zyx", sequence)).hits) == 2
    finally:
        server.close()


async def test_an_index_of_another_log_is_refused_and_left_as_it_is(index: str, tmp_path: Path) -> None:
    async with house(tmp_path / "a", index=index) as one:
        sequence = await made_with(one, "fox owl")
        await whole(one, "fox", sequence)
        with pytest.raises(WeftError) as caught:
            async with house(tmp_path / "b", index=index):
                pass
        assert caught.value.reason == "INVALID_FIELD"
        assert caught.value.metadata["found"] == one.log.log_id
        assert "holds the index of another log" in caught.value.message
        assert "***@" in caught.value.message
        assert (await whole(one, "zyx", sequence)).hits


async def test_a_store_that_was_emptied_is_filled_again(index: str, tmp_path: Path) -> None:
    async with house(tmp_path, index=index) as one:
        sequence = await made_with(one, "fox owl", "hare wolf")
        await whole(one, "zyx", sequence)
        await run(
            index,
            "DROP SCHEMA weft_index CASCADE",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'weft%'",
        )
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            if await run(index, "SELECT 1 FROM pg_namespace WHERE nspname = 'weft_index'"):
                break
            await asyncio.sleep(0.1)
        found = await ask(one, "blorp", min_epoch=Epoch(one.log.log_id, sequence))
        assert len((await whole(one, "blorp", sequence)).hits) == 2, found


async def test_a_log_that_was_set_back_to_a_backup_is_followed_from_its_beginning(index: str, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    async with house(tmp_path, index=index) as one:
        await whole(one, "fox", await made_with(one, "fox owl"))
    (tmp_path / "backup" / "log.db").write_bytes((tmp_path / "log.db").read_bytes())
    async with house(tmp_path, index=index) as one:
        sequence = await made_with(one, "fox owl", "hare wolf", "newt")
        await whole(one, "fox", sequence)
    async with house(tmp_path / "backup", index=index) as one:
        assert one.replica.state.sequence == 2
        while not await run(index, "SELECT FROM weft_index.state WHERE sequence = 2"):  # noqa: ASYNC110 - a store tells no stranger
            await asyncio.sleep(0.05)
        assert sources(await whole(one, "zyx", 2)) == {"fox owl.txt"}
        assert len(await run(index, "SELECT FROM weft_index.passages_1")) == 1


async def test_a_deleted_collection_leaves_nothing_behind(index: str, tmp_path: Path) -> None:
    async with house(tmp_path, index=index) as one:
        await whole(one, "fox", await made_with(one, "fox owl"))
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'weft_index' AND tablename LIKE 'passages%'"
        assert len(await run(index, tables)) == 1
        sequence = await one.log.delete_collection(KEY)
        assert sequence is not None
        assert one.shared is not None
        assert await one.shared.reach(sequence, Deadline.after(10))
        assert await run(index, tables) == []
        assert await run(index, "SELECT * FROM weft_index.collections") == []

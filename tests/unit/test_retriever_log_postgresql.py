"""The PostgreSQL log: a server that is killed, hangs, comes back, is another one, or was set up in its own way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import numpy as np
import pytest

from mesh import postgresql as plumbing
from mesh.plugins import Url
from services.retriever.logs import _staging, postgresql
from services.retriever.logs.postgresql import PostgresqlLog
from services.retriever.ports import Content
from services.retriever.types import Document
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from tests.support.retrieval import DIMENSION, KEY, cut, put, record
from weft.errors import WeftError

pytestmark = pytest.mark.postgresql
LONG = "\n\n".join(f"Paragraph {number} speaks at some length of one thing. " * 12 for number in range(300))


@pytest.fixture
async def url(postgresql_server: PostgresqlServer) -> str:  # noqa: F811
    return await postgresql_server.make_database()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresqlLog]:
    log = await postgresql.open(Url.parse(url))
    try:
        yield log
    finally:
        await log.close()


async def refusal(url: str) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await postgresql.open(Url.parse(url))
    return caught.value


async def counts(url: str, *tables: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetchval(f"SELECT count(*) FROM weft_log.{table}") for table in tables]
    finally:
        await connection.close()


async def run(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


# -- killed, hanging, back again ----------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_after_the_server_was_killed_in_mid_commit() -> None:
    server = PostgresqlServer()
    try:
        await _written_while_killed(server.start(), 1_000, random.Random(20_261_121))
    finally:
        server.close()


async def _written_while_killed(server: PostgresqlServer, writes: int, dice: random.Random) -> None:
    url = await server.make_database()
    acknowledged: dict[str, Document] = {}
    left = list(range(writes))
    kills = writes // 100

    async with opened(url) as one, opened(url) as other:
        made = await one.create_collection(KEY, "bag:", "bag:", DIMENSION)

        async def write(log: PostgresqlLog) -> None:
            while left:
                name = f"{left.pop()}.txt"
                while name not in acknowledged:
                    try:
                        acknowledged[name] = await put(log, made, name, f"text of {name}")
                    except WeftError as err:
                        assert err.reason == "DEPENDENCY_UNAVAILABLE", err
                        await asyncio.sleep(0.05)

        async def kill() -> None:
            for number in range(1, kills + 1):
                while len(acknowledged) < writes * number // (kills + 1):  # noqa: ASYNC110 - any moment will do
                    await asyncio.sleep(0.001)
                await asyncio.sleep(dice.random() * 0.01)
                await asyncio.to_thread(server.kill)
                # What was acknowledged up to here must be there, whatever the next start has to mend.
                await asyncio.to_thread(server.start)

        await asyncio.wait_for(asyncio.gather(kill(), *(write(log) for log in (one, other) for _ in range(4))), 100)
        changes = await other.read(0, max_chunks=10 * writes)
    assert {stored.document.source: stored.document for stored in changes.documents} == acknowledged
    assert len(changes.documents) == writes
    # Nothing twice: each write that was cut off and sent again took one number, or found itself there.
    assert sorted(document.sequence for document in acknowledged.values()) == list(range(2, writes + 2))
    assert await counts(url, "log", "documents") == [writes + 1, writes]


async def test_a_server_that_hangs_is_an_error_in_time_and_its_return_needs_no_help(
    url: str,
    postgresql_server: PostgresqlServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plumbing, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(plumbing, "CONNECT_TIMEOUT_S", 0.5)
    async with opened(url) as log:
        made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
        postgresql_server.pause()
        try:
            began_s = time.monotonic()
            with pytest.raises(WeftError) as caught:
                await put(log, made, "a.txt", "held up")
            assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
            assert time.monotonic() - began_s < 4
        finally:
            postgresql_server.resume()
        assert (await _patiently(lambda: put(log, made, "a.txt", "held up"))).sequence == 2


async def test_a_writer_that_stops_in_the_middle_holds_the_others_up_for_a_moment_only(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plumbing, "IDLE_IN_TRANSACTION_S", 0.5)
    async with opened(url) as one, opened(url) as other:
        made = await one.create_collection(KEY, "bag:", "bag:", DIMENSION)
        with pytest.raises(WeftError) as caught:  # noqa: PT012 - a transaction is one thing
            async with one._database.transaction() as paused:
                await paused.execute("SELECT pg_advisory_xact_lock($1)", plumbing.lock_key("weft_log"))
                assert (await put(other, made, "a.txt", "after all")).sequence == 2
                await paused.execute("SELECT 1")
        assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"


async def test_a_listener_that_was_cut_off_listens_again_and_misses_nothing(url: str) -> None:
    async with opened(url) as one, opened(url) as other:
        made = await one.create_collection(KEY, "bag:", "bag:", DIMENSION)
        for number in range(3):
            await run(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            document = await put(one, made, f"{number}.txt", "news")
            assert await other.wait_changed(document.sequence - 1, 5)
        await asyncio.sleep(2 * plumbing._RECONNECT_S)
        waiting = asyncio.create_task(other.wait_changed(document.sequence, 5))
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        await put(one, made, "last.txt", "news")
        assert await waiting
        assert time.monotonic() - began_s < postgresql._POLL_S / 2  # it was told, not only asked


async def test_a_listener_outlives_what_asyncpg_says_of_a_connection_that_breaks_unseen(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, told = plumbing.Database._check, 0

    async def once(self: plumbing.Database, connection: Any) -> None:
        nonlocal told
        told += 1
        if told == 1:
            raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
        await check(self, connection)

    monkeypatch.setattr(plumbing.Database, "_check", once)
    async with opened(url) as log:
        async with asyncio.timeout(20):
            while told < 2:  # noqa: ASYNC110 - asyncpg tells nobody
                await asyncio.sleep(0.02)
        made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
        assert not log._listening.done()
        assert await log.wait_changed(made.sequence - 1, 5)


async def _patiently(call: object) -> Document:
    for _ in range(50):
        with suppress(WeftError):
            return await call()  # type: ignore[operator, no-any-return]
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come back")


# -- what a crash and a change leave behind -----------------------------------------------------------


async def test_replaced_deleted_and_abandoned_content_is_swept_by_several_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as one, opened(url) as other:
        made = await one.create_collection(KEY, "bag:", "bag:", DIMENSION)
        first = await put(one, made, "a.txt", LONG)
        assert first.chunk_count > _staging.SWEEP_ROWS
        await put(one, made, "a.txt", "short now")
        for number in range(3):
            await put(one, made, f"{number}.txt", f"text {number}")
        pieces = cut(LONG)[:8]
        staged = await one.stage(made, None, pieces, np.ones((8, DIMENSION), np.float32))

        async def sweep(log: PostgresqlLog) -> None:
            while await log.sweep():
                pass

        await asyncio.gather(sweep(one), sweep(other))
        assert await counts(url, "chunks", "batches", "documents") == [4 + 8, 5, 4]  # the staged may be under way
        monkeypatch.setattr(_staging, "STAGED_LIFE_S", 0.0)
        await asyncio.gather(sweep(one), sweep(other))
        assert await counts(url, "chunks", "batches", "documents") == [4, 4, 4]
        with pytest.raises(WeftError) as caught:
            await other.publish(
                made, [Content(record("b", LONG, pieces), [], np.zeros((0, DIMENSION), np.float32), staged)]
            )
        assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
        await one.delete_collection(KEY)
        await asyncio.gather(sweep(one), sweep(other))
    assert await counts(url, "chunks", "batches", "documents", "collections", "gone") == [0] * 5


# -- whose database it is -----------------------------------------------------------------------------


async def test_several_that_open_a_new_store_at_once_share_one_log(url: str) -> None:
    logs = await asyncio.gather(*(postgresql.open(Url.parse(url)) for _ in range(4)))
    assert len({log.log_id for log in logs}) == 1
    for log in logs:
        await log.close()


async def test_the_server_s_own_habits_change_nothing(
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    url = await postgresql_server.make_database()
    name = url.rsplit("/", 1)[1]
    for habit in ("default_transaction_isolation = serializable", "synchronous_commit = off"):
        await postgresql_server.run(f"ALTER DATABASE {name} SET {habit}")
    async with opened(url) as one, opened(url) as other:
        made = await one.create_collection(KEY, "bag:", "bag:", DIMENSION)
        writes = [put(log, made, f"{n}.txt", f"text {n}") for n in range(10) for log in (one, other)]
        assert max(document.sequence for document in await asyncio.gather(*writes)) == 11
        async with one._database.connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_a_secret_is_in_no_error(url: str, postgresql_server: PostgresqlServer) -> None:  # noqa: F811
    secret = "wrong-" + postgresql_server.password
    for wrong in (
        url.replace(postgresql_server.password, secret),
        url.replace("127.0.0.1", "127.0.0.1:1").replace(":1:", ":1/db?x=").replace(postgresql_server.password, secret),
        postgresql_server.url("absent"),
    ):
        err = await refusal(wrong)
        assert err.reason == "DEPENDENCY_UNAVAILABLE"
        assert "postgresql://weft:***@127.0.0.1" in err.message
        assert postgresql_server.password not in f"{err} {err.metadata}"


async def test_a_database_of_another_encoding_is_refused_with_what_to_do(
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    url = await postgresql_server.make_database("ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    err = await refusal(url)
    assert (err.reason, err.metadata["encoding"]) == ("INVALID_FIELD", "LATIN1")
    assert "UTF8" in err.message


async def test_somebody_else_s_schema_and_another_version_s_are_left_alone(url: str) -> None:
    await run(url, "CREATE SCHEMA weft_log", "CREATE TABLE weft_log.theirs (x int)")
    err = await refusal(url)
    assert err.reason == "STORE_CORRUPT"
    assert "not Weft's" in err.message
    await run(url, "DROP SCHEMA weft_log CASCADE")
    async with opened(url):
        pass
    await run(url, "UPDATE weft_log.meta SET value = '99' WHERE name = 'version'")
    err = await refusal(url)
    assert err.reason == "STORE_CORRUPT"
    assert "version 99" in err.message


async def test_a_table_that_went_away_and_a_store_that_became_another_are_corrupt(
    url: str,
    postgresql_server: PostgresqlServer,  # noqa: F811
) -> None:
    async with opened(url) as log:
        made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
        await run(url, "DROP TABLE weft_log.chunks")
        with pytest.raises(WeftError) as caught:
            await put(log, made, "a.txt", "nowhere to go")
        assert caught.value.reason == "STORE_CORRUPT"
        await run(url, "DROP SCHEMA weft_log CASCADE")
        async with opened(url):
            await asyncio.to_thread(postgresql_server.kill)
            await asyncio.to_thread(postgresql_server.start)
            with pytest.raises(WeftError) as caught:
                await log.read(0)
        assert caught.value.reason == "STORE_CORRUPT", caught.value
        assert "took its place" in caught.value.message

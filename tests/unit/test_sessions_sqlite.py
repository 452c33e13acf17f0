"""What is particular to sessions in SQLite: its file, its threads, its group commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh.plugins import Url
from mesh.settings import load
from services.orchestrator import codec
from services.orchestrator.records import Entry, Limits, Opening, Taken
from services.orchestrator.sessions import _writer, sqlite
from services.orchestrator.sessions._writer import Writer
from services.orchestrator.settings import Settings
from services.orchestrator.types import Finished, TextDelta
from weft.errors import Reason, WeftError, error
from weft.values import Citation, Degradation, FinishReason, Ledger, LedgerEntry, Usage


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.1)
    db.execute("CREATE TABLE IF NOT EXISTS t (x UNIQUE)")
    return db


def insert(x: int) -> Any:
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (x,)).lastrowid


def count(db: sqlite3.Connection) -> int:
    (found,) = db.execute("SELECT COUNT(*) FROM t").fetchone()
    return int(found)


async def opened(place: Path) -> sqlite.SqliteSessions:
    return await sqlite.open(Url.parse(f"sqlite:///{place}"), Limits())


async def test_the_store_is_a_file_in_the_urls_directory_made_if_absent(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a" / "b")
    await store.close()
    assert (tmp_path / "a" / "b" / "sessions.db").exists()


def test_sessions_want_a_place_of_their_own_beside_a_store_that_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_STORE", "postgresql://u:s3cret@h/db")
    with pytest.raises(WeftError) as caught:
        load(Settings)
    assert "WEFT_ORCHESTRATOR__SESSIONS" in caught.value.message
    assert "s3cret" not in caught.value.message
    monkeypatch.setenv("WEFT_ORCHESTRATOR__SESSIONS", "sqlite:///here")
    assert load(Settings).sessions_url.path == "/here"


@pytest.mark.parametrize("url", ["sqlite:", "sqlite://host/dir", "sqlite:///"])
async def test_a_url_without_a_directory_is_refused(url: str) -> None:
    with pytest.raises(WeftError) as caught:
        await sqlite.open(Url.parse(url), Limits())
    assert caught.value.reason == Reason.INVALID_FIELD


async def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(WeftError) as caught:
        await opened(tmp_path)
    assert caught.value.reason == Reason.STORE_CORRUPT
    assert caught.value.metadata["store"].endswith("sessions.db")


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeftError) as caught:
        await opened(tmp_path / "file")
    assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE


async def test_tables_of_a_later_release_are_left_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await store.close()
    db = sqlite3.connect(tmp_path / "sessions.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(WeftError) as caught:
        await opened(tmp_path)
    assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE
    assert "99" in caught.value.message


async def test_a_store_is_durable_beyond_its_process(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    taken = await store.begin(Opening("acme", "s", True, "r", "why?", "a", "0" * 32))
    assert isinstance(taken, Taken)
    end = Finished("because", FinishReason.STOP)
    await store.finish(taken.lease, [Entry(1, TextDelta("because")), Entry(2, end)], end, "why?")
    other = await opened(tmp_path)  # while the first still has it open, as a second replica would
    (turn,) = await other.turns("acme", "s", after_turn=0, limit=9)
    assert turn.finished == end
    await store.close()
    await other.close()


def test_a_log_of_a_later_release_is_read_without_what_is_unknown() -> None:
    text = '[["delta",1,{"text":"a","colour":"red"}],["finished",2,{"text":"a","reason":"stop"}]]'
    assert codec.load(text) == [Entry(1, TextDelta("a")), Entry(2, Finished("a", FinishReason.STOP))]


def test_the_end_of_a_turn_stands_in_the_log_as_in_that_of_earlier_releases() -> None:
    stored = (
        '[["finished",2,{"text":"a b","reason":"length",'
        '"citations":[{"passage":"p","start_char":0,"end_char":1,"quote":"q","title":"T","section":"A","page":2,'
        '"source":"x.md"}],'
        '"usage":{"input_tokens":1,"output_tokens":2,"cached_tokens":3,"cost_micros":4},'
        '"ledger":{"deadline_ms":30000.0,"elapsed_ms":12.5,"lines":[{"stage":"session","start_ms":0.0,'
        '"duration_ms":0.5,"budget_ms":25000.0,"status":"OK"}]},'
        '"degraded":[{"stage":"tools","reason":"TOOL_FAILED","fallback":"without_tools","detail":"said so"}],'
        '"cached":true}]]'
    )
    finished = Finished(
        "a b",
        FinishReason.LENGTH,
        (Citation("p", 0, 1, "q", "T", "A", 2, "x.md"),),
        Usage(1, 2, 3, 4),
        Ledger(30_000.0, 12.5, (LedgerEntry("session", 0.0, 0.5, 25_000.0, "OK"),)),
        (Degradation("tools", "TOOL_FAILED", "without_tools", "said so"),),
        True,
    )
    assert codec.load(stored) == [Entry(2, finished)]
    # What later releases added, earlier ones pass over; the rest stands as it always did.
    assert codec.dump([Entry(2, finished)]).replace(',"currency":""', "") == stored


# -- group commit -------------------------------------------------------------------------------------


async def test_what_gathers_during_a_transaction_is_committed_in_one(tmp_path: Path) -> None:
    commits: list[str] = []
    db = connect(tmp_path / "t.db")
    db.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    writer = Writer(lambda: db)
    await asyncio.gather(*(writer.run(insert(x)) for x in range(100)))
    assert await writer.run(count) == 100
    assert len(commits) <= 4  # the first alone, the rest together, the count
    await writer.close()


async def test_an_operation_that_refuses_leaves_the_others_of_its_batch(tmp_path: Path) -> None:
    writer = Writer(lambda: connect(tmp_path / "t.db"))

    def refuse(_db: sqlite3.Connection) -> None:
        raise error(Reason.SESSION_FULL, "full")

    outcomes = await asyncio.gather(
        writer.run(insert(1)), writer.run(refuse), writer.run(insert(2)), return_exceptions=True
    )
    assert isinstance(outcomes[1], WeftError)
    assert await writer.run(count) == 2
    await writer.close()


async def test_an_operation_that_breaks_the_database_fails_alone(tmp_path: Path) -> None:
    writer = Writer(lambda: connect(tmp_path / "t.db"))
    outcomes = await asyncio.gather(*(writer.run(insert(x)) for x in (1, 2, 2, 3)), return_exceptions=True)
    assert [isinstance(outcome, sqlite3.IntegrityError) for outcome in outcomes] == [False, False, True, False]
    assert await writer.run(count) == 3
    await writer.close()


async def test_a_database_that_another_process_holds_fails_and_recovers(tmp_path: Path) -> None:
    writer = Writer(lambda: connect(tmp_path / "t.db"))
    await writer.run(insert(1))
    other = connect(tmp_path / "t.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await writer.run(insert(2))
    other.execute("ROLLBACK")
    other.close()
    await writer.run(insert(3))
    assert await writer.run(count) == 2
    await writer.close()


async def test_a_result_that_nobody_waits_for_is_taken_back(tmp_path: Path) -> None:
    writer = Writer(lambda: connect(tmp_path / "t.db"))

    def remove(_row: object) -> Any:
        return lambda db: db.execute("DELETE FROM t")

    for turns in range(20):  # cancelled before the thread has begun, while it works, when the result is there
        task = asyncio.create_task(writer.run(insert(turns), abandoned=remove))
        for _ in range(turns % 5):
            await asyncio.sleep(0.0005)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await writer.run(lambda db: None)
        left = await writer.run(count)
        assert left == (0 if isinstance(outcome, asyncio.CancelledError) else 1)
        await writer.run(lambda db: db.execute("DELETE FROM t"))
    await writer.close()


async def test_a_result_that_is_there_when_its_caller_is_cancelled_is_taken_back(tmp_path: Path) -> None:
    writer = Writer(lambda: connect(tmp_path / "t.db"))
    loop = asyncio.get_running_loop()

    def cancel_behind_the_result() -> None:
        time.sleep(0.05)  # meanwhile the thread hands the result over, which then stands before the cancelling
        loop.call_soon(task.cancel)

    def operation(db: sqlite3.Connection) -> None:
        insert(1)(db)
        loop.call_soon_threadsafe(cancel_behind_the_result)

    task = asyncio.create_task(writer.run(operation, abandoned=lambda _: lambda db: db.execute("DELETE FROM t")))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await writer.run(count) == 0
    await writer.close()


async def test_too_many_waiting_writes_are_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    writer = Writer(lambda: connect(tmp_path / "t.db"))

    def block(_db: sqlite3.Connection) -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

    first = asyncio.create_task(writer.run(block))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(writer.run(count)) for _ in range(4_096)]
    await asyncio.sleep(0)
    with pytest.raises(WeftError) as caught:
        await writer.run(count)
    assert caught.value.reason == Reason.OVERLOADED
    assert caught.value.retry_after_s
    release.set()
    await asyncio.gather(first, *waiting)
    await writer.close()


async def test_what_is_taken_back_is_never_refused_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "_MAX_WAITING", 2)
    writer, loop = Writer(lambda: connect(tmp_path / "t.db")), asyncio.get_running_loop()
    gates = [threading.Event() for _ in range(3)]
    begun = [threading.Event() for _ in range(3)]

    def waits(number: int, db: sqlite3.Connection) -> None:
        begun[number].set()
        insert(number)(db)
        assert gates[number].wait(20)

    first = asyncio.create_task(writer.run(partial(waits, 0)))
    assert await asyncio.to_thread(begun[0].wait, 10)
    leaving = asyncio.create_task(
        writer.run(partial(waits, 1), abandoned=lambda _: lambda db: db.execute("DELETE FROM t WHERE rowid = 2"))
    )
    beside = asyncio.create_task(writer.run(lambda _db: "told"))
    await asyncio.sleep(0)
    leaving.cancel()
    gates[0].set()
    await first
    assert await asyncio.to_thread(begun[1].wait, 10)
    behind = asyncio.create_task(writer.run(partial(waits, 2)))
    await asyncio.sleep(0)
    gates[1].set()
    assert begun[2].wait(10)  # blocks the loop: what was committed is not delivered before there is no room
    filling = [_writer._Job(lambda _db: None, loop.create_future(), None) for _ in range(2)]
    for job in filling:
        writer._add(job)
    async with asyncio.timeout(10):
        assert await beside == "told"
        gates[2].set()
        await asyncio.gather(behind, *(job.future for job in filling))  # and there is room again
        while await writer.run(count) != 2:  # noqa: ASYNC110 - what is taken back rings no bell
            await asyncio.sleep(0.01)
    await writer.close()

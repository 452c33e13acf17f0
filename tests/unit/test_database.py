"""The ground of embedded stores: whole transactions, a bell for changes, and what a damaged file is called."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from mesh import database
from mesh.database import Database, Schema
from weft.errors import WeftError

SCHEMA = Schema("the test store", 3, ("CREATE TABLE t (n INTEGER PRIMARY KEY)",), "throw it away")


def insert(number: int) -> database.Work[None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (?)", (number,))

    return work


async def numbers(db: Database) -> list[int]:
    return await db.read(lambda c: [row["n"] for row in c.execute("SELECT n FROM t ORDER BY n")])


async def refused(path: Path) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await database.open(path, SCHEMA)
    assert str(path) in caught.value.message
    return caught.value


async def test_what_one_writes_the_other_reads_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    one, other = [await database.open(tmp_path / "a" / "t.db", SCHEMA) for _ in range(2)]
    await one.write(insert(1))
    await one.write(insert(2), durable=True)

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (3)")
        raise KeyError("no")

    with pytest.raises(KeyError):
        await one.write(half)
    assert await numbers(other) == [1, 2]
    for db in (one, other):
        await db.close()


async def test_who_waits_is_woken_by_either_process_and_not_by_reads(tmp_path: Path) -> None:
    one, other = [await database.open(tmp_path / "t.db", SCHEMA) for _ in range(2)]
    seen = await one.changed(0, 0.0)
    while (now := await one.changed(seen, 0.2)) != seen:
        seen = now
    await numbers(one)
    await numbers(other)
    began_s = time.monotonic()
    assert await one.changed(seen, 0.2) == seen
    assert time.monotonic() - began_s >= 0.19
    for number, writer in enumerate((one, other)):
        waiting = asyncio.create_task(one.changed(seen, 60.0))
        await asyncio.sleep(0.02)
        await writer.write(insert(number))
        seen = await asyncio.wait_for(waiting, 10.0)
        while (now := await one.changed(seen, 0.2)) != seen:
            seen = now
    for db in (one, other):
        await db.close()


async def test_a_damaged_a_foreign_and_another_version_s_file_are_refused_by_name(tmp_path: Path) -> None:
    damaged, foreign, newer = tmp_path / "d.db", tmp_path / "f.db", tmp_path / "n.db"
    damaged.write_bytes(b"not a database at all, but long enough to be one" * 40)
    for path, statement in ((foreign, "CREATE TABLE theirs (x)"), (newer, "PRAGMA user_version = 4")):
        with sqlite3.connect(path) as db:
            db.execute(statement)
        db.close()
    for path, problem in ((damaged, "not a database"), (foreign, "not Weft's"), (newer, "version 4")):
        err = await refused(path)
        assert err.reason == "STORE_CORRUPT"
        assert problem in err.message
        assert "throw it away" in err.message


async def test_a_file_that_cannot_be_opened_is_a_dependency_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "t.db").mkdir()
    assert (await refused(tmp_path / "t.db")).reason == "DEPENDENCY_UNAVAILABLE"

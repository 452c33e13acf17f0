"""The SQLite log: crashes, sweeping, damage, and the threads under it."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from services.retriever.logs import _staging, sqlite
from services.retriever.ports import Content
from tests.support.retrieval import DIMENSION, KEY, cut, put, record
from weft.errors import WeftError

LONG = "\n\n".join(f"Paragraph {number} speaks at some length of one thing. " * 12 for number in range(300))

CRASH = """
import asyncio, os, sys
from pathlib import Path
from services.retriever.logs import sqlite
from tests.support.retrieval import KEY, DIMENSION, cut
import numpy as np

async def main(path, text):
    log = await sqlite.open_file(Path(path))
    made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    pieces = cut(text)
    await log.stage(made, None, pieces, np.ones((len(pieces), DIMENSION), np.float32))
    os.kill(os.getpid(), 9)

asyncio.run(main(sys.argv[1], "A text that will never be published. " * 200))
"""


def rows(path: Path, table: str) -> int:
    with sqlite3.connect(path) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return int(count)


async def refusal(path: Path) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await sqlite.open_file(path)
    return caught.value


async def test_a_crash_between_stage_and_publish_leaves_nothing_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    crashed = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASH, str(path))
    assert await crashed.wait() == -9
    assert rows(path, "chunks") > 0
    log = await sqlite.open_file(path)
    changes = await log.read(0)
    assert changes.documents == ()
    assert [c.document_count for c in changes.collections] == [0]
    assert not await log.sweep()  # it may still be somebody's, under way
    monkeypatch.setattr(_staging, "STAGED_LIFE_S", 0.0)
    while await log.sweep():
        pass
    await log.close()
    assert rows(path, "chunks") == rows(path, "batches") == 0


async def test_a_batch_that_was_swept_can_no_longer_be_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await sqlite.open_file(tmp_path / "log.db")
    made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    pieces = cut(LONG)
    vectors = np.ones((len(pieces), DIMENSION), np.float32)
    batch = await log.stage(made, None, pieces[:250], vectors[:250])
    monkeypatch.setattr(_staging, "STAGED_LIFE_S", 0.0)
    assert await log.sweep()  # some of it
    with pytest.raises(WeftError) as caught:
        await log.publish(made, [Content(record("a", LONG, pieces), pieces[250:], vectors[250:], batch)])
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert (await log.read(0)).documents == ()
    await log.close()


async def test_replaced_and_deleted_content_is_swept_a_little_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await sqlite.open_file(path)
    made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    first = await put(log, made, "a.txt", LONG)
    await put(log, made, "a.txt", "short now")
    for number in range(3):
        await put(log, made, f"{number}.txt", f"text {number}")
    assert first.chunk_count > _staging.SWEEP_ROWS
    steps = 0
    while await log.sweep():
        steps += 1
    assert steps > 1
    assert rows(path, "chunks") == rows(path, "batches") == rows(path, "documents") == 4
    await log.delete_collection(KEY)
    while await log.sweep():
        pass
    await log.close()
    assert [rows(path, table) for table in ("chunks", "batches", "documents", "collections", "gone")] == [0] * 5


async def test_a_log_outlives_its_process(tmp_path: Path) -> None:
    log = await sqlite.open_file(tmp_path / "log.db")
    made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    document = await put(log, made, "a.txt", "kept")
    await log.close()
    again = await sqlite.open_file(tmp_path / "log.db")
    assert again.log_id == log.log_id
    assert (await again.read(0)).documents[0].document == document
    await again.close()


async def test_two_that_open_a_new_store_at_once_share_one_log(tmp_path: Path) -> None:
    logs = await asyncio.gather(*(sqlite.open_file(tmp_path / "new" / "log.db") for _ in range(4)))
    assert len({log.log_id for log in logs}) == 1
    for log in logs:
        await log.close()


async def test_a_file_that_is_no_database_is_a_corrupt_store(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database, whatever its name says" * 40)
    err = await refusal(tmp_path / "log.db")
    assert err.reason == "STORE_CORRUPT"
    assert str(tmp_path / "log.db") in err.message


async def test_damage_inside_the_file_is_found_at_open(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await sqlite.open_file(path)
    made = await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    await put(log, made, "a.txt", LONG)
    await log.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    assert (await refusal(path)).reason == "STORE_CORRUPT"


async def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    assert (await refusal(path)).reason == "STORE_CORRUPT"
    assert rows(path, "theirs") == 0


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    err = await refusal(tmp_path / "file" / "log.db")
    assert err.reason == "DEPENDENCY_UNAVAILABLE"
    assert "file" in err.message


async def test_a_lock_that_is_held_too_long_is_an_error_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.2)
    log = await sqlite.open_file(tmp_path / "log.db")
    holder = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(WeftError) as caught:
        await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert (await log.read(0)).sequence == 0  # readers go on
    holder.execute("ROLLBACK")
    holder.close()
    await log.create_collection(KEY, "bag:", "bag:", DIMENSION)
    await log.close()

"""Opening a store: many processes at once, and a file that stays locked."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh import sqlite


def test_many_that_open_a_new_store_at_once_all_get_it(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / f"{attempt}.db"

        def opened(_: int, path: Path = path) -> str:
            db = sqlite.connect(path, synchronous="FULL", timeout_s=10)
            try:
                return str(db.execute("PRAGMA journal_mode").fetchone()[0])
            finally:
                db.close()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(opened, range(8))) == {"wal"}


def test_a_file_that_stays_locked_is_an_error_in_time(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite.connect(tmp_path / "held.db", synchronous="NORMAL", timeout_s=0.2)
    holder.close()

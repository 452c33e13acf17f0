"""Opens the SQLite files of embedded stores: write-ahead log, no implicit transactions.

Turning a new file to WAL needs it alone for a moment, and SQLite doesn't wait for that by its busy
timeout: of two processes that open a new store at once, one would be told "database is locked". So the
switch is tried again here. Everything after it waits as usual.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final, Literal

_PAUSE_S: Final = 0.01


def connect(path: Path, *, synchronous: Literal["FULL", "NORMAL"], timeout_s: float) -> sqlite3.Connection:
    """A connection for one thread at a time; blocks for up to ``timeout_s``, so call it off the loop.

    Raises:
        sqlite3.Error: the file can't be opened, or isn't a database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64)
    db.row_factory = sqlite3.Row
    until_s = time.monotonic() + timeout_s
    try:
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                    raise
                time.sleep(_PAUSE_S)
        db.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        db.close()
        raise
    return db

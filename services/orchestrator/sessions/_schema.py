"""The tables of ``sessions.db`` and the statements over them. ``sqlite.py`` says what they mean."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Final

from mesh import sqlite
from services.orchestrator.records import Lease, Opening

_VERSION: Final = 1
_TURN_BITS: Final = 20  # a turn's log has at most 2^20 rows
_TABLES: Final = (
    """CREATE TABLE sessions (
        id            INTEGER PRIMARY KEY,
        tenant        TEXT NOT NULL,
        name          TEXT NOT NULL,
        created       REAL NOT NULL,
        expires       REAL NOT NULL,
        turn_count    INTEGER NOT NULL DEFAULT 0,
        bytes         INTEGER NOT NULL DEFAULT 0,
        variables     TEXT NOT NULL DEFAULT '{}',
        fence         INTEGER NOT NULL DEFAULT 0,
        holder        INTEGER NOT NULL DEFAULT 0,
        owner         TEXT NOT NULL DEFAULT '',
        lease_expires REAL NOT NULL DEFAULT 0,
        UNIQUE (tenant, name)
    )""",
    # AUTOINCREMENT: an id that was forgotten never comes back, so a late write finds nothing.
    """CREATE TABLE turns (
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        session       INTEGER NOT NULL,
        number        INTEGER NOT NULL,
        request_id    TEXT NOT NULL,
        state         INTEGER NOT NULL DEFAULT 0,
        created       REAL NOT NULL,
        trace_id      TEXT NOT NULL,
        versions      TEXT NOT NULL,
        question      TEXT NOT NULL,
        query         TEXT NOT NULL DEFAULT '',
        finished      TEXT NOT NULL DEFAULT '',
        last_sequence INTEGER NOT NULL DEFAULT 0,
        failure       TEXT NOT NULL DEFAULT '',
        UNIQUE (session, request_id),
        UNIQUE (session, number)
    )""",
    "CREATE TABLE log (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE INDEX sessions_by_expiry ON sessions (expires)",
)

_TURN_COLUMNS: Final = (
    "t.id AS turn, t.number, t.request_id, t.state, t.created AS turn_created, t.trace_id, t.versions, t.question, "
    "t.finished, t.last_sequence, t.failure"
)
FIND: Final = (
    f"SELECT s.*, {_TURN_COLUMNS} FROM sessions s LEFT JOIN turns t ON t.session = s.id AND t.request_id = ? "
    "WHERE s.tenant = ? AND s.name = ?"
)
FIND_SESSION: Final = "SELECT * FROM sessions WHERE tenant = ? AND name = ?"
TURN: Final = f"SELECT {_TURN_COLUMNS} FROM turns t WHERE t.session = ? AND t.number = ?"
TURNS: Final = f"SELECT {_TURN_COLUMNS} FROM turns t WHERE t.session = ? AND t.number > ? ORDER BY t.number LIMIT ?"
HISTORY: Final = (
    "SELECT question, query, json_extract(finished, '$.text') AS answer FROM turns "
    "WHERE session = ? AND number < ? AND state = 1 ORDER BY number DESC LIMIT ?"
)
LOG: Final = "SELECT body FROM log WHERE id BETWEEN ? AND ? ORDER BY id"
TAKE: Final = (
    "UPDATE sessions SET holder = ?, owner = ?, lease_expires = ?, expires = ?, fence = fence + 1, "
    "turn_count = MAX(turn_count, ?) WHERE id = ? RETURNING fence"
)
RENEW: Final = "UPDATE sessions SET lease_expires = ?, expires = ? WHERE id = ? AND holder = ? AND fence = ?"
RELEASE: Final = (
    "UPDATE sessions SET holder = 0, owner = '', lease_expires = 0 WHERE id = ? AND holder = ? AND fence = ?"
)
CLOSE: Final = (
    "UPDATE sessions SET holder = 0, owner = '', lease_expires = 0, expires = ?, bytes = bytes + ? + "
    "(SELECT COALESCE(SUM(LENGTH(body)), 0) FROM log WHERE id BETWEEN ? AND ?) "
    "WHERE id = ? AND holder = ? AND fence = ?"
)
FINISH: Final = "UPDATE turns SET state = ?, finished = ?, last_sequence = ?, query = ? WHERE id = ?"
FAIL: Final = "UPDATE turns SET state = ?, failure = ? WHERE id = ?"
EXPIRED: Final = "SELECT id FROM sessions WHERE expires <= ? AND lease_expires <= ? LIMIT ?"
_APPEND: Final = (
    "INSERT INTO log (id, body) SELECT COALESCE((SELECT MAX(id) FROM log WHERE id BETWEEN :low AND :high), :low) + 1, "
    ":body FROM sessions WHERE id = :session AND holder = :turn AND fence = :fence"
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time, with no implicit transactions."""
    return sqlite.connect(path, synchronous="NORMAL", timeout_s=5.0)


def create(db: sqlite3.Connection) -> None:
    """Make the tables, within the caller's transaction, unless they are there."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == _VERSION:
        return
    if version > _VERSION:
        raise sqlite3.OperationalError(f"its tables are of version {version}; this release knows {_VERSION}")
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {_VERSION}")


def log_range(turn: int) -> tuple[int, int]:
    """Ids of a turn's rows in the log, first and last possible."""
    return turn << _TURN_BITS, ((turn + 1) << _TURN_BITS) - 1


def append(db: sqlite3.Connection, lease: Lease, body: str) -> int:
    """Add one row to a turn's log; returns 0 when the lease is lost."""
    session, turn = lease.handle
    low, high = log_range(turn)
    values = {"low": low, "high": high, "body": body, "session": session, "turn": turn, "fence": lease.fence}
    return db.execute(_APPEND, values).rowcount


def insert_session(db: sqlite3.Connection, opening: Opening, created_s: float, expires_s: float) -> int:
    """A new session; returns its row's id."""
    cursor = db.execute(
        "INSERT INTO sessions (tenant, name, created, expires) VALUES (?, ?, ?, ?)",
        (opening.tenant, opening.session, created_s, expires_s),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def insert_turn(db: sqlite3.Connection, session: int, number: int, opening: Opening, created_s: float) -> int:
    """A new turn; returns its row's id."""
    versions = json.dumps(dict(opening.versions))
    cursor = db.execute(
        "INSERT INTO turns (session, number, request_id, created, trace_id, versions, question) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (session, number, opening.request_id, created_s, opening.trace_id, versions, opening.question),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def forget(db: sqlite3.Connection, session: int) -> None:
    """Delete a session with all that hangs on it."""
    for (turn,) in db.execute("SELECT id FROM turns WHERE session = ?", (session,)).fetchall():
        db.execute("DELETE FROM log WHERE id BETWEEN ? AND ?", log_range(turn))
    db.execute("DELETE FROM turns WHERE session = ?", (session,))
    db.execute("DELETE FROM sessions WHERE id = ?", (session,))

"""The table of the SQLite queue and the statements on it. See ``sqlite`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.database import Schema

SCHEMA: Final = Schema(
    name="the job queue",
    version=1,
    statements=(
        """CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            payload BLOB NOT NULL,
            state TEXT NOT NULL,
            due_s REAL NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            strikes INTEGER NOT NULL DEFAULT 0,
            max_strikes INTEGER NOT NULL,
            owner TEXT NOT NULL DEFAULT '',
            fence INTEGER NOT NULL DEFAULT 0,
            expires_s REAL NOT NULL DEFAULT 0,
            cancelling INTEGER NOT NULL DEFAULT 0,
            done INTEGER NOT NULL DEFAULT 0,
            total INTEGER NOT NULL DEFAULT 0,
            unit TEXT NOT NULL DEFAULT '',
            message TEXT NOT NULL DEFAULT '',
            error BLOB,
            result BLOB NOT NULL DEFAULT x'',
            traceparent TEXT NOT NULL,
            created_s REAL NOT NULL,
            updated_s REAL NOT NULL
        )""",
        "CREATE UNIQUE INDEX jobs_by_id ON jobs (tenant, id)",
        "CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, kind, key)",
        "CREATE INDEX jobs_by_state ON jobs (state, updated_s)",
        "CREATE INDEX jobs_by_tenant ON jobs (tenant, seq)",
    ),
    remedy="move it away: jobs that had not ended are lost, what they had done is kept",
)

INSERT: Final = (
    "INSERT INTO jobs (tenant, id, kind, key, payload, state, due_s, max_strikes, traceparent, created_s, updated_s) "
    "VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?)"
)
BY_ID: Final = "SELECT * FROM jobs WHERE tenant = ? AND id = ?"
BY_KEY: Final = "SELECT * FROM jobs WHERE tenant = ? AND kind = ? AND key = ?"
PAGE: Final = "SELECT * FROM jobs WHERE tenant = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
PAGE_OF_STATE: Final = "SELECT * FROM jobs WHERE tenant = ? AND seq < ? AND state = ? ORDER BY seq DESC LIMIT ?"
COUNT_QUEUED: Final = "SELECT count(*) FROM jobs WHERE state = 'queued'"
BACKLOG: Final = "SELECT kind, state, count(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY kind, state"


def next_due(kinds: int) -> str:
    """The statement for the next job that may be claimed; parameters: now, the kinds, now, now."""
    return f"""
        WITH busy AS (
            SELECT tenant, count(*) AS jobs FROM jobs WHERE state = 'running' AND expires_s > ? GROUP BY tenant
        )
        SELECT jobs.* FROM jobs LEFT JOIN busy USING (tenant)
        WHERE kind IN ({",".join("?" * kinds)})
          AND ((state = 'queued' AND due_s <= ?) OR (state = 'running' AND expires_s <= ?))
        ORDER BY coalesce(busy.jobs, 0), seq LIMIT 1"""


TAKE: Final = (
    "UPDATE jobs SET state = 'running', attempts = attempts + 1, strikes = strikes + 1, fence = fence + 1, "
    "owner = ?, expires_s = ?, updated_s = ? WHERE seq = ?"
)
# Every statement of a worker ends with this: its lease is the newest one, and the job still runs.
HELD: Final = " WHERE tenant = ? AND id = ? AND state = 'running' AND owner = ? AND fence = ?"
RENEW: Final = "UPDATE jobs SET expires_s = ?" + HELD
# `done` never falls: what is done again is no progress, or a job that fails at one place would never be given up.
PROGRESS: Final = (
    "UPDATE jobs SET strikes = CASE WHEN ? > done THEN 0 ELSE strikes END, done = max(done, ?), total = ?, "
    "unit = ?, message = ?" + HELD
)
END: Final = "UPDATE jobs SET state = ?, error = ?, result = ?, updated_s = ?, cancelling = 0" + HELD
REQUEUE: Final = "UPDATE jobs SET state = 'queued', due_s = ?, strikes = max(0, strikes - ?), updated_s = ?" + HELD
FORGET_OLD: Final = (
    "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE state = ? AND updated_s < ? ORDER BY updated_s LIMIT ?)"
)

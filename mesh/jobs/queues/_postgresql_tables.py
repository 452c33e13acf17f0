"""The table of the PostgreSQL queue and the statements on it. See ``postgresql`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.postgresql import Schema

CHANNEL: Final = "weft_jobs"
_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"

SCHEMA: Final = Schema(
    "weft_jobs",
    "the job queue",
    version=1,
    statements=(
        """CREATE TABLE weft_jobs.jobs (
            seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            id text NOT NULL,
            kind text NOT NULL,
            key text NOT NULL,
            payload bytea NOT NULL,
            state text NOT NULL,
            due_s float8 NOT NULL,
            attempts integer NOT NULL DEFAULT 0,
            strikes integer NOT NULL DEFAULT 0,
            max_strikes integer NOT NULL,
            owner text NOT NULL DEFAULT '',
            fence bigint NOT NULL DEFAULT 0,
            expires_s float8 NOT NULL DEFAULT 0,
            cancelling boolean NOT NULL DEFAULT false,
            done bigint NOT NULL DEFAULT 0,
            total bigint NOT NULL DEFAULT 0,
            unit text NOT NULL DEFAULT '',
            message text NOT NULL DEFAULT '',
            error bytea,
            result bytea NOT NULL DEFAULT '',
            traceparent text NOT NULL,
            created_s float8 NOT NULL,
            updated_s float8 NOT NULL,
            UNIQUE (tenant, id),
            UNIQUE (tenant, kind, key)
        )""",
        "CREATE INDEX active ON weft_jobs.jobs (seq) WHERE state IN ('queued', 'running')",
        "CREATE INDEX ended ON weft_jobs.jobs (updated_s) WHERE state NOT IN ('queued', 'running')",
        "CREATE INDEX of_tenant ON weft_jobs.jobs (tenant, seq)",
    ),
)

LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
INSERT: Final = f"""
INSERT INTO weft_jobs.jobs
    (tenant, id, kind, key, payload, max_strikes, traceparent, state, due_s, created_s, updated_s)
SELECT $1, $2, $3, $4, $5, $6, $7, 'queued', now_s, now_s, now_s FROM (SELECT {_NOW} AS now_s) AS clock
RETURNING *"""
BY_ID: Final = "SELECT * FROM weft_jobs.jobs WHERE tenant = $1 AND id = $2"
HOLD: Final = BY_ID + " FOR UPDATE"
BY_KEY: Final = "SELECT * FROM weft_jobs.jobs WHERE tenant = $1 AND kind = $2 AND key = $3"
PAGE: Final = """
SELECT * FROM weft_jobs.jobs WHERE tenant = $1 AND seq < $2 AND ($3::text IS NULL OR state = $3)
ORDER BY seq DESC LIMIT $4"""
COUNT_QUEUED: Final = "SELECT count(*) FROM weft_jobs.jobs WHERE state IN ('queued', 'running') AND state = 'queued'"
BACKLOG: Final = """
SELECT kind, state, count(*) AS count FROM weft_jobs.jobs WHERE state IN ('queued', 'running') GROUP BY kind, state"""
CANCEL_WAITING: Final = f"""
UPDATE weft_jobs.jobs SET state = 'cancelled', updated_s = {_NOW} WHERE tenant = $1 AND id = $2 RETURNING *"""
CANCEL_RUNNING: Final = "UPDATE weft_jobs.jobs SET cancelling = true WHERE tenant = $1 AND id = $2 RETURNING *"
RETRY: Final = f"""
UPDATE weft_jobs.jobs SET state = 'queued', due_s = {_NOW}, updated_s = {_NOW}, strikes = 0, error = NULL
WHERE tenant = $1 AND id = $2 RETURNING *"""
HURRY: Final = f"""
UPDATE weft_jobs.jobs SET due_s = 0 WHERE tenant = $1 AND id = $2 AND state = 'queued' AND due_s > {_NOW}"""
DELETE: Final = "DELETE FROM weft_jobs.jobs WHERE tenant = $1 AND id = $2"

# Passes by rows that another worker is about to take.
NEXT_DUE: Final = f"""
WITH clock AS MATERIALIZED (SELECT {_NOW} AS now_s),
     busy AS (SELECT tenant, count(*) AS jobs FROM weft_jobs.jobs, clock
              WHERE state = 'running' AND expires_s > now_s GROUP BY tenant)
SELECT j.* FROM weft_jobs.jobs j CROSS JOIN clock LEFT JOIN busy ON busy.tenant = j.tenant
WHERE j.state IN ('queued', 'running') AND j.kind = ANY($1::text[])
  AND ((j.state = 'queued' AND j.due_s <= now_s) OR (j.state = 'running' AND j.expires_s <= now_s))
ORDER BY coalesce(busy.jobs, 0), j.seq LIMIT 1 FOR UPDATE OF j SKIP LOCKED"""
TAKE: Final = f"""
UPDATE weft_jobs.jobs SET state = 'running', attempts = attempts + 1, strikes = strikes + 1, fence = fence + 1,
    owner = $2, expires_s = {_NOW} + $3, updated_s = {_NOW}
WHERE seq = $1 RETURNING *"""
# Every statement of a worker ends with this: its lease is the newest one, and the job still runs.
_HELD: Final = " WHERE tenant = $1 AND id = $2 AND state = 'running' AND owner = $3 AND fence = $4 "
HELD: Final = f"SELECT * FROM weft_jobs.jobs {_HELD} FOR UPDATE"
RENEW: Final = f"UPDATE weft_jobs.jobs SET expires_s = {_NOW} + $5 {_HELD} RETURNING cancelling"
# `done` never falls: what is done again is no progress, or a job that fails at one place would never be given up.
PROGRESS: Final = f"""
UPDATE weft_jobs.jobs SET strikes = CASE WHEN $5 > done THEN 0 ELSE strikes END,
    done = greatest(done, $5), total = $6, unit = $7, message = $8 {_HELD} RETURNING id"""
END: Final = f"""
UPDATE weft_jobs.jobs SET state = $5, error = $6, result = $7, updated_s = {_NOW}, cancelling = false
{_HELD} RETURNING id"""
# A cancellation that came too late for the worker to notice needs no other one.
REQUEUE: Final = f"""
UPDATE weft_jobs.jobs SET state = CASE WHEN cancelling AND $6 THEN 'cancelled' ELSE 'queued' END,
    cancelling = cancelling AND NOT $6, due_s = {_NOW} + $5,
    strikes = greatest(0, strikes - CASE WHEN $6 THEN 1 ELSE 0 END), updated_s = {_NOW} {_HELD} RETURNING id"""
FORGET_OLD: Final = f"""
WITH old AS (DELETE FROM weft_jobs.jobs WHERE seq IN (
    SELECT seq FROM weft_jobs.jobs WHERE state NOT IN ('queued', 'running') AND updated_s < {_NOW} - $1
    ORDER BY updated_s LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1)
SELECT count(*) FROM old"""

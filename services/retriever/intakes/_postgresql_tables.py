"""Tables of the PostgreSQL intake and the statements on them. See ``postgresql`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.postgresql import NOW, Schema

CHANNEL: Final = "weft_intake"

SCHEMA: Final = Schema(
    "weft_intake",
    "the list of uploads",
    version=3,
    statements=(
        """CREATE TABLE weft_intake.uploads (
            place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            job text NOT NULL,
            collection text NOT NULL,
            sender text NOT NULL,
            generation integer NOT NULL DEFAULT 1,
            oldest integer NOT NULL DEFAULT 1,
            sign_s float8 NOT NULL,
            count integer NOT NULL DEFAULT 0,
            total integer,
            broken boolean NOT NULL DEFAULT false,
            fence bigint NOT NULL DEFAULT 0,
            held boolean NOT NULL DEFAULT true,
            UNIQUE (tenant, job)
        ) WITH (fillfactor = 50)""",
        "CREATE INDEX held ON weft_intake.uploads (place) WHERE held",
        f"""CREATE TABLE weft_intake.items (
            tenant text NOT NULL,
            job text NOT NULL,
            number integer NOT NULL,
            upload text NOT NULL,
            arrived_s float8 NOT NULL DEFAULT {NOW},
            source text NOT NULL,
            title text NOT NULL,
            mime_type text NOT NULL,
            metadata text NOT NULL,
            sha256 text NOT NULL,
            size_bytes bigint NOT NULL,
            held_bytes bigint NOT NULL,
            outcome text,
            chunks integer NOT NULL DEFAULT 0,
            sequence bigint NOT NULL DEFAULT 0,
            error bytea,
            PRIMARY KEY (tenant, job, number)
        )""",
        "CREATE INDEX waiting ON weft_intake.items (held_bytes) WHERE held_bytes > 0",
    ),
)

UPLOAD: Final = f"SELECT *, {NOW} AS now_s FROM weft_intake.uploads WHERE tenant = $1 AND job = $2"
HOLD: Final = UPLOAD + " FOR UPDATE"
BEGIN: Final = f"""
INSERT INTO weft_intake.uploads AS there (tenant, job, collection, sender, sign_s) VALUES ($1, $2, $3, $4, {NOW})
ON CONFLICT (tenant, job) DO UPDATE
    SET sender = excluded.sender, sign_s = excluded.sign_s, broken = false, held = true
RETURNING *, sign_s AS now_s"""
SIGN: Final = f"UPDATE weft_intake.uploads SET sign_s = {NOW} WHERE tenant = $1 AND job = $2 AND sender = $3"
RECEIVED: Final = f"""
UPDATE weft_intake.uploads SET sign_s = {NOW}, count = greatest(count, $3), held = true
WHERE tenant = $1 AND job = $2"""
COMPLETE: Final = "UPDATE weft_intake.uploads SET total = $3, broken = false WHERE tenant = $1 AND job = $2"
BREAK_OFF: Final = """
UPDATE weft_intake.uploads SET broken = true WHERE tenant = $1 AND job = $2 AND sender = $3 AND total IS NULL"""
TAKE: Final = "UPDATE weft_intake.uploads SET fence = greatest(fence, $3) WHERE tenant = $1 AND job = $2"
FORGET_WAITING: Final = """
WITH lost AS (DELETE FROM weft_intake.items WHERE tenant = $1 AND job = $2 AND outcome IS NULL RETURNING 1)
SELECT count(*) FROM lost"""
LET_GO: Final = """
UPDATE weft_intake.uploads SET generation = generation + 1, total = CASE WHEN $3 THEN NULL ELSE total END,
    count = (SELECT count(*) FROM weft_intake.items WHERE tenant = $1 AND job = $2)
WHERE tenant = $1 AND job = $2"""
LET_GONE: Final = """
UPDATE weft_intake.uploads
SET oldest = greatest(oldest, $1::integer + 1), held = held AND NOT (sender = $2 AND generation = $1::integer + 1)
WHERE tenant = $3 AND job = $4"""
HELD: Final = "SELECT * FROM weft_intake.uploads WHERE held AND place > $1 ORDER BY place LIMIT $2"
SWEEP: Final = f"""
DELETE FROM weft_intake.uploads WHERE place IN (
    SELECT place FROM weft_intake.uploads WHERE NOT held AND sign_s < {NOW} - $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING tenant, job"""
FORGET_ITEMS: Final = "DELETE FROM weft_intake.items WHERE tenant = $1 AND job = $2"
ITEMS: Final = """
SELECT * FROM weft_intake.items WHERE tenant = $1 AND job = $2 AND number > $3 ORDER BY number LIMIT $4"""
PUT: Final = """
INSERT INTO weft_intake.items (tenant, job, number, upload, source, title, mime_type, metadata,
    sha256, size_bytes, held_bytes, outcome, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""
SETTLE: Final = """
UPDATE weft_intake.items SET held_bytes = 0, outcome = $4, chunks = $5, sequence = $6, error = $7
WHERE tenant = $1 AND job = $2 AND number = $3"""
LISTED: Final = "SELECT count(*) FROM weft_intake.items WHERE tenant = $1 AND job = $2"
WAITING_BYTES: Final = "SELECT coalesce(sum(held_bytes), 0)::bigint FROM weft_intake.items WHERE held_bytes > 0"

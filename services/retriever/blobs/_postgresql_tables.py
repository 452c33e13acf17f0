"""Tables of the blobs in PostgreSQL and the statements on them. See ``postgresql`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.postgresql import Schema

SCHEMA: Final = Schema(
    "weft_blobs",
    "the blob store",
    version=2,
    statements=(
        # Whose it is, is known when it is whole: until then upload is NULL.
        """CREATE TABLE weft_blobs.blobs (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text,
            upload text,
            number integer,
            sha256 text,
            begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            UNIQUE (tenant, upload, number, sha256)
        )""",
        "CREATE INDEX coming_in ON weft_blobs.blobs (begun_at) WHERE upload IS NULL",
        """CREATE TABLE weft_blobs.parts (
            blob bigint NOT NULL REFERENCES weft_blobs.blobs ON DELETE CASCADE,
            number integer NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (blob, number)
        )""",
        "ALTER TABLE weft_blobs.parts ALTER COLUMN data SET STORAGE EXTERNAL",
    ),
)

BEGIN: Final = "INSERT INTO weft_blobs.blobs DEFAULT VALUES RETURNING id"
PUT_PART: Final = "INSERT INTO weft_blobs.parts (blob, number, data) VALUES ($1, $2, $3)"
FIND: Final = "SELECT id FROM weft_blobs.blobs WHERE tenant = $1 AND upload = $2 AND number = $3 AND sha256 = $4"
PART: Final = "SELECT data FROM weft_blobs.parts WHERE blob = $1 AND number = $2"
REMOVE_THESE: Final = """
DELETE FROM weft_blobs.blobs USING unnest($3::integer[], $4::text[]) AS gone (number, sha256)
WHERE tenant = $1 AND upload = $2 AND blobs.number = gone.number AND blobs.sha256 = gone.sha256"""
PUT_SMALL: Final = """
WITH made AS (
    INSERT INTO weft_blobs.blobs (tenant, upload, number, sha256)
    SELECT $1, $2, number, sha256 FROM unnest($3::integer[], $4::text[]) AS new (number, sha256)
    ON CONFLICT DO NOTHING
    RETURNING id, number)
INSERT INTO weft_blobs.parts (blob, number, data)
SELECT made.id, 0, data FROM made JOIN unnest($3::integer[], $5::bytea[]) AS new (number, data) USING (number)"""
KEEP: Final = """
UPDATE weft_blobs.blobs SET tenant = $2, upload = $3, number = $4, sha256 = $5 WHERE id = $1 RETURNING id"""
DROP: Final = "DELETE FROM weft_blobs.blobs WHERE id = $1"
REMOVE_UPLOAD: Final = "DELETE FROM weft_blobs.blobs WHERE tenant = $1 AND upload = $2"
SWEEP: Final = "DELETE FROM weft_blobs.blobs WHERE upload IS NULL AND begun_at < clock_timestamp() - interval '1 hour'"

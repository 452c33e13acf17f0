"""Tables of the PostgreSQL log and the statements on them. See ``postgresql`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.postgresql import NOW, Schema

CHANNEL: Final = "weft_log"  # a NOTIFY with the sequence number, at each commit that took one

SCHEMA: Final = Schema(
    "weft_log",
    "the change log",
    version=2,
    statements=(
        # One row: the last number given out.
        "CREATE TABLE weft_log.head (sequence bigint NOT NULL) WITH (fillfactor = 10)",
        "INSERT INTO weft_log.head (sequence) VALUES (0)",
        # One row per change; document is '' where the collection itself was made or deleted.
        """CREATE TABLE weft_log.log (
            sequence bigint PRIMARY KEY,
            tenant text NOT NULL,
            collection_id bigint NOT NULL,
            document text COLLATE "C" NOT NULL,
            at_s double precision NOT NULL
        )""",
        """CREATE TABLE weft_log.collections (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text COLLATE "C" NOT NULL,
            name text COLLATE "C" NOT NULL,
            embedder text NOT NULL,
            wanted_embedder text NOT NULL,
            dimension integer NOT NULL,
            created_s double precision NOT NULL,
            sequence bigint NOT NULL DEFAULT 0,
            document_count integer NOT NULL DEFAULT 0,
            chunk_count integer NOT NULL DEFAULT 0,
            UNIQUE (tenant, name)
        ) WITH (fillfactor = 50)""",
        """CREATE TABLE weft_log.documents (
            tenant text COLLATE "C" NOT NULL,
            collection_id bigint NOT NULL,
            name text COLLATE "C" NOT NULL,
            source text NOT NULL,
            title text NOT NULL,
            mime_type text NOT NULL,
            sha256 text NOT NULL,
            size_bytes bigint NOT NULL,
            chunk_count integer NOT NULL,
            metadata text NOT NULL,
            updated_s double precision NOT NULL,
            sequence bigint NOT NULL,
            arrived_s double precision NOT NULL,
            batch bigint NOT NULL,
            PRIMARY KEY (tenant, collection_id, name)
        )""",
        # A batch is the chunks of one version of one document. Published: documents.batch leads to it.
        """CREATE TABLE weft_log.batches (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            collection_id bigint NOT NULL,
            state text NOT NULL,
            staged_s double precision NOT NULL
        )""",
        "CREATE INDEX unpublished ON weft_log.batches (id) WHERE state <> 'published'",
        # Vectors are float32, little endian, in a row. Kept beside the text, uncompressed: they don't compress,
        # and are always read with it.
        """CREATE TABLE weft_log.chunks (
            tenant text COLLATE "C" NOT NULL,
            batch bigint NOT NULL,
            number integer NOT NULL,
            page integer NOT NULL,
            start_char integer NOT NULL,
            end_char integer NOT NULL,
            text text NOT NULL,
            section text NOT NULL,
            vector bytea NOT NULL,
            PRIMARY KEY (tenant, batch, number)
        ) WITH (toast_tuple_target = 8160)""",
        "ALTER TABLE weft_log.chunks ALTER COLUMN vector SET STORAGE EXTERNAL",
        # Collections that were deleted and whose documents are still to be swept.
        "CREATE TABLE weft_log.gone (collection_id bigint PRIMARY KEY, tenant text NOT NULL)",
        # Documents that were deleted, by the collection's name: an upload that waited meanwhile brings none back.
        """CREATE TABLE weft_log.deleted (
            tenant text COLLATE "C" NOT NULL,
            collection text COLLATE "C" NOT NULL,
            name text COLLATE "C" NOT NULL,
            deleted_s double precision NOT NULL,
            PRIMARY KEY (tenant, collection, name)
        )""",
        "CREATE INDEX deleted_by_time ON weft_log.deleted (deleted_s)",
    ),
)

COLLECTION_COLUMNS: Final = (
    "tenant, name, id, embedder, wanted_embedder, dimension, created_s, sequence, document_count, chunk_count"
)
DOCUMENT_COLUMNS: Final = (
    "name, source, title, mime_type, sha256, size_bytes, chunk_count, metadata, updated_s, sequence, arrived_s, batch"
)
_OF_DOCUMENT: Final = ", ".join(f"d.{column}" for column in DOCUMENT_COLUMNS.split(", "))

LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
END: Final = "SELECT sequence FROM weft_log.head"
NEXT: Final = f"""
WITH next AS (UPDATE weft_log.head SET sequence = sequence + 1 RETURNING sequence),
     logged AS (INSERT INTO weft_log.log (sequence, tenant, collection_id, document, at_s)
                SELECT sequence, $1, $2, $3, $4 FROM next)
SELECT sequence, pg_notify('{CHANNEL}', sequence::text) FROM next"""
LOG: Final = f"""
SELECT l.sequence AS position, l.tenant, l.collection_id, l.document, c.id IS NOT NULL AS alive, {_OF_DOCUMENT}
FROM weft_log.log l
LEFT JOIN weft_log.collections c ON c.id = l.collection_id AND c.tenant = l.tenant
LEFT JOIN weft_log.documents d
    ON d.tenant = l.tenant AND d.collection_id = c.id AND d.name = l.document
WHERE l.sequence > $1 ORDER BY l.sequence LIMIT $2"""

COLLECTION_BY_NAME: Final = f"SELECT {COLLECTION_COLUMNS} FROM weft_log.collections WHERE tenant = $1 AND name = $2"
COLLECTION_BY_ID: Final = f"SELECT {COLLECTION_COLUMNS} FROM weft_log.collections WHERE tenant = $1 AND id = $2"
COLLECTIONS_BY_ID: Final = f"SELECT {COLLECTION_COLUMNS} FROM weft_log.collections WHERE id = ANY($1::bigint[])"
COLLECTIONS: Final = (
    f"SELECT {COLLECTION_COLUMNS} FROM weft_log.collections WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3"
)
CREATE_COLLECTION: Final = """
INSERT INTO weft_log.collections (tenant, name, embedder, wanted_embedder, dimension, created_s)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING id"""
DELETE_COLLECTION: Final = "DELETE FROM weft_log.collections WHERE tenant = $1 AND name = $2 RETURNING id"
RENAME: Final = "UPDATE weft_log.collections SET name = $2, created_s = $3, sequence = $4 WHERE id = $1"
TOUCHED: Final = """
SELECT sequence, document FROM weft_log.log
WHERE sequence > $1 AND tenant = $2 AND collection_id = $3 AND document <> '' ORDER BY sequence LIMIT $4"""
GONE: Final = "INSERT INTO weft_log.gone (tenant, collection_id) VALUES ($1, $2)"
COUNT: Final = """
UPDATE weft_log.collections
SET sequence = $2, document_count = document_count + $3, chunk_count = chunk_count + $4 WHERE id = $1"""

DOCUMENT: Final = (
    f"SELECT {DOCUMENT_COLUMNS} FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 AND name = $3"
)
THESE_DOCUMENTS: Final = (
    f"SELECT {DOCUMENT_COLUMNS} FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 "
    "AND name = any($3::text[])"
)
DOCUMENTS: Final = (
    f"SELECT {DOCUMENT_COLUMNS} FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 AND name > $3 "
    "ORDER BY name LIMIT $4"
)
PUT_DOCUMENT: Final = f"""
INSERT INTO weft_log.documents (tenant, collection_id, {DOCUMENT_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (tenant, collection_id, name) DO UPDATE SET
{", ".join(f"{column} = excluded.{column}" for column in DOCUMENT_COLUMNS.split(", ")[1:])}"""
DELETE_DOCUMENT: Final = """
DELETE FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 AND name = $3 RETURNING batch, chunk_count"""
ARRIVED: Final = """
UPDATE weft_log.documents AS d SET arrived_s = greatest(d.arrived_s, again.arrived_s)
FROM unnest($3::text[], $4::bigint[], $5::float8[]) AS again (name, sequence, arrived_s)
WHERE d.tenant = $1 AND d.collection_id = $2 AND d.name = again.name AND d.sequence = again.sequence
RETURNING d.name, d.sequence"""
DELETED: Final = f"""
INSERT INTO weft_log.deleted (tenant, collection, name, deleted_s) VALUES ($1, $2, $3, {NOW})
ON CONFLICT (tenant, collection, name) DO UPDATE SET deleted_s = excluded.deleted_s"""
DELETED_AFTER: Final = f"""
SELECT 1 FROM weft_log.deleted
WHERE tenant = $1 AND collection = $2 AND name = $3 AND deleted_s > $4 AND deleted_s <= {NOW}"""
CLOCK: Final = f"SELECT {NOW}"
SWEEP_DELETED: Final = f"""
WITH swept AS (DELETE FROM weft_log.deleted WHERE (tenant, collection, name) IN (
    SELECT tenant, collection, name FROM weft_log.deleted WHERE deleted_s < {NOW} - $1 LIMIT $2
    FOR UPDATE SKIP LOCKED) RETURNING 1)
SELECT count(*) FROM swept"""

NEW_BATCH: Final = """
INSERT INTO weft_log.batches (tenant, collection_id, state, staged_s) VALUES ($1, $2, 'staged', $3) RETURNING id"""
STAGED_AGAIN: Final = "UPDATE weft_log.batches SET staged_s = $2 WHERE id = $1 AND state = 'staged' RETURNING 1"
PUBLISH_BATCH: Final = "UPDATE weft_log.batches SET state = 'published' WHERE id = $1"
DROP_BATCHES: Final = "UPDATE weft_log.batches SET state = 'dropped' WHERE id = ANY($1::bigint[])"
PUT_CHUNKS: Final = """
INSERT INTO weft_log.chunks (tenant, batch, number, text, start_char, end_char, section, page, vector)
SELECT $1::text, $2::bigint, *
FROM unnest($3::int[], $4::text[], $5::int[], $6::int[], $7::text[], $8::int[], $9::bytea[])"""
CHUNKS: Final = """
SELECT c.number, c.text, c.start_char, c.end_char, c.section, c.page, c.vector, c.batch
FROM unnest($1::text[], $2::bigint[]) AS wanted (tenant, batch)
JOIN weft_log.chunks c ON c.tenant = wanted.tenant AND c.batch = wanted.batch
ORDER BY c.batch, c.number"""

# Sweepers of several replicas pass by what another one holds.
SWEEP_GONE: Final = "SELECT collection_id, tenant FROM weft_log.gone LIMIT 1 FOR UPDATE SKIP LOCKED"
SWEEP_DOCUMENTS: Final = """
DELETE FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 AND name IN (
    SELECT name FROM weft_log.documents WHERE tenant = $1 AND collection_id = $2 LIMIT $3)
RETURNING batch"""
SWEPT_GONE: Final = "DELETE FROM weft_log.gone WHERE collection_id = $1"
SWEEP_BATCH: Final = """
SELECT id, tenant FROM weft_log.batches
WHERE state <> 'published' AND (state = 'dropped' OR staged_s < $1) ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"""
SWEEP_CHUNKS: Final = """
WITH swept AS (DELETE FROM weft_log.chunks WHERE tenant = $1 AND batch = $2 AND number IN (
    SELECT number FROM weft_log.chunks WHERE tenant = $1 AND batch = $2 LIMIT $3) RETURNING 1)
SELECT count(*) FROM swept"""
SWEPT_BATCH: Final = "DELETE FROM weft_log.batches WHERE id = $1"

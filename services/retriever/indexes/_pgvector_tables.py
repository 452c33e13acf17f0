"""The tables of ``pgvector:`` and every statement on them. A collection's passages have a table of their own."""

from __future__ import annotations

from typing import Final

from mesh.postgresql import Schema

CHANNEL: Final = "weft_index"
SCHEMA: Final = Schema(
    "weft_index",
    "the shared index",
    1,
    (
        "CREATE EXTENSION IF NOT EXISTS vector",
        # One row: what the index follows, how far, and who writes.
        """CREATE TABLE weft_index.state (
            one bool PRIMARY KEY DEFAULT true CHECK (one),
            log_id text NOT NULL DEFAULT '',
            sequence bigint NOT NULL DEFAULT 0,
            owner text NOT NULL DEFAULT '',
            fence bigint NOT NULL DEFAULT 0,
            expires timestamptz NOT NULL DEFAULT '-infinity'
        )""",
        "INSERT INTO weft_index.state DEFAULT VALUES",
        "CREATE TABLE weft_index.collections (id bigint PRIMARY KEY, tenant text NOT NULL, dimension int NOT NULL)",
    ),
)

# The first process takes the store for its log; any other log is not this one's.
TAKE: Final = "UPDATE weft_index.state SET log_id = $1 WHERE log_id = ''"
LOG_ID: Final = "SELECT log_id FROM weft_index.state"
WATERMARK: Final = "SELECT sequence FROM weft_index.state"

# A lease that ran out goes to whoever asks, unless its holder is writing; a new owner has a new fence.
CLAIM: Final = """UPDATE weft_index.state SET
    fence = fence + CASE WHEN owner = $1 THEN 0 ELSE 1 END, owner = $1,
    expires = clock_timestamp() + make_interval(secs => $2)
    WHERE one = (SELECT one FROM weft_index.state WHERE owner = $1 OR expires < clock_timestamp()
                 FOR UPDATE SKIP LOCKED) RETURNING fence"""
GIVE_UP: Final = "UPDATE weft_index.state SET owner = '', expires = '-infinity' WHERE fence = $1"
# Holds the row until the commit: nobody is given another fence in between.
HOLD: Final = "SELECT sequence FROM weft_index.state WHERE fence = $1 AND owner <> '' FOR UPDATE"
MOVE: Final = "UPDATE weft_index.state SET sequence = $1"
NOTIFY: Final = f"NOTIFY {CHANNEL}"

IS_KNOWN: Final = """SELECT sequence, EXISTS (SELECT FROM weft_index.collections WHERE id = $1) AS known
    FROM weft_index.state"""
KNOWN: Final = "SELECT id FROM weft_index.collections"
ADD: Final = "INSERT INTO weft_index.collections (id, tenant, dimension) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
REMOVE: Final = "DELETE FROM weft_index.collections WHERE id = ANY($1::bigint[]) RETURNING id"


def table(collection_id: int) -> str:
    """Where a collection's passages are."""
    return f"weft_index.passages_{int(collection_id)}"


def create(collection_id: int, dimension: int) -> tuple[str, ...]:
    """Make a collection's table. A vector stays in its row as long as that fits a page: searches read them all."""
    return (
        f"""CREATE TABLE {table(collection_id)} (
            document text COLLATE "C", sequence bigint NOT NULL, chunk int,
            vector vector({int(dimension)}) NOT NULL, PRIMARY KEY (document, chunk)
        )""",
        f"ALTER TABLE {table(collection_id)} ALTER COLUMN vector SET STORAGE MAIN",
    )


def drop(collection_id: int) -> str:
    """Remove it with all that is in it."""
    return f"DROP TABLE IF EXISTS {table(collection_id)}"


def forget(collection_id: int) -> str:
    """Remove documents."""
    return f"DELETE FROM {table(collection_id)} WHERE document = ANY($1::text[])"


def put(collection_id: int) -> str:
    """Add a passage."""
    return (
        f"INSERT INTO {table(collection_id)} (document, sequence, chunk, vector) "
        "VALUES ($1, $2, $3, $4::real[]::vector)"
    )


def search(collection_id: int, *, filtered: bool) -> str:
    """Nearest passages, with ``near`` false those asked about, and with NULL the watermark as ``sequence``.

    ``<#>`` is the negative inner product.
    """
    where = "WHERE document = ANY($6::text[])" if filtered else ""
    return f"""SELECT true AS near, document, sequence, chunk, distance FROM (
            SELECT document, sequence, chunk, vector <#> $1::real[]::vector AS distance
            FROM {table(collection_id)} {where} ORDER BY distance, document, chunk LIMIT $2
        ) AS nearest
        UNION ALL
        SELECT NULL, NULL, sequence, NULL, NULL FROM weft_index.state
        UNION ALL
        SELECT false, document, sequence, chunk, vector <#> $1::real[]::vector
        FROM unnest($3::text[], $4::bigint[], $5::int[]) AS asked (document, sequence, chunk)
        JOIN {table(collection_id)} USING (document, sequence, chunk)"""

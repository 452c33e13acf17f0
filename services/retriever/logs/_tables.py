"""Tables of the SQLite log and the statements on them. See ``sqlite`` for what they mean."""

from __future__ import annotations

from typing import Final

VERSION: Final = 2

TABLES: Final = (
    # log_id
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # One row per change; document is '' where the collection itself was made or deleted.
    """CREATE TABLE log (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        collection_id INTEGER NOT NULL,
        document TEXT NOT NULL,
        at_s REAL NOT NULL
    )""",
    """CREATE TABLE collections (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        embedder TEXT NOT NULL,
        wanted_embedder TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        created_s REAL NOT NULL,
        sequence INTEGER NOT NULL,
        document_count INTEGER NOT NULL DEFAULT 0,
        chunk_count INTEGER NOT NULL DEFAULT 0,
        UNIQUE (tenant, name)
    )""",
    """CREATE TABLE documents (
        tenant TEXT NOT NULL,
        collection_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        title TEXT NOT NULL,
        mime_type TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        chunk_count INTEGER NOT NULL,
        metadata TEXT NOT NULL,
        updated_s REAL NOT NULL,
        sequence INTEGER NOT NULL,
        arrived_s REAL NOT NULL,
        batch INTEGER NOT NULL,
        PRIMARY KEY (tenant, collection_id, name)
    ) WITHOUT ROWID""",
    # A batch is the chunks of one version of one document. Published: documents.batch leads to it.
    """CREATE TABLE batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        collection_id INTEGER NOT NULL,
        state TEXT NOT NULL,
        staged_s REAL NOT NULL
    )""",
    "CREATE INDEX batches_by_state ON batches (state, staged_s)",
    """CREATE TABLE chunks (
        tenant TEXT NOT NULL,
        batch INTEGER NOT NULL,
        number INTEGER NOT NULL,
        text TEXT NOT NULL,
        section TEXT NOT NULL,
        page INTEGER NOT NULL,
        start_char INTEGER NOT NULL,
        end_char INTEGER NOT NULL,
        vector BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX chunks_by_batch ON chunks (tenant, batch, number)",
    # Collections that were deleted and whose documents are still to be swept.
    "CREATE TABLE gone (collection_id INTEGER PRIMARY KEY, tenant TEXT NOT NULL)",
    # Documents that were deleted, by the collection's name: an upload that waited meanwhile brings none back.
    """CREATE TABLE deleted (
        tenant TEXT NOT NULL,
        collection TEXT NOT NULL,
        name TEXT NOT NULL,
        deleted_s REAL NOT NULL,
        PRIMARY KEY (tenant, collection, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX deleted_by_time ON deleted (deleted_s)",
)

LOG: Final = "SELECT sequence, tenant, collection_id, document FROM log WHERE sequence > ? ORDER BY sequence"
COLLECTION_COLUMNS: Final = (
    "tenant, name, id, embedder, wanted_embedder, dimension, created_s, sequence, document_count, chunk_count"
)
COLLECTION_BY_NAME: Final = f"SELECT {COLLECTION_COLUMNS} FROM collections WHERE tenant = ? AND name = ?"
COLLECTION_BY_ID: Final = f"SELECT {COLLECTION_COLUMNS} FROM collections WHERE tenant = ? AND id = ?"
COLLECTIONS: Final = f"SELECT {COLLECTION_COLUMNS} FROM collections WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?"
DOCUMENT_COLUMNS: Final = (
    "name, source, title, mime_type, sha256, size_bytes, chunk_count, metadata, updated_s, sequence, arrived_s, batch"
)
DOCUMENT: Final = f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE tenant = ? AND collection_id = ? AND name = ?"
DOCUMENTS: Final = (
    f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE tenant = ? AND collection_id = ? AND name > ? "
    "ORDER BY name LIMIT ?"
)
CHUNKS: Final = (
    "SELECT number, text, start_char, end_char, section, page, vector FROM chunks "
    "WHERE tenant = ? AND batch = ? ORDER BY number"
)
PUT_DOCUMENT: Final = (
    f"INSERT OR REPLACE INTO documents (tenant, collection_id, {DOCUMENT_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
ARRIVED: Final = (
    "UPDATE documents SET arrived_s = max(arrived_s, ?) "
    "WHERE tenant = ? AND collection_id = ? AND name = ? AND sequence = ?"
)
DELETED: Final = "INSERT OR REPLACE INTO deleted (tenant, collection, name, deleted_s) VALUES (?, ?, ?, ?)"
DELETED_AFTER: Final = (
    "SELECT 1 FROM deleted WHERE tenant = ? AND collection = ? AND name = ? AND deleted_s > ? AND deleted_s <= ?"
)
SWEEP_DELETED: Final = (
    "DELETE FROM deleted WHERE (tenant, collection, name) IN "
    "(SELECT tenant, collection, name FROM deleted WHERE deleted_s < ? LIMIT ?)"
)
COUNT: Final = (
    "UPDATE collections SET sequence = ?, document_count = document_count + ?, chunk_count = chunk_count + ? "
    "WHERE id = ?"
)
STAGED_AGAIN: Final = "UPDATE batches SET staged_s = ? WHERE id = ? AND state = 'staged'"
RENAME: Final = "UPDATE collections SET name = ?, created_s = ?, sequence = ? WHERE id = ?"
TOUCHED: Final = (
    "SELECT sequence, document FROM log WHERE sequence > ? AND tenant = ? AND collection_id = ? AND document <> '' "
    "ORDER BY sequence LIMIT ?"
)

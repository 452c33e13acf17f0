"""Tables of the SQLite intake and the statements on them. See ``sqlite`` for what they mean."""

from __future__ import annotations

from typing import Final

from mesh.database import Schema

SCHEMA: Final = Schema(
    name="the list of uploads",
    version=3,
    statements=(
        """CREATE TABLE uploads (
            place INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant TEXT NOT NULL,
            job TEXT NOT NULL,
            collection TEXT NOT NULL,
            sender TEXT NOT NULL,
            generation INTEGER NOT NULL DEFAULT 1,
            oldest INTEGER NOT NULL DEFAULT 1,
            sign_s REAL NOT NULL,
            count INTEGER NOT NULL DEFAULT 0,
            total INTEGER,
            broken INTEGER NOT NULL DEFAULT 0,
            fence INTEGER NOT NULL DEFAULT 0,
            held INTEGER NOT NULL DEFAULT 1
        )""",
        "CREATE UNIQUE INDEX uploads_by_job ON uploads (tenant, job)",
        "CREATE INDEX uploads_held ON uploads (place) WHERE held",
        """CREATE TABLE items (
            tenant TEXT NOT NULL,
            job TEXT NOT NULL,
            number INTEGER NOT NULL,
            upload TEXT NOT NULL,
            arrived_s REAL NOT NULL,
            source TEXT NOT NULL,
            title TEXT NOT NULL,
            mime_type TEXT NOT NULL,
            metadata TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            held_bytes INTEGER NOT NULL,
            outcome TEXT,
            chunks INTEGER NOT NULL DEFAULT 0,
            sequence INTEGER NOT NULL DEFAULT 0,
            error BLOB
        )""",
        "CREATE UNIQUE INDEX items_by_number ON items (tenant, job, number)",
        "CREATE INDEX items_held ON items (held_bytes) WHERE held_bytes > 0",
    ),
    remedy="move it away and send again what was being ingested; what is in stays in",
)

UPLOAD: Final = "SELECT * FROM uploads WHERE tenant = ? AND job = ?"
BEGIN: Final = (
    "INSERT INTO uploads (tenant, job, collection, sender, sign_s) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (tenant, job) DO UPDATE SET sender = excluded.sender, sign_s = excluded.sign_s, broken = 0, held = 1"
)
SIGN: Final = "UPDATE uploads SET sign_s = ? WHERE tenant = ? AND job = ? AND sender = ?"
RECEIVED: Final = "UPDATE uploads SET sign_s = ?, count = max(count, ?), held = 1 WHERE tenant = ? AND job = ?"
COMPLETE: Final = "UPDATE uploads SET total = ?, broken = 0 WHERE tenant = ? AND job = ?"
BREAK_OFF: Final = "UPDATE uploads SET broken = 1 WHERE tenant = ? AND job = ? AND sender = ? AND total IS NULL"
TAKE: Final = "UPDATE uploads SET fence = max(fence, ?) WHERE tenant = ? AND job = ?"
LET_GO: Final = (
    "UPDATE uploads SET generation = generation + 1, total = CASE WHEN ? THEN NULL ELSE total END, "
    "count = (SELECT count(*) FROM items WHERE items.tenant = uploads.tenant AND items.job = uploads.job) "
    "WHERE tenant = ? AND job = ?"
)
LET_GONE: Final = (
    "UPDATE uploads SET oldest = max(oldest, ?1 + 1), held = held AND NOT (sender = ?2 AND generation = ?1 + 1) "
    "WHERE tenant = ?3 AND job = ?4"
)
HELD: Final = "SELECT * FROM uploads WHERE held AND place > ? ORDER BY place LIMIT ?"
OLD: Final = "SELECT tenant, job FROM uploads WHERE NOT held AND sign_s < ? LIMIT ?"
ITEM: Final = "SELECT * FROM items WHERE tenant = ? AND job = ? AND number = ?"
ITEMS: Final = "SELECT * FROM items WHERE tenant = ? AND job = ? AND number > ? ORDER BY number LIMIT ?"
PUT: Final = (
    "INSERT INTO items (arrived_s, tenant, job, number, upload, source, title, mime_type, metadata, sha256, "
    "size_bytes, held_bytes, outcome, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SETTLE: Final = (
    "UPDATE items SET held_bytes = 0, outcome = ?, chunks = ?, sequence = ?, error = ? "
    "WHERE tenant = ? AND job = ? AND number = ?"
)
LISTED: Final = "SELECT count(*) FROM items WHERE tenant = ? AND job = ?"
WAITING_BYTES: Final = "SELECT coalesce(sum(held_bytes), 0) FROM items WHERE held_bytes > 0"

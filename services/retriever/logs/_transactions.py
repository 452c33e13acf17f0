"""What the SQLite log does inside a transaction. Every function runs within its caller's."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from typing import Any

from services.retriever.logs import _staging
from services.retriever.logs import _tables as sql
from services.retriever.logs._rows import document_row, to_collection, to_document, to_stored
from services.retriever.logs._staging import SWEEP_ROWS, overtaken, same, swept
from services.retriever.ports import Changes, Content, StoredDocument
from services.retriever.types import Collection, Document


def changes(db: sqlite3.Connection, after: int, max_chunks: int) -> Changes:
    """What the log's rows after ``after`` name, as it stands, until ``max_chunks`` are together."""
    end = log_end(db)
    sequence, taken = after, 0
    seen: set[tuple[int, str]] = set()
    collections: dict[int, Collection | None] = {}
    documents, gone_documents = [], []
    for number, tenant, collection_id, name in db.execute(sql.LOG, (after,)):
        if (collection_id, name) not in seen:
            if collection_id not in collections:
                row = db.execute(sql.COLLECTION_BY_ID, (tenant, collection_id)).fetchone()
                collections[collection_id] = to_collection(row) if row else None
            collection = collections[collection_id]
            row = None
            if name and collection is not None:
                row = db.execute(sql.DOCUMENT, (tenant, collection_id, name)).fetchone()
            weight = max(1, row["chunk_count"]) if row else 1
            if taken and taken + weight > max_chunks:
                break
            taken += weight
            seen.add((collection_id, name))
            if collection is not None and row is not None:
                documents.append(to_stored(collection, row, db.execute(sql.CHUNKS, (tenant, row["batch"])).fetchall()))
            elif collection is not None and name:
                gone_documents.append((collection_id, name))
        sequence = number
    return Changes(
        sequence,
        more=sequence < end,
        collections=tuple(c for c in collections.values() if c is not None),
        gone_collections=tuple(i for i, c in collections.items() if c is None),
        documents=tuple(documents),
        gone_documents=tuple(gone_documents),
    )


def stored(db: sqlite3.Connection, collection: Collection, name: str) -> StoredDocument | None:
    """A document with its chunks."""
    tenant = collection.key.tenant
    row = db.execute(sql.DOCUMENT, (tenant, collection.id, name)).fetchone()
    return to_stored(collection, row, db.execute(sql.CHUNKS, (tenant, row["batch"])).fetchall()) if row else None


def switch(db: sqlite3.Connection, old: Collection, new: Collection, now_s: float) -> int | None:
    """Put ``new`` in the place of ``old``."""
    for one in (old, new):
        row = db.execute(sql.COLLECTION_BY_ID, (one.key.tenant, one.id)).fetchone()
        if row is None or to_collection(row).sequence != one.sequence:
            return None
    db.execute("DELETE FROM collections WHERE id = ?", (old.id,))
    db.execute("INSERT INTO gone (collection_id, tenant) VALUES (?, ?)", (old.id, old.key.tenant))
    sequence = log_row(db, new.key.tenant, new.id, "", now_s)
    db.execute(sql.RENAME, (old.key.name, old.created_s, sequence, new.id))
    # Who reads this only once the new one is deleted, too, would else never hear of the old one again.
    log_row(db, old.key.tenant, old.id, "", now_s)
    return sequence


def stands(db: sqlite3.Connection, collection: Collection) -> bool:
    """Whether a collection is there, and under the name that it was read by: neither deleted nor moved."""
    row = db.execute(sql.COLLECTION_BY_ID, (collection.key.tenant, collection.id)).fetchone()
    return row is not None and to_collection(row).key == collection.key


def publish(
    db: sqlite3.Connection, collection: Collection, content: Content, last: list[tuple[Any, ...]]
) -> Document | None:
    """Give a document its content, the rows of its ``last`` chunks included; returns the record as it now stands."""
    tenant, document = collection.key.tenant, content.document
    row = db.execute(sql.DOCUMENT, (tenant, collection.id, document.name)).fetchone()
    old = to_document(row) if row else None
    now_s = time.time()
    if old is None:
        stays = deleted_since(db, collection, content, now_s)
    else:
        stays = same(old, content) or (overtaken(old, content) and old.arrived_s <= now_s)
    if stays:
        if content.batch is not None:
            drop(db, content.batch)
        if old is not None:
            confirm(db, collection, replace(old, arrived_s=document.arrived_s))
        return old
    published = stage(db, collection, content.batch, last)
    db.execute("UPDATE batches SET state = 'published' WHERE id = ?", (published,))
    if row is not None:
        drop(db, row["batch"])
    sequence = log_row(db, tenant, collection.id, document.name, now_s)
    new = replace(document, updated_s=now_s, sequence=sequence)
    put(db, collection, new, published)
    gained = new.chunk_count - (old.chunk_count if old else 0)
    db.execute(sql.COUNT, (sequence, 0 if old else 1, gained, collection.id))
    return new


def confirm(db: sqlite3.Connection, collection: Collection, again: Document) -> bool:
    """Note that a document arrived again as it is there; False where it isn't like that any more."""
    where = (collection.key.tenant, collection.id, again.name, again.sequence)
    return db.execute(sql.ARRIVED, (again.arrived_s, *where)).rowcount > 0


def delete(db: sqlite3.Connection, collection: Collection, name: str, now_s: float) -> int | None:
    """Delete a document; returns the sequence of that, or None where there is none."""
    where = (collection.key.tenant, collection.id, name)
    row = db.execute(sql.DOCUMENT, where).fetchone()
    if row is None:
        return None
    db.execute("DELETE FROM documents WHERE tenant = ? AND collection_id = ? AND name = ?", where)
    db.execute(sql.DELETED, (*collection.key, name, now_s))
    drop(db, row["batch"])
    sequence = log_row(db, *where, now_s)
    db.execute(sql.COUNT, (sequence, -1, -to_document(row).chunk_count, collection.id))
    return sequence


def deleted_since(db: sqlite3.Connection, collection: Collection, content: Content, now_s: float) -> bool:
    """Whether its document was deleted after it had arrived."""
    if content.copied or not content.document.arrived_s:
        return False
    given = (*collection.key, content.document.name, content.document.arrived_s, now_s)
    return db.execute(sql.DELETED_AFTER, given).fetchone() is not None


def log_end(db: sqlite3.Connection) -> int:
    """The last sequence number."""
    (sequence,) = db.execute("SELECT coalesce(max(sequence), 0) FROM log").fetchone()
    return int(sequence)


def log_row(db: sqlite3.Connection, tenant: str, collection_id: int, document: str, at_s: float) -> int:
    """Take the next sequence number."""
    made = db.execute(
        "INSERT INTO log (tenant, collection_id, document, at_s) VALUES (?, ?, ?, ?)",
        (tenant, collection_id, document, at_s),
    )
    return int(made.lastrowid or 0)


def stage(db: sqlite3.Connection, collection: Collection, batch: int | None, rows: list[tuple[Any, ...]]) -> int:
    """Add chunks to a staged batch, or to a new one."""
    if batch is None:
        made = db.execute(
            "INSERT INTO batches (tenant, collection_id, state, staged_s) VALUES (?, ?, 'staged', ?)",
            (collection.key.tenant, collection.id, time.time()),
        )
        batch = int(made.lastrowid or 0)
    elif not db.execute(sql.STAGED_AGAIN, (time.time(), batch)).rowcount:
        raise swept()
    db.executemany(
        "INSERT INTO chunks (tenant, batch, number, text, start_char, end_char, section, page, vector) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(collection.key.tenant, batch, *row) for row in rows],
    )
    return batch


def put(db: sqlite3.Connection, collection: Collection, document: Document, batch: int) -> None:
    """Write a document's record."""
    db.execute(sql.PUT_DOCUMENT, (collection.key.tenant, collection.id, *document_row(document, batch)))


def drop(db: sqlite3.Connection, batch: int) -> None:
    """Leave a batch to the sweep."""
    db.execute("UPDATE batches SET state = 'dropped' WHERE id = ?", (batch,))


def sweep(db: sqlite3.Connection, now_s: float) -> bool:
    """Remove up to ``SWEEP_ROWS`` rows that nothing leads to; returns whether there may be more."""
    gone = db.execute("SELECT collection_id, tenant FROM gone LIMIT 1").fetchone()
    if gone is not None:
        where = (gone["tenant"], gone["collection_id"])
        names = db.execute(
            "SELECT name, batch FROM documents WHERE tenant = ? AND collection_id = ? LIMIT ?", (*where, SWEEP_ROWS)
        ).fetchall()
        for name, batch in names:
            db.execute("DELETE FROM documents WHERE tenant = ? AND collection_id = ? AND name = ?", (*where, name))
            drop(db, batch)
        if not names:
            db.execute("DELETE FROM gone WHERE collection_id = ?", (gone["collection_id"],))
        return True
    batch = db.execute(
        "SELECT id, tenant FROM batches WHERE state = 'dropped' OR (state = 'staged' AND staged_s < ?) LIMIT 1",
        (now_s - _staging.STAGED_LIFE_S,),
    ).fetchone()
    if batch is None:
        return db.execute(sql.SWEEP_DELETED, (now_s - _staging.DELETED_LIFE_S, SWEEP_ROWS)).rowcount == SWEEP_ROWS
    drop(db, batch["id"])  # a staged one must not be published any more once its chunks begin to go
    removed = db.execute(
        "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE tenant = ? AND batch = ? LIMIT ?)",
        (batch["tenant"], batch["id"], SWEEP_ROWS),
    ).rowcount
    if removed < SWEEP_ROWS:
        db.execute("DELETE FROM batches WHERE id = ?", (batch["id"],))
    return True

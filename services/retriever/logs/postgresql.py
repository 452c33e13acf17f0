"""The change log in PostgreSQL, schema ``weft_log``, shared by the replicas of a mesh.

The same tables as in SQLite, and the same rule: a row of ``log`` says that something was touched, the
tables say how it stands. What takes a sequence number first takes the log's one advisory lock and holds it
until its commit is visible, so numbers are in commit order, without gaps; the number itself is counted up
in a row, so a transaction that fails gives it back. A reader reads a page in one snapshot.

Chunks go in before the lock is taken: staging needs no order, only that its batch stays (its row is held),
and a document of any length holds others up for a few statements. What a crash, a deletion or a
replacement leaves behind, ``sweep`` removes later; sweepers of several replicas pass each other by.

Each commit notifies; ``wait_changed`` listens, and asks every second in case a notice was lost. Where the
server is away, writes and reads fail at once with DEPENDENCY_UNAVAILABLE; what was there is there when it
is back. An acknowledged write has been committed with ``synchronous_commit``.

Errors: see ``mesh.postgresql``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mesh import postgresql
from mesh.plugins import Url
from mesh.postgresql import lock_key
from services.retriever.logs import _postgresql_tables as sql
from services.retriever.logs import _staging
from services.retriever.logs._rows import chunk_rows, document_row, to_collection, to_document, to_stored
from services.retriever.logs._staging import SWEEP_ROWS, overtaken, same, swept, went_away
from services.retriever.ports import READ_CHUNKS, Changes, Content, StoredDocument
from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors

if TYPE_CHECKING:
    from mesh.postgresql import Connection, Database

_POLL_S: Final = 1.0
_LOG_ROWS: Final = 512  # looked at in one go
_LOCK: Final = lock_key("weft_log")


class PostgresqlLog:
    """``ports.Log`` on PostgreSQL. Make it with ``open``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end, self._moved = 0, asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weft-log-read")
        self._listening = asyncio.create_task(database.listen(sql.CHANNEL, self._heard))

    @property
    def log_id(self) -> str:
        """Identity of the log, 32 hex digits; a store made anew has another."""
        return self._database.store_id

    async def close(self) -> None:
        """Let go of the store."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self._database.close()
        self._thread.shutdown(wait=False)

    # -- reading --------------------------------------------------------------------------------------

    async def wait_changed(self, after: int, timeout_s: float) -> bool:
        """Wait until the log goes beyond sequence ``after``, or so long; returns whether it does."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._moved.clear()
            if self._end > after:
                return True
            async with self._database.connection() as connection:
                self._end = await connection.fetchval(sql.END)
            self._check_end(self._end, after)
            if self._end > after:
                return True
            if (remaining_s := until_s - time.monotonic()) <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL_S, remaining_s)):
                    await self._moved.wait()

    def _heard(self, payload: str) -> None:
        if payload.isdigit():
            self._end = max(self._end, int(payload))
        self._moved.set()

    def _check_end(self, end: int, after: int) -> None:
        if after > end:
            raise self._database.corrupt(f"it ends at sequence {end}, but {after} was read from it before")

    async def read(self, after: int, max_chunks: int = READ_CHUNKS) -> Changes:
        """A page of what changed after sequence ``after``, as it stands now."""
        async with self._database.snapshot() as connection:
            end = await connection.fetchval(sql.END)
            self._check_end(end, after)
            sequence, touched = await _touched(connection, after, max_chunks)
            records = await connection.fetch(sql.COLLECTIONS_BY_ID, list({row["collection_id"] for row in touched}))
            collections = {record["id"]: to_collection(record) for record in records}
            live = [row for row in touched if row["batch"] is not None]
            chunks: defaultdict[int, list[Any]] = defaultdict(list)
            for chunk in await connection.fetch(
                sql.CHUNKS, [row["tenant"] for row in live], [row["batch"] for row in live]
            ):
                chunks[chunk["batch"]].append(chunk)
        making = self._thread.submit(_changes, sequence, end, touched, collections, chunks)
        return await asyncio.wrap_future(making)

    async def get_collection(self, key: CollectionKey) -> Collection | None:
        """The collection, or None."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.COLLECTION_BY_NAME, *key)
        return to_collection(row) if row else None

    async def list_collections(self, tenant: str, after: str, limit: int) -> list[Collection]:
        """A tenant's collections by name, from the first name past ``after``."""
        async with self._database.connection() as connection:
            return [to_collection(row) for row in await connection.fetch(sql.COLLECTIONS, tenant, after, limit)]

    async def touched(self, collection: Collection, after: int, limit: int) -> list[tuple[int, str]]:
        """Sequence and name of documents put or deleted after a sequence, oldest first; names may come again."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql.TOUCHED, after, collection.key.tenant, collection.id, limit)
        return [(row["sequence"], row["document"]) for row in rows]

    async def get_stored(self, collection: Collection, name: str) -> StoredDocument | None:
        """A document with its chunks and vectors, or None."""
        where = (collection.key.tenant, collection.id, name)
        async with self._database.snapshot() as connection:
            row = await connection.fetchrow(sql.DOCUMENT, *where)
            if row is None:
                return None
            chunks = await connection.fetch(sql.CHUNKS, [collection.key.tenant], [row["batch"]])
        return to_stored(collection, row, chunks)

    async def get_document(self, collection: Collection, name: str) -> Document | None:
        """The document's record, or None."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.DOCUMENT, collection.key.tenant, collection.id, name)
        return to_document(row) if row else None

    async def get_documents(self, collection: Collection, names: Sequence[str]) -> dict[str, Document]:
        """The records of those of ``names`` that are there."""
        async with self._database.snapshot() as connection:
            if not await _stands(connection, collection):
                return {}
            rows = await connection.fetch(sql.THESE_DOCUMENTS, collection.key.tenant, collection.id, names)
        return {row["name"]: to_document(row) for row in rows}

    async def list_documents(self, collection: Collection, after: str, limit: int) -> list[Document]:
        """Records by name, from the first name past ``after``."""
        where = (collection.key.tenant, collection.id, after, limit)
        async with self._database.connection() as connection:
            return [to_document(row) for row in await connection.fetch(sql.DOCUMENTS, *where)]

    # -- writing --------------------------------------------------------------------------------------

    async def create_collection(
        self, key: CollectionKey, embedder: str, wanted_embedder: str, dimension: int
    ) -> Collection:
        """Make a collection, or return the one of that name as it is."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            row = await connection.fetchrow(sql.COLLECTION_BY_NAME, *key)
            if row:
                return to_collection(row)
            now_s = time.time()
            made = await connection.fetchval(sql.CREATE_COLLECTION, *key, embedder, wanted_embedder, dimension, now_s)
            sequence = await connection.fetchval(sql.NEXT, key.tenant, made, "", now_s)
            await connection.execute(sql.COUNT, made, sequence, 0, 0)
        return Collection(key, made, embedder, wanted_embedder, dimension, now_s, sequence)

    async def delete_collection(self, key: CollectionKey) -> int | None:
        """Delete it with all that is in it; the sequence of that, or None where there is none."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            gone = await connection.fetchval(sql.DELETE_COLLECTION, *key)
            if gone is None:
                return None
            await connection.execute(sql.GONE, key.tenant, gone)
            sequence: int = await connection.fetchval(sql.NEXT, key.tenant, gone, "", time.time())
        return sequence

    async def switch(self, old: Collection, new: Collection) -> int | None:
        """Give ``new`` the name of ``old`` and delete ``old``; None where either has changed since it was read."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            for one in (old, new):
                row = await connection.fetchrow(sql.COLLECTION_BY_ID, one.key.tenant, one.id)
                if row is None or to_collection(row).sequence != one.sequence:
                    return None
            await connection.execute(sql.DELETE_COLLECTION, *old.key)
            await connection.execute(sql.GONE, old.key.tenant, old.id)
            sequence = await connection.fetchval(sql.NEXT, new.key.tenant, new.id, "", time.time())
            await connection.execute(sql.RENAME, new.id, old.key.name, old.created_s, sequence)
            # Who reads this only once the new one is deleted, too, would else never hear of the old one again.
            await connection.fetchval(sql.NEXT, old.key.tenant, old.id, "", time.time())
        return int(sequence)

    async def delete_document(self, collection: Collection, name: str) -> int | None:
        """Delete it; the sequence of that, or None where there is none."""
        where = (collection.key.tenant, collection.id, name)
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            if not await _stands(connection, collection):
                raise _staging.replaced(collection)
            gone = await connection.fetchrow(sql.DELETE_DOCUMENT, *where)
            if gone is None:
                return None
            await connection.execute(sql.DELETED, *collection.key, name)
            await connection.execute(sql.DROP_BATCHES, [gone["batch"]])
            sequence: int = await connection.fetchval(sql.NEXT, *where, time.time())
            await connection.execute(sql.COUNT, collection.id, sequence, -1, -gone["chunk_count"])
        return sequence

    async def stage(self, collection: Collection, batch: int | None, chunks: Sequence[Chunk], vectors: Vectors) -> int:
        """Put chunks into a batch that nobody sees yet; ``batch`` None begins one. Returns the batch."""
        async with self._database.transaction() as connection:
            return await _stage(connection, collection, batch, chunks, vectors)

    async def publish(self, collection: Collection, contents: Sequence[Content]) -> list[Document | None]:
        """Give documents, each of another name, their content: all or none, in one step."""
        async with self._database.transaction() as connection:
            batches = [await _stage(connection, collection, one.batch, one.last, one.vectors) for one in contents]
            await connection.execute(sql.LOCK, _LOCK)
            if not await _stands(connection, collection):
                raise went_away(collection, contents)
            return [
                await _publish(connection, collection, content, batch)
                for content, batch in zip(contents, batches, strict=True)
            ]

    async def confirm(self, collection: Collection, documents: Sequence[Document]) -> list[bool]:
        """Note of documents that they arrived again as they are; returns of each whether it still is."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            there = await _stands(connection, collection)
            confirmed = await _confirm(connection, collection, documents) if there else ()
        return [(document.name, document.sequence) in confirmed for document in documents]

    async def discard(self, batch: int) -> None:
        """Drop a staged batch."""
        async with self._database.connection() as connection:
            await connection.execute(sql.DROP_BATCHES, [batch])

    async def sweep(self) -> bool:
        """Remove a little of what nobody leads to any more; returns whether there may be more."""
        async with self._database.transaction() as connection:
            gone = await connection.fetchrow(sql.SWEEP_GONE)
            if gone is not None:
                where = (gone["tenant"], gone["collection_id"])
                dropped = await connection.fetch(sql.SWEEP_DOCUMENTS, *where, SWEEP_ROWS)
                if dropped:
                    await connection.execute(sql.DROP_BATCHES, [row["batch"] for row in dropped])
                else:
                    await connection.execute(sql.SWEPT_GONE, gone["collection_id"])
                return True
            batch = await connection.fetchrow(sql.SWEEP_BATCH, time.time() - _staging.STAGED_LIFE_S)
            if batch is None:
                deleted: int = await connection.fetchval(sql.SWEEP_DELETED, _staging.DELETED_LIFE_S, SWEEP_ROWS)
                return deleted == SWEEP_ROWS
            # A staged one must not be published any more once its chunks begin to go.
            await connection.execute(sql.DROP_BATCHES, [batch["id"]])
            removed = await connection.fetchval(sql.SWEEP_CHUNKS, batch["tenant"], batch["id"], SWEEP_ROWS)
            if removed < SWEEP_ROWS:
                await connection.execute(sql.SWEPT_BATCH, batch["id"])
        return True


async def open(url: Url) -> PostgresqlLog:
    """Open the log in the database of ``url``; its tables are made if they aren't there."""
    return PostgresqlLog(await postgresql.open(url, sql.SCHEMA))


async def _stands(connection: Connection, collection: Collection) -> bool:
    """Whether a collection is there, and under the name that it was read by: neither deleted nor moved."""
    row = await connection.fetchrow(sql.COLLECTION_BY_ID, collection.key.tenant, collection.id)
    return row is not None and to_collection(row).key == collection.key


async def _stage(
    connection: Connection, collection: Collection, batch: int | None, chunks: Sequence[Chunk], vectors: Vectors
) -> int:
    tenant = collection.key.tenant
    if batch is None:
        batch = int(await connection.fetchval(sql.NEW_BATCH, tenant, collection.id, time.time()))
    elif await connection.fetchval(sql.STAGED_AGAIN, batch, time.time()) is None:
        raise swept()
    if chunks:
        await connection.execute(sql.PUT_CHUNKS, tenant, batch, *zip(*chunk_rows(chunks, vectors), strict=True))
    return batch


async def _publish(connection: Connection, collection: Collection, content: Content, batch: int) -> Document | None:
    where, document = (collection.key.tenant, collection.id), content.document
    row = await connection.fetchrow(sql.DOCUMENT, *where, document.name)
    old = to_document(row) if row else None
    if old is None:
        stays = await _deleted_since(connection, collection, content)
    else:
        late = overtaken(old, content)
        stays = same(old, content) or (late and old.arrived_s <= await connection.fetchval(sql.CLOCK))
    if stays:
        await connection.execute(sql.DROP_BATCHES, [batch])
        if old is not None:
            await _confirm(connection, collection, [replace(old, arrived_s=document.arrived_s)])
        return old
    await connection.execute(sql.PUBLISH_BATCH, batch)
    if row is not None:
        await connection.execute(sql.DROP_BATCHES, [row["batch"]])
    now_s = time.time()
    sequence = await connection.fetchval(sql.NEXT, *where, document.name, now_s)
    new = replace(document, updated_s=now_s, sequence=sequence)
    await connection.execute(sql.PUT_DOCUMENT, *where, *document_row(new, batch))
    gained = new.chunk_count - (old.chunk_count if old else 0)
    await connection.execute(sql.COUNT, collection.id, sequence, 0 if old else 1, gained)
    return new


async def _confirm(connection: Connection, collection: Collection, again: Sequence[Document]) -> set[Any]:
    columns = zip(*((document.name, document.sequence, document.arrived_s) for document in again), strict=True)
    where = (collection.key.tenant, collection.id)
    return {tuple(row) for row in await connection.fetch(sql.ARRIVED, *where, *columns)}


async def _deleted_since(connection: Connection, collection: Collection, content: Content) -> bool:
    if content.copied or not content.document.arrived_s:
        return False
    given = (*collection.key, content.document.name, content.document.arrived_s)
    return await connection.fetchval(sql.DELETED_AFTER, *given) is not None


async def _touched(connection: Connection, after: int, max_chunks: int) -> tuple[int, list[Any]]:
    """How far a page of the log goes, and what it names: each once, with its document's record."""
    sequence, taken = after, 0
    touched: dict[tuple[int, str], Any] = {}
    while rows := await connection.fetch(sql.LOG, sequence, _LOG_ROWS):
        for row in rows:
            key = (row["collection_id"], row["document"])
            if key not in touched:
                weight = max(1, row["chunk_count"] or 0)
                if taken and taken + weight > max_chunks:
                    return sequence, list(touched.values())
                taken += weight
                touched[key] = row
            sequence = row["position"]
    return sequence, list(touched.values())


def _changes(
    sequence: int,
    end: int,
    touched: list[Any],
    collections: dict[int, Collection],
    chunks: dict[int, list[Any]],
) -> Changes:
    documents: list[StoredDocument] = []
    gone_documents: list[tuple[int, str]] = []
    for row in touched:
        collection = collections.get(row["collection_id"])
        if collection is None or not row["document"]:
            continue
        if row["batch"] is None:
            gone_documents.append((collection.id, row["document"]))
        else:
            documents.append(to_stored(collection, row, chunks.get(row["batch"], ())))
    return Changes(
        sequence,
        more=sequence < end,
        collections=tuple(collections.values()),
        gone_collections=tuple({row["collection_id"] for row in touched} - collections.keys()),
        documents=tuple(documents),
        gone_documents=tuple(gone_documents),
    )

"""``pgvector://user:password@host:port/database``: vectors in a PostgreSQL with the extension pgvector, shared.

Schema ``weft_index``: a row with the log's id, the watermark and the lease, and a table for each incarnation of a
collection. So rows of two collections never meet, a search reads its own collection's pages and no other's, each
table has its own dimension, and a collection that was deleted goes at once, with its table.

What is applied goes in with the watermark in one transaction, which holds the lease's row: a writer that was paused
and lost its lease finds another fence there and does nothing, and nobody is given the lease in the middle of
a write. A transaction that hangs is ended by the server.

A search is one statement, so all of it is from one moment. It looks at every row: exact (docs/adr/0011).

Connections are opened when they are needed. A server that is away, hangs or was set up anew costs errors as long as
that lasts; a store that was emptied is filled again from the log.

Errors: as ``ports.SharedIndex`` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import numpy as np

from mesh import postgresql
from mesh.plugins import Url
from services.retriever.indexes import _pgvector_tables as sql
from services.retriever.ports import Changes, Near, Place, StoredDocument, WriteLease
from services.retriever.types import Collection, Vectors
from weft.errors import Reason, WeftError, error

if TYPE_CHECKING:
    from mesh.postgresql import Connection, Database

_POLL_S: Final = 1.0


class PgvectorIndex:
    """``ports.SharedIndex`` on PostgreSQL. Make it with ``open``."""

    def __init__(self, url: Url) -> None:
        self._url = url
        self._log_id = ""
        self._database: Database | None = None
        self._listening: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._moved = asyncio.Event()

    async def start(self, log_id: str) -> None:
        """Make the store's tables where they aren't there."""
        self._log_id = log_id
        await self._opened()

    async def close(self) -> None:
        """Let go of the store."""
        database, self._database = self._database, None
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if database is not None:
            await database.close()

    # -- reading --------------------------------------------------------------------------------------

    async def watermark(self, after: int, timeout_s: float) -> int:
        """The sequence that the index has seen, as soon as it isn't ``after``, or so long after."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._moved.clear()
            async with self._connection() as connection:
                sequence: int = await connection.fetchval(sql.WATERMARK)
            remaining_s = until_s - time.monotonic()
            if sequence != after or remaining_s <= 0:
                return sequence
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL_S, remaining_s)):
                    await self._moved.wait()

    async def search(
        self, collection: Collection, vector: Vectors, k: int, documents: Sequence[str] | None, asked: Sequence[Place]
    ) -> Near:
        """The ``k`` passages nearest to the one row of ``vector``, and the cosines of those ``asked`` about."""
        columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], []]
        values = [vector[0].tolist(), k, *columns, *([] if documents is None else [list(documents)])]
        statement = sql.search(collection.id, filtered=documents is not None)
        async with self._connection() as connection:
            try:
                rows = await connection.fetch(statement, *values)
            except asyncpg.UndefinedTableError:
                now = await connection.fetchrow(sql.IS_KNOWN, collection.id)
                if now is not None and not now["known"]:
                    return _near([], now["sequence"], asked)
                rows = await connection.fetch(statement, *values)  # it came a moment ago, or is damaged
        (sequence,) = (row["sequence"] for row in rows if row["near"] is None)
        return _near([row for row in rows if row["near"] is not None], sequence, asked)

    # -- writing --------------------------------------------------------------------------------------

    async def claim(self, owner: str, lease_s: float) -> WriteLease | None:
        """Take the lease, or prolong it; None while another owner has it."""
        async with self._connection() as connection:
            fence = await connection.fetchval(sql.CLAIM, owner, lease_s)
        return None if fence is None else WriteLease(fence)

    async def give_up(self, lease: WriteLease) -> None:
        """Let another have the lease now."""
        async with self._connection() as connection:
            await connection.execute(sql.GIVE_UP, lease.fence)

    async def apply(self, lease: WriteLease, after: int, changes: Changes) -> bool:
        """Apply what changed after sequence ``after`` in one transaction; False where it isn't this writer's turn."""
        async with self._transaction() as connection:
            if await connection.fetchval(sql.HOLD, lease.fence) != after:
                return False
            await _drop(connection, await connection.fetch(sql.REMOVE, list(changes.gone_collections)))
            known = {row["id"] for row in await connection.fetch(sql.KNOWN)}
            for collection in changes.collections:
                if collection.dimension and collection.id not in known:
                    known.add(collection.id)
                    await connection.execute(sql.ADD, collection.id, collection.key.tenant, collection.dimension)
                    for statement in sql.create(collection.id, collection.dimension):
                        await connection.execute(statement)
            replaced, put = _by_collection(changes)
            for collection_id in replaced.keys() & known:
                await connection.execute(sql.forget(collection_id), replaced[collection_id])
                rows = (row for stored in put[collection_id] for row in _rows(stored))
                await connection.executemany(sql.put(collection_id), rows)
            await connection.execute(sql.MOVE, changes.sequence)
            await connection.execute(sql.NOTIFY)
        return True

    async def clear(self, lease: WriteLease) -> bool:
        """Forget everything and begin at sequence 0."""
        async with self._transaction() as connection:
            if await connection.fetchval(sql.HOLD, lease.fence) is None:
                return False
            known = [row["id"] for row in await connection.fetch(sql.KNOWN)]
            await _drop(connection, await connection.fetch(sql.REMOVE, known))
            await connection.execute(sql.MOVE, 0)
            await connection.execute(sql.NOTIFY)
        return True

    # -- the database ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        database = await self._opened()
        async with self._watched(database), database.connection() as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        database = await self._opened()
        async with self._watched(database), database.transaction() as connection:
            yield connection

    @asynccontextmanager
    async def _watched(self, database: Database) -> AsyncIterator[None]:
        """What is damaged or another store by now is looked at anew the next time."""
        try:
            yield
        except WeftError as err:
            if err.reason == Reason.STORE_CORRUPT and self._database is database:
                await self.close()
            raise

    async def _opened(self) -> Database:
        async with self._opening:
            if self._database is None:
                raw = self._url.raw.replace(f"{self._url.scheme}:", "postgresql:", 1)
                database = await self._told(postgresql.open(Url.parse(raw), sql.SCHEMA))
                try:
                    await self._check(database)
                except BaseException:
                    await database.close()
                    raise
                self._listening = asyncio.create_task(database.listen(sql.CHANNEL, lambda _: self._moved.set()))
                self._database = database
            return self._database

    async def _check(self, database: Database) -> None:
        async with database.connection() as connection:
            await connection.execute(sql.TAKE, self._log_id)
            found = await connection.fetchval(sql.LOG_ID)
        if found != self._log_id:
            raise error(
                Reason.INVALID_FIELD,
                f"{self._url} holds the index of another log, {found}; this one is {self._log_id}. Name another "
                f"database in WEFT_RETRIEVER__INDEX, or, if nobody uses that index any more, drop the schema "
                f"{sql.SCHEMA.name} there: it is made again from the log",
                field="WEFT_RETRIEVER__INDEX",
                log=self._log_id,
                found=found,
            )

    async def _told(self, opening: Any) -> Database:
        try:
            database: Database = await opening
        except WeftError as err:
            if isinstance(err.__cause__, asyncpg.FeatureNotSupportedError | asyncpg.UndefinedFileError):
                raise error(
                    Reason.INVALID_FIELD,
                    f"{self._url} is a PostgreSQL without pgvector: {err.__cause__}; install the extension for the "
                    "server (Debian: postgresql-NN-pgvector)",
                    field="WEFT_RETRIEVER__INDEX",
                ) from err
            raise
        return database


def open(url: Url) -> PgvectorIndex:
    """The shared index in the database of ``url``; nothing is connected yet."""
    return PgvectorIndex(url)


async def _drop(connection: Connection, removed: Sequence[Any]) -> None:
    for row in removed:
        await connection.execute(sql.drop(row["id"]))


def _by_collection(changes: Changes) -> tuple[dict[int, list[str]], dict[int, list[StoredDocument]]]:
    """Names whose passages go, and documents whose passages come."""
    replaced: defaultdict[int, list[str]] = defaultdict(list)
    put: defaultdict[int, list[StoredDocument]] = defaultdict(list)
    for collection_id, name in changes.gone_documents:
        replaced[collection_id].append(name)
    for stored in changes.documents:
        replaced[stored.collection_id].append(stored.document.name)
        put[stored.collection_id].append(stored)
    return replaced, put


def _rows(stored: StoredDocument) -> list[tuple[str, int, int, list[float]]]:
    name, sequence = stored.document.name, stored.document.sequence
    return [
        (name, sequence, chunk.number, vector.tolist())
        for chunk, vector in zip(stored.chunks, stored.vectors, strict=True)
    ]


def _near(rows: Sequence[Any], sequence: int, asked: Sequence[Place]) -> Near:
    found: list[tuple[float, bytes, Place]] = []
    known: dict[Place, float] = {}
    for row in rows:
        place = Place(row["document"], row["sequence"], row["chunk"])
        if row["near"]:
            found.append((row["distance"], place.document.encode(), place))
        else:
            known[place] = -row["distance"]
    found.sort(key=lambda one: (one[0], one[1], one[2].chunk))
    return Near(
        sequence,
        tuple(place for _, _, place in found),
        np.array([-distance for distance, _, _ in found], np.float32),
        np.array([known.get(place, np.nan) for place in asked], np.float32),
    )

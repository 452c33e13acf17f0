"""Blobs of a store on PostgreSQL, schema ``weft_blobs``: rows of at most 1 MiB, deleted when a document is in.

A blob comes in under a number that nobody knows and gets its key when it is whole: it is there entirely or not
at all. Small ones go in with one transaction. What writers that died left is removed after an hour. Every
commit is durable.

Errors: STORE_CORRUPT when a blob is gone or its bytes aren't those of its hash; else see ``mesh.postgresql``.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from mesh import postgresql
from mesh.plugins import Url
from mesh.postgresql import Database
from services.retriever.blobs import _postgresql_tables as sql
from services.retriever.ingest.uploads import BlobKey, damaged_blob
from weft.errors import Reason, WeftError

if TYPE_CHECKING:
    from mesh.postgresql import Connection

PART_BYTES: Final = 1 << 20
_CONNECTIONS: Final = 2


class PostgresqlBlobs:
    """``Blobs`` in PostgreSQL. Make it with ``open``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def writer(self) -> PostgresqlWriter:
        """Begin a blob."""
        return PostgresqlWriter(self._database)

    async def parts(self, key: BlobKey) -> AsyncIterator[bytes]:
        """Its bytes, in parts of at most 1 MiB, checked against its hash at the end."""
        digest, number = hashlib.sha256(), 0
        async with self._database.connection() as connection:
            blob = await connection.fetchval(sql.FIND, *key)
        if blob is None:
            raise damaged_blob(key, "it is gone")
        while True:
            async with self._database.connection() as connection:
                part: bytes | None = await connection.fetchval(sql.PART, blob, number)
            if part is None:
                break
            digest.update(part)
            yield part
            number += 1
        if digest.hexdigest() != key.sha256:
            raise damaged_blob(key, "its bytes are not those that were sent")

    async def put(self, tenant: str, upload: str, blobs: Mapping[int, bytes], *, durable: bool) -> dict[int, BlobKey]:
        """Keep small ones, by their numbers, each whole."""
        keys = {
            number: BlobKey(tenant, upload, number, hashlib.sha256(data).hexdigest()) for number, data in blobs.items()
        }
        hashes = [key.sha256 for key in keys.values()]
        async with self._database.connection() as connection:  # those that are there stay: somebody may be reading them
            await connection.execute(sql.PUT_SMALL, tenant, upload, [*keys], hashes, [*blobs.values()])
        return keys

    async def get(self, keys: Sequence[BlobKey]) -> list[bytes | WeftError]:
        """The bytes of small ones, or what is wrong with them."""
        found: list[bytes | WeftError] = []
        for key in keys:
            try:
                found.append(b"".join([part async for part in self.parts(key)]))
            except WeftError as err:
                if err.reason != Reason.STORE_CORRUPT:
                    raise
                found.append(err)
        return found

    async def remove(self, keys: Sequence[BlobKey]) -> None:
        """Remove those that are there."""
        async with self._database.connection() as connection:
            for (tenant, upload), group in groupby(keys, lambda key: (key.tenant, key.upload)):
                _, _, numbers, hashes = zip(*group, strict=True)
                await connection.execute(sql.REMOVE_THESE, tenant, upload, numbers, hashes)

    async def remove_upload(self, tenant: str, upload: str) -> None:
        """Remove all of an upload."""
        async with self._database.connection() as connection:
            await connection.execute(sql.REMOVE_UPLOAD, tenant, upload)

    async def sweep(self) -> None:
        """Remove what writers that died left behind."""
        async with self._database.connection() as connection:
            await connection.execute(sql.SWEEP)

    async def close(self) -> None:
        """Let go of the store."""
        await self._database.close()


class PostgresqlWriter:
    """One blob on its way in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._blob: int | None = None
        self._written = 0  # parts

    async def write(self, data: bytes) -> None:
        """Add to it."""
        self._buffer += data
        self._digest.update(data)
        while len(self._buffer) > PART_BYTES:
            async with self._database.transaction() as connection:
                blob = await self._flush(connection)
            self._blob, self._written = blob, self._written + 1
            del self._buffer[:PART_BYTES]

    async def keep(self, tenant: str, upload: str, number: int, *, durable: bool) -> BlobKey:
        """Put it in its place, whole."""
        key = BlobKey(tenant, upload, number, self._digest.hexdigest())
        async with self._database.transaction() as connection:
            blob = await self._flush(connection)
            if await connection.fetchval(sql.FIND, *key) is not None:  # the same bytes, which somebody may be reading
                await connection.execute(sql.DROP, blob)
            elif await connection.fetchval(sql.KEEP, blob, *key) is None:
                raise damaged_blob(key, "it took more than an hour to come in")
        self._blob = None
        self._buffer.clear()
        return key

    async def drop(self) -> None:
        """Forget what was written. After ``keep`` it does nothing."""
        self._buffer.clear()
        blob, self._blob = self._blob, None
        if blob is not None:
            async with self._database.connection() as connection:
                await connection.execute(sql.DROP, blob)

    async def _flush(self, connection: Connection) -> int:
        blob = self._blob if self._blob is not None else int(await connection.fetchval(sql.BEGIN))
        await connection.execute(sql.PUT_PART, blob, self._written, bytes(self._buffer[:PART_BYTES]))
        return blob


async def open(url: Url) -> PostgresqlBlobs:
    """The blobs in the database of ``url``; their tables are made if they aren't there."""
    return PostgresqlBlobs(await postgresql.open(url, sql.SCHEMA, max_connections=_CONNECTIONS))

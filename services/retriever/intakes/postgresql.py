"""The list of uploads in PostgreSQL, schema ``weft_intake``, shared by the replicas of a mesh.

The same two tables as in SQLite. Whoever writes to an ingest holds its row of ``uploads`` until the commit, so
its senders and workers come one after the other, and other ingests aren't held up. Signs of life go by the
server's clock. Changes ring a bell by NOTIFY. Every commit is durable.

Errors: see ``mesh.postgresql``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mesh import postgresql
from mesh.plugins import Url
from mesh.postgresql import Bell, Database
from services.retriever.ingest.uploads import Held, Item, Receipt, let_go_meanwhile
from services.retriever.intakes import _postgresql_tables as sql
from services.retriever.intakes._rows import (
    check_settling,
    check_total,
    check_upload,
    content,
    fate,
    generation_of,
    reused,
    still_held,
    to_held,
    to_item,
    to_receipt,
    to_row,
    upload_name,
)

if TYPE_CHECKING:
    from mesh.postgresql import Connection

_CONNECTIONS: Final = 4
_SWEEP_UPLOADS: Final = 20


class PostgresqlIntake:
    """``Intake`` on PostgreSQL. Make it with ``open``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bell = Bell(database, sql.CHANNEL)

    # -- for senders ----------------------------------------------------------------------------------

    async def begin(self, tenant: str, job: str, sender: str, collection: str) -> str:
        """A sender begins, or begins again from its first document; returns the upload, by which its bytes go."""
        async with self._database.transaction() as connection:
            row: Any = await connection.fetchrow(sql.BEGIN, tenant, job, collection, sender)
            await self._bell.ring(connection)
        return upload_name(job, row["generation"])

    async def put(
        self,
        tenant: str,
        job: str,
        upload: str,
        items: Sequence[Item],
        *,
        total: int | None = None,
        durable: bool = False,
    ) -> list[bool]:
        """Add documents, all or none; returns of each whether it waits for its bytes to be worked on."""
        async with self._database.transaction() as connection:
            row: Any = await connection.fetchrow(sql.HOLD, tenant, job)
            if row is None:
                raise let_go_meanwhile(job)
            await self._bell.ring(connection)
            waiting = await _add(connection, tenant, job, upload, row, items) if items else []
            check_upload(job, row, upload, waiting, total)
            if total is not None:
                check_total(job, row, items[-1].number if items else 0, total)
                if await connection.fetchval(sql.LISTED, tenant, job) < total:
                    raise let_go_meanwhile(job)  # another sender of the same broke off before what this one ends with
                await connection.execute(sql.COMPLETE, tenant, job, total)
        return waiting

    async def sign(self, tenant: str, job: str, sender: str) -> None:
        """The sender is still there."""
        async with self._database.connection() as connection:
            await connection.execute(sql.SIGN, tenant, job, sender)

    async def break_off(self, tenant: str, job: str, sender: str) -> None:
        """The sender is gone and the rest won't come."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.BREAK_OFF, tenant, job, sender)
            await self._bell.ring(connection)

    # -- for whoever looks ----------------------------------------------------------------------------

    async def receipt(self, tenant: str, job: str) -> Receipt | None:
        """How far the upload is; None where none began."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.UPLOAD, tenant, job)
        return to_receipt(row, row["now_s"]) if row is not None else None

    async def items(self, tenant: str, job: str, after: int, limit: int) -> list[Item]:
        """Documents by number, from the first past ``after``."""
        async with self._database.connection() as connection:
            return [to_item(row) for row in await connection.fetch(sql.ITEMS, tenant, job, after, limit)]

    async def waiting_bytes(self) -> int:
        """Bytes in the blob store that wait, of all tenants."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(sql.WAITING_BYTES))

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        return await self._bell.changed(seen, timeout_s)

    # -- for workers ----------------------------------------------------------------------------------

    async def take(self, tenant: str, job: str, fence: int) -> None:
        """A worker begins: from now on lower fences are refused."""
        async with self._database.transaction() as connection:
            check_settling(job, await connection.fetchrow(sql.HOLD, tenant, job), fence)
            await connection.execute(sql.TAKE, tenant, job, fence)

    async def settle(self, tenant: str, job: str, fence: int, items: Sequence[Item]) -> None:
        """Note what became of documents."""
        async with self._database.transaction() as connection:
            check_settling(job, await connection.fetchrow(sql.HOLD, tenant, job), fence, items)
            await connection.executemany(sql.SETTLE, [(tenant, job, item.number, *fate(item)) for item in items])
            await self._bell.ring(connection)

    # -- for the sweep --------------------------------------------------------------------------------

    async def held(self, after: int, limit: int) -> list[Held]:
        """Ingests that may still have blobs, oldest first, from the first past the place ``after``."""
        async with self._database.connection() as connection:
            return [to_held(row) for row in await connection.fetch(sql.HELD, after, limit)]

    async def let_go(self, held: Held) -> bool:
        """The job has ended: forget documents that still wait, if the upload is still as it was seen."""
        tenant, job = held.tenant, held.job
        async with self._database.transaction() as connection:
            if not still_held(held, await connection.fetchrow(sql.HOLD, tenant, job)):
                return False
            lost = await connection.fetchval(sql.FORGET_WAITING, tenant, job)
            await connection.execute(sql.LET_GO, tenant, job, lost > 0)
            await self._bell.ring(connection)
        return True

    async def let_gone(self, held: Held) -> None:
        """The bytes of what was let go are removed."""
        async with self._database.connection() as connection:
            await connection.execute(sql.LET_GONE, generation_of(held), held.sender, held.tenant, held.job)

    async def sweep(self, older_than_s: float) -> bool:
        """Forget a few ingests that were let go and that nobody touched for so long; whether there may be more."""
        async with self._database.transaction() as connection:
            old = await connection.fetch(sql.SWEEP, older_than_s, _SWEEP_UPLOADS)
            for row in old:
                await connection.execute(sql.FORGET_ITEMS, *row)
        return len(old) == _SWEEP_UPLOADS

    async def close(self) -> None:
        """Let go of the store."""
        await self._bell.close()
        await self._database.close()


async def open(url: Url) -> PostgresqlIntake:
    """Open the list in the database of ``url``; its tables are made if they aren't there."""
    return PostgresqlIntake(await postgresql.open(url, sql.SCHEMA, max_connections=_CONNECTIONS))


async def _add(
    connection: Connection, tenant: str, job: str, upload: str, row: Any, items: Sequence[Item]
) -> list[bool]:
    """List documents; returns of each whether it waits."""
    await connection.execute(sql.RECEIVED, tenant, job, items[-1].number)
    rows = await connection.fetch(sql.ITEMS, tenant, job, items[0].number - 1, len(items))
    there = {row["number"]: row for row in rows}
    waiting, new = [], []
    for item in items:
        before = there.get(item.number)
        waiting.append(item.outcome is None if before is None else before["outcome"] is None)
        if before is None:
            if row["total"] is not None and item.number > row["total"]:
                raise reused(job, f"it had {row['total']} documents then, and has more now")
            new.append(to_row(tenant, job, upload, item))
        elif content(to_item(before)) != content(item):
            raise reused(job, f"document {item.number} is {item.source[:80]!r} with another content now")
    await connection.executemany(sql.PUT, new)
    return waiting

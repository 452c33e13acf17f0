"""The list of uploads in one SQLite file, ``intake.db``, shared by the replicas of a machine.

A row of ``uploads`` per ingest: who sends, when they last gave a sign, how much is here and whether that is
all. A row of ``items`` per document. Both stay for a while after the job ended, so that the same request
again is answered as it was; ``sweep`` forgets them.

Workers' writes are fenced by ``uploads.fence``, the highest fence that any of them came with.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mesh import database
from mesh.database import Database
from mesh.plugins import Url
from mesh.settings import directory_of
from services.retriever.ingest.uploads import Held, Item, Receipt, let_go_meanwhile
from services.retriever.intakes import _tables as sql
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

_SWEEP_UPLOADS: Final = 20


class SqliteIntake:
    """``Intake`` on SQLite. Make it with ``open``."""

    def __init__(self, db: Database, now_s: Callable[[], float]) -> None:
        self._db, self._now_s = db, now_s

    # -- for senders ----------------------------------------------------------------------------------

    async def begin(self, tenant: str, job: str, sender: str, collection: str) -> str:
        """A sender begins, or begins again from its first document; returns the upload, by which its bytes go."""

        def work(db: sqlite3.Connection) -> str:
            db.execute(sql.BEGIN, (tenant, job, collection, sender, self._now_s()))
            return upload_name(job, db.execute(sql.UPLOAD, (tenant, job)).fetchone()["generation"])

        return await self._db.write(work)

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

        def one(db: sqlite3.Connection, row: sqlite3.Row, item: Item) -> bool:
            there = db.execute(sql.ITEM, (tenant, job, item.number)).fetchone()
            if there is not None:
                if content(to_item(there)) != content(item):
                    raise reused(job, f"document {item.number} is {item.source[:80]!r} with another content now")
                return there["outcome"] is None
            if row["total"] is not None and item.number > row["total"]:
                raise reused(job, f"it had {row['total']} documents then, and has more now")
            db.execute(sql.PUT, (self._now_s(), *to_row(tenant, job, upload, item)))
            return item.outcome is None

        def work(db: sqlite3.Connection) -> list[bool]:
            row = db.execute(sql.UPLOAD, (tenant, job)).fetchone()
            if row is None:
                raise let_go_meanwhile(job)
            if items:
                db.execute(sql.RECEIVED, (self._now_s(), items[-1].number, tenant, job))
            waiting = [one(db, row, item) for item in items]
            check_upload(job, row, upload, waiting, total)
            if total is not None:
                check_total(job, row, items[-1].number if items else 0, total)
                if db.execute(sql.LISTED, (tenant, job)).fetchone()[0] < total:
                    raise let_go_meanwhile(job)  # another sender of the same broke off before what this one ends with
                db.execute(sql.COMPLETE, (total, tenant, job))
            return waiting

        return await self._db.write(work, durable=durable)

    async def sign(self, tenant: str, job: str, sender: str) -> None:
        """The sender is still there."""
        await self._db.write(lambda db: db.execute(sql.SIGN, (self._now_s(), tenant, job, sender)))

    async def break_off(self, tenant: str, job: str, sender: str) -> None:
        """The sender is gone and the rest won't come."""
        await self._db.write(lambda db: db.execute(sql.BREAK_OFF, (tenant, job, sender)))

    # -- for whoever looks ----------------------------------------------------------------------------

    async def receipt(self, tenant: str, job: str) -> Receipt | None:
        """How far the upload is; None where none began."""
        row = await self._db.read(lambda db: db.execute(sql.UPLOAD, (tenant, job)).fetchone())
        return to_receipt(row, self._now_s()) if row is not None else None

    async def items(self, tenant: str, job: str, after: int, limit: int) -> list[Item]:
        """Documents by number, from the first past ``after``."""
        rows = await self._db.read(lambda db: db.execute(sql.ITEMS, (tenant, job, after, limit)).fetchall())
        return [to_item(row) for row in rows]

    async def waiting_bytes(self) -> int:
        """Bytes in the blob store that wait, of all tenants."""
        return int(await self._db.read(lambda db: db.execute(sql.WAITING_BYTES).fetchone()[0]))

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        return await self._db.changed(seen, timeout_s)

    # -- for workers ----------------------------------------------------------------------------------

    async def take(self, tenant: str, job: str, fence: int) -> None:
        """A worker begins: from now on lower fences are refused."""

        def work(db: sqlite3.Connection) -> None:
            check_settling(job, db.execute(sql.UPLOAD, (tenant, job)).fetchone(), fence)
            db.execute(sql.TAKE, (fence, tenant, job))

        await self._db.write(work)

    async def settle(self, tenant: str, job: str, fence: int, items: Sequence[Item]) -> None:
        """Note what became of documents."""

        def work(db: sqlite3.Connection) -> None:
            check_settling(job, db.execute(sql.UPLOAD, (tenant, job)).fetchone(), fence, items)
            db.executemany(sql.SETTLE, [(*fate(item), tenant, job, item.number) for item in items])

        await self._db.write(work)

    # -- for the sweep --------------------------------------------------------------------------------

    async def held(self, after: int, limit: int) -> list[Held]:
        """Ingests that may still have blobs, oldest first, from the first past the place ``after``."""
        rows = await self._db.read(lambda db: db.execute(sql.HELD, (after, limit)).fetchall())
        return [to_held(row) for row in rows]

    async def let_go(self, held: Held) -> bool:
        """The job has ended: forget documents that still wait, if the upload is still as it was seen."""
        tenant, job = held.tenant, held.job

        def work(db: sqlite3.Connection) -> bool:
            if not still_held(held, db.execute(sql.UPLOAD, (tenant, job)).fetchone()):
                return False
            lost = db.execute(
                "DELETE FROM items WHERE tenant = ? AND job = ? AND outcome IS NULL", (tenant, job)
            ).rowcount
            db.execute(sql.LET_GO, (lost > 0, tenant, job))
            return True

        return await self._db.write(work)

    async def let_gone(self, held: Held) -> None:
        """The bytes of what was let go are removed."""
        given = (generation_of(held), held.sender, held.tenant, held.job)
        await self._db.write(lambda db: db.execute(sql.LET_GONE, given))

    async def sweep(self, older_than_s: float) -> bool:
        """Forget a few ingests that were let go and that nobody touched for so long; whether there may be more."""

        def work(db: sqlite3.Connection) -> bool:
            old = db.execute(sql.OLD, (self._now_s() - older_than_s, _SWEEP_UPLOADS)).fetchall()
            for where in map(tuple, old):
                db.execute("DELETE FROM items WHERE tenant = ? AND job = ?", where)
                db.execute("DELETE FROM uploads WHERE tenant = ? AND job = ?", where)
            return len(old) == _SWEEP_UPLOADS

        return await self._db.write(work)

    async def close(self) -> None:
        """Close the file."""
        await self._db.close()


async def open(url: Url) -> SqliteIntake:
    """Open ``DIR/intake.db`` of ``sqlite:///DIR``, made if it isn't there.

    Raises:
        WeftError: STORE_CORRUPT, DEPENDENCY_UNAVAILABLE.
    """
    return await open_file(directory_of(url) / "intake.db")


async def open_file(path: Path, now_s: Callable[[], float] = time.time) -> SqliteIntake:
    """Open the list in ``path``, made if it isn't there."""
    return SqliteIntake(await database.open(path, sql.SCHEMA), now_s)

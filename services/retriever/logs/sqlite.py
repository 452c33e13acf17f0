"""The change log in one SQLite file, ``log.db``, shared by the replicas of a machine.

A row of ``log`` says that something was touched; the tables say how it stands now. A reader that has seen
sequence n reads, in one snapshot, what the rows after n name, so it needs no old versions and a burst of
changes to one document costs it one read. Writers hold SQLite's one write lock (``BEGIN IMMEDIATE``) while
they take a sequence number and commit: numbers are in commit order, without gaps that could fill up later.

A document's chunks form a *batch*. A long document's are staged in short transactions that nobody sees,
then published by one row; a short one goes in with one transaction. A crash in between leaves a staged
batch, which ``sweep`` removes after an hour, as it does what deletion and replacement left behind,
a few rows at a time: no transaction holds the lock for long. After each the writer leaves the lock free
for as long as it held it, since waiting writers only look now and then whether it is free.

Of a document that was deleted, ``deleted`` tells for a day when: an upload that had arrived before changes nothing.

``synchronous=FULL``: what was acknowledged survives a power cut; that a document came again as it was, may not.
Every read and write runs on one of two threads of its own, never on the event loop; a third hears of other
processes' commits.

Errors: STORE_CORRUPT when the file is damaged or no database (``PRAGMA quick_check`` at open);
DEPENDENCY_UNAVAILABLE when it can't be opened, written (disk full) or locked in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from mesh import sqlite
from mesh.commit_watch import CommitWatch
from mesh.plugins import Url
from mesh.settings import directory_of
from services.retriever.logs import _tables as sql
from services.retriever.logs import _transactions as transactions
from services.retriever.logs._rows import chunk_rows, to_collection, to_document
from services.retriever.logs._staging import replaced, went_away
from services.retriever.ports import READ_CHUNKS, Changes, Content, StoredDocument
from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors
from weft.errors import Reason, WeftError, error

LOCK_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.025  # how soon the commit of another process is noticed
_MAX_YIELD_S: Final = 0.05
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

T = TypeVar("T")


class SqliteLog:
    """``ports.Log`` on SQLite. Make it with ``open``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="weft-log-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weft-log-read")
        self._rung = asyncio.Event()  # replaced each time it is set
        self._watch: CommitWatch | None = None
        self._write_db: sqlite3.Connection
        self._read_db: sqlite3.Connection
        self.log_id = ""

    async def start(self) -> None:
        """Open the file, check it, make the tables if they aren't there."""

        def write_side() -> None:
            self._write_db = _connect(self._path)
            self.log_id = _prepare(self._write_db, self._path)

        def read_side() -> None:
            self._read_db = _connect(self._path)

        await self._on(self._writer, write_side)
        await self._on(self._reader, read_side)
        self._watch = CommitWatch(self._path, self._ring, poll_s=POLL_S)

    async def close(self) -> None:
        """Finish what runs, close the file."""
        if self._watch is not None:
            await self._watch.close()
        if hasattr(self, "_read_db"):
            await asyncio.wrap_future(self._reader.submit(self._read_db.close))
        if hasattr(self, "_write_db"):
            await asyncio.wrap_future(self._writer.submit(self._write_db.close))
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    # -- reading --------------------------------------------------------------------------------------

    async def wait_changed(self, after: int, timeout_s: float) -> bool:
        """Wait until the log goes beyond sequence ``after``, or so long; returns whether it does."""
        until_s = time.monotonic() + timeout_s
        while True:
            rung = self._rung
            if self._checked(await self._read(transactions.log_end), after) > after:
                return True
            if (remaining_s := until_s - time.monotonic()) <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining_s):
                    await rung.wait()

    def _checked(self, end: int, after: int) -> int:
        if after > end:
            raise _corrupt(self._path, f"it ends at sequence {end}, but {after} was read from it before")
        return end

    async def read(self, after: int, max_chunks: int = READ_CHUNKS) -> Changes:
        """A page of what changed after sequence ``after``, as it stands now."""

        def work(db: sqlite3.Connection) -> Changes:
            self._checked(transactions.log_end(db), after)
            return transactions.changes(db, after, max_chunks)

        return await self._read(_snapshot(work))

    async def get_collection(self, key: CollectionKey) -> Collection | None:
        """The collection, or None."""

        def ask(db: sqlite3.Connection) -> Collection | None:
            row = db.execute(sql.COLLECTION_BY_NAME, key).fetchone()
            return to_collection(row) if row else None

        return await self._read(ask)

    async def list_collections(self, tenant: str, after: str, limit: int) -> list[Collection]:
        """A tenant's collections by name, from the first name past ``after``."""
        return await self._read(
            lambda db: [to_collection(row) for row in db.execute(sql.COLLECTIONS, (tenant, after, limit))]
        )

    async def get_document(self, collection: Collection, name: str) -> Document | None:
        """The document's record, or None."""
        where = (collection.key.tenant, collection.id, name)

        def ask(db: sqlite3.Connection) -> Document | None:
            row = db.execute(sql.DOCUMENT, where).fetchone()
            return to_document(row) if row else None

        return await self._read(ask)

    async def get_documents(self, collection: Collection, names: Sequence[str]) -> dict[str, Document]:
        """The records of those of ``names`` that are there."""

        def ask(db: sqlite3.Connection) -> dict[str, Document]:
            if not transactions.stands(db, collection):
                return {}
            rows = (db.execute(sql.DOCUMENT, (collection.key.tenant, collection.id, name)).fetchone() for name in names)
            return {row["name"]: to_document(row) for row in rows if row is not None}

        return await self._read(_snapshot(ask))

    async def list_documents(self, collection: Collection, after: str, limit: int) -> list[Document]:
        """Records by name, from the first name past ``after``."""
        where = (collection.key.tenant, collection.id, after, limit)
        return await self._read(lambda db: [to_document(row) for row in db.execute(sql.DOCUMENTS, where)])

    async def touched(self, collection: Collection, after: int, limit: int) -> list[tuple[int, str]]:
        """Sequence and name of documents put or deleted after a sequence, oldest first; names may come again."""
        where = (after, collection.key.tenant, collection.id, limit)
        return await self._read(lambda db: [tuple(row) for row in db.execute(sql.TOUCHED, where)])

    async def get_stored(self, collection: Collection, name: str) -> StoredDocument | None:
        """A document with its chunks and vectors, or None."""
        return await self._read(_snapshot(lambda db: transactions.stored(db, collection, name)))

    # -- writing --------------------------------------------------------------------------------------

    async def create_collection(
        self, key: CollectionKey, embedder: str, wanted_embedder: str, dimension: int
    ) -> Collection:
        """Make a collection, or return the one of that name as it is."""

        def work(db: sqlite3.Connection) -> Collection:
            row = db.execute(sql.COLLECTION_BY_NAME, key).fetchone()
            if row:
                return to_collection(row)
            now_s = time.time()
            made = db.execute(
                "INSERT INTO collections (tenant, name, embedder, wanted_embedder, dimension, created_s, sequence) "
                "VALUES (?, ?, ?, ?, ?, ?, 0)",
                (*key, embedder, wanted_embedder, dimension, now_s),
            )
            collection_id = int(made.lastrowid or 0)
            sequence = transactions.log_row(db, key.tenant, collection_id, "", now_s)
            db.execute(sql.COUNT, (sequence, 0, 0, collection_id))
            return Collection(key, collection_id, embedder, wanted_embedder, dimension, now_s, sequence)

        return await self._write(work)

    async def delete_collection(self, key: CollectionKey) -> int | None:
        """Delete it with all that is in it; the sequence of that, or None where there is none."""

        def work(db: sqlite3.Connection) -> int | None:
            row = db.execute(sql.COLLECTION_BY_NAME, key).fetchone()
            if row is None:
                return None
            collection = to_collection(row)
            db.execute("DELETE FROM collections WHERE id = ?", (collection.id,))
            db.execute("INSERT INTO gone (collection_id, tenant) VALUES (?, ?)", (collection.id, key.tenant))
            return transactions.log_row(db, key.tenant, collection.id, "", time.time())

        return await self._write(work)

    async def switch(self, old: Collection, new: Collection) -> int | None:
        """Give ``new`` the name of ``old`` and delete ``old``; None where either has changed since it was read."""
        return await self._write(lambda db: transactions.switch(db, old, new, time.time()))

    async def delete_document(self, collection: Collection, name: str) -> int | None:
        """Delete it; the sequence of that, or None where there is none."""

        def work(db: sqlite3.Connection) -> int | None:
            if not transactions.stands(db, collection):
                raise replaced(collection)
            return transactions.delete(db, collection, name, time.time())

        return await self._write(work)

    async def stage(self, collection: Collection, batch: int | None, chunks: Sequence[Chunk], vectors: Vectors) -> int:
        """Put chunks into a batch that nobody sees yet; ``batch`` None begins one. Returns the batch."""
        rows = chunk_rows(chunks, vectors)
        return await self._write(lambda db: transactions.stage(db, collection, batch, rows))

    async def publish(self, collection: Collection, contents: Sequence[Content]) -> list[Document | None]:
        """Give documents, each of another name, their content: all or none, in one step."""
        rows = [chunk_rows(content.last, content.vectors) for content in contents]

        def work(db: sqlite3.Connection) -> list[Document | None]:
            if not transactions.stands(db, collection):
                raise went_away(collection, contents)
            return [
                transactions.publish(db, collection, content, last)
                for content, last in zip(contents, rows, strict=True)
            ]

        return await self._write(work)

    async def confirm(self, collection: Collection, documents: Sequence[Document]) -> list[bool]:
        """Note of documents that they arrived again as they are; returns of each whether it still is."""

        def work(db: sqlite3.Connection) -> list[bool]:
            there = transactions.stands(db, collection)
            return [there and transactions.confirm(db, collection, document) for document in documents]

        return await self._write(work, durable=False)

    async def discard(self, batch: int) -> None:
        """Drop a staged batch."""
        await self._write(lambda db: transactions.drop(db, batch))

    async def sweep(self) -> bool:
        """Remove a little of what nobody leads to any more; returns whether there may be more."""
        return await self._write(lambda db: transactions.sweep(db, time.time()))

    # -- threads and errors ---------------------------------------------------------------------------

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._on(self._reader, lambda: work(self._read_db))

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        def locked() -> T:
            db = self._write_db
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            held_s = time.monotonic()
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            time.sleep(min(_MAX_YIELD_S, time.monotonic() - held_s))
            return result

        result = await self._on(self._writer, locked)
        self._ring()
        return result

    def _ring(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def _on(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with _told(self._path):
                return work()

        return await asyncio.wrap_future(executor.submit(guarded))


async def open(url: Url) -> SqliteLog:
    """Open ``DIR/log.db`` of ``sqlite:///DIR``, made if it isn't there."""
    return await open_file(directory_of(url) / "log.db")


async def open_file(path: Path) -> SqliteLog:
    """Open the log in ``path``, made if it isn't there."""
    log = SqliteLog(path)
    try:
        await log.start()
    except BaseException:
        await log.close()
        raise
    return log


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as exc:
        if (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT:
            raise _corrupt(path, str(exc)) from exc
        raise error(
            Reason.DEPENDENCY_UNAVAILABLE,
            f"the change log {path} cannot be used now: {exc}; check that the disk has room, that the directory may be "
            "written, and that no other program holds the file locked",
            path=path,
            problem=exc,
        ) from exc


def _corrupt(path: Path, problem: str) -> WeftError:
    return error(
        Reason.STORE_CORRUPT,
        f"the change log {path} is damaged or not a Weft store: {problem}; restore it from a backup, or move it away "
        "and ingest the documents again",
        path=path,
        problem=problem,
    )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite.connect(path, synchronous="FULL", timeout_s=LOCK_TIMEOUT_S)


def _prepare(db: sqlite3.Connection, path: Path) -> str:
    problems = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise _corrupt(path, "; ".join(problems))
    db.execute("BEGIN IMMEDIATE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, sql.VERSION):
            raise _corrupt(path, f"its tables are of version {version}, this release knows {sql.VERSION}")
        if version == 0:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise _corrupt(path, "it holds tables that are not Weft's")
            for statement in sql.TABLES:
                db.execute(statement)
            db.execute("INSERT INTO meta (name, value) VALUES ('log_id', ?)", (uuid.uuid4().hex,))
            db.execute(f"PRAGMA user_version = {sql.VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    (log_id,) = db.execute("SELECT value FROM meta WHERE name = 'log_id'").fetchone()
    return str(log_id)


def _snapshot(work: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
    def reading(db: sqlite3.Connection) -> T:
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            db.execute("ROLLBACK")

    return reading

"""An embedded store in one SQLite file, for asyncio: a thread to write, a thread to read, and a bell for changes.

A store brings its tables and its statements; here is what all of them share. Work is a function of the
connection and runs on one of two threads, never on the event loop. A write is one transaction that holds
SQLite's one write lock (``BEGIN IMMEDIATE``) and must be short. Commits are ``synchronous=NORMAL``: a killed
process loses nothing, a power cut may lose the last moments but never their order; a ``durable`` write, and all
that went before it, survives that, too.

``changed`` waits for commits, this process's own and other processes'. Own ones ring at once, those of others
within ``POLL_S`` (``CommitWatch``).

Errors: STORE_CORRUPT when the file is damaged, no database, or of another version (``PRAGMA quick_check`` at
open); DEPENDENCY_UNAVAILABLE when it can't be opened, written (disk full) or locked in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from mesh import sqlite
from mesh.commit_watch import CommitWatch
from weft.errors import Reason, WeftError, error

POLL_S: Final = 0.05
LOCK_TIMEOUT_S: Final = 5.0
_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, slots=True)
class Schema:
    """What a store's file is made of."""

    name: str  # for people: "the job queue"
    version: int  # PRAGMA user_version; another one is refused
    statements: Sequence[str]  # run once, when the file is new
    remedy: str  # what to do about a damaged file


class Database:
    """One store's file in this process. Open it with ``open``."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"weft-{path.stem}-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"weft-{path.stem}-read")
        self._write_db: sqlite3.Connection
        self._read_db: sqlite3.Connection
        self._version = 1  # counts the changes that were noticed
        self._rung = asyncio.Event()  # replaced each time it is set
        self._watch: CommitWatch | None = None

    async def start(self) -> None:
        """Open the file, check it, make the tables if they aren't there."""

        def write_side() -> None:
            self._write_db = self._connect()
            self._prepare(self._write_db)

        def read_side() -> None:
            self._read_db = self._connect()

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

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` outside of any transaction: each statement sees what is committed by then."""
        return await self._on(self._reader, lambda: work(self._read_db))

    async def write(self, work: Work[T], *, durable: bool = False) -> T:
        """Run ``work`` in one transaction; an exception rolls it back and goes on."""

        def locked() -> tuple[T, bool]:
            db = self._write_db
            if durable:
                db.execute("PRAGMA synchronous = FULL")
            before = db.total_changes
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            finally:
                if durable:
                    db.execute("PRAGMA synchronous = NORMAL")
            return result, db.total_changes != before

        result, wrote = await self._on(self._writer, locked)
        if wrote:
            self._ring()
        return result

    # -- the bell -------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        if self._version != seen or timeout_s <= 0:
            return self._version
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        return self._version

    def _ring(self) -> None:
        self._version += 1
        self._rung.set()
        self._rung = asyncio.Event()

    # -- threads and errors ---------------------------------------------------------------------------

    async def _on(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with self._told():
                return work()

        return await asyncio.wrap_future(executor.submit(guarded))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as exc:
            if (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in _CORRUPT:
                raise self._corrupt(str(exc)) from exc
            raise error(
                Reason.DEPENDENCY_UNAVAILABLE,
                f"{self._schema.name} {self._path} cannot be used now: {exc}; check that the disk has room, that the "
                "directory may be written, and that no other program holds the file locked",
                path=self._path,
                problem=exc,
            ) from exc

    def _corrupt(self, problem: str) -> WeftError:
        return error(
            Reason.STORE_CORRUPT,
            f"{self._schema.name} {self._path} is damaged or not a Weft store: {problem}; {self._schema.remedy}",
            path=self._path,
            problem=problem,
        )

    def _connect(self) -> sqlite3.Connection:
        return sqlite.connect(self._path, synchronous="NORMAL", timeout_s=LOCK_TIMEOUT_S)

    def _prepare(self, db: sqlite3.Connection) -> None:
        problems = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise self._corrupt("; ".join(problems))
        db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, self._schema.version):
                raise self._corrupt(f"its tables are of version {version}, this release knows {self._schema.version}")
            if version == 0:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise self._corrupt("it holds tables that are not Weft's")
                for statement in self._schema.statements:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {self._schema.version}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


async def open(path: Path, schema: Schema) -> Database:
    """Open the store in ``path``, made if it isn't there."""
    database = Database(path, schema)
    try:
        await database.start()
    except BaseException:
        await database.close()
        raise
    return database

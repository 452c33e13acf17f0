"""Opens PostgreSQL databases for stores: a schema each, a bounded pool, deadlines everywhere, our words for errors.

A store is a **schema** of its own (``weft_log``…), so several share a database with each other and with
strangers' tables. Whoever comes first makes it, under an advisory lock; who comes later finds its version.
Its ``meta`` table holds an identity, which every new connection compares: a process doesn't go on with
another database that appeared under the same address.

A store takes few connections, ``max_connections`` and one that listens: a server grants 100 in all by default.

Every wait ends: for a connection, for a lock (``LOCK_TIMEOUT_S``), for a statement, and the server ends a
transaction whose process was paused in the middle, so that nobody holds a lock for good. A connection that
broke is replaced when it is next needed: a server that was away costs errors as long as it is away and
nothing after. ``synchronous_commit`` is never off, whatever the server's default: what was acknowledged
survives a crash of the server.

``listen`` calls back for each NOTIFY on a channel, over a connection of its own, and once whenever that
connection was made, since something may have been missed.

Connections must keep their state between transactions: a pooler in front has to work by session.

Errors: STORE_CORRUPT for damage, foreign tables, another version or another store than before;
INVALID_FIELD for a database that isn't UTF-8; DEPENDENCY_UNAVAILABLE for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from mesh.plugins import Url
from weft.errors import Reason, WeftError, error

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S: Final = 5.0
LOCK_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 35.0  # for a server that hangs itself
IDLE_IN_TRANSACTION_S: Final = 10.0
NOW: Final = "extract(epoch FROM clock_timestamp())::float8"  # the server's clock, in SQL: one for all of its clients
_RECONNECT_S: Final = 0.25
_KEEPALIVE_S: Final = 15.0
_CLOSE_S: Final = 2.0
# The last is what asyncpg says where a connection breaks while it isn't looking.
_AWAY: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_CORRUPT: Final = (
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a store keeps in a database. ``statements`` make its tables, which they name with the schema."""

    name: str  # of the schema
    what: str  # as an error calls it: "the change log"
    version: int
    statements: Sequence[str]


def lock_key(name: str) -> int:
    """The advisory lock of that name; such locks belong to one database."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class Database:
    """A schema in a database. Make it with ``open``.

    Attributes:
        store_id: the schema's identity, 32 hex digits.
    """

    def __init__(self, url: Url, schema: Schema, max_connections: int) -> None:
        self.store_id = ""
        self._url, self._schema, self._max_connections = url, schema, max_connections
        self._settings = {
            "application_name": f"weft {schema.name}",
            "statement_timeout": str(round(STATEMENT_TIMEOUT_S * 1000)),
            "lock_timeout": str(round(LOCK_TIMEOUT_S * 1000)),
            "idle_in_transaction_session_timeout": str(round(IDLE_IN_TRANSACTION_S * 1000)),
            "jit": "off",
        }
        self._pool: asyncpg.Pool[asyncpg.Record]

    async def start(self) -> None:
        """Look at the database, make the schema if it isn't there, open the pool."""
        with self.told():
            async with self._connected() as connection:
                encoding = await connection.fetchval("SHOW server_encoding")
                if encoding != "UTF8":
                    raise error(
                        Reason.INVALID_FIELD,
                        f"the database {self._url} is encoded in {encoding}; make one with "
                        "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
                        encoding=encoding,
                    )
                if await connection.fetchval("SHOW synchronous_commit") == "off":
                    self._settings["synchronous_commit"] = "on"
                self.store_id = await self._prepare(connection)
            self._pool = await asyncpg.create_pool(
                self._url.raw,
                min_size=0,
                max_size=self._max_connections,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=ANSWER_TIMEOUT_S,
                server_settings=self._settings,
                init=self._check,
                reset=_nothing,  # every use is one transaction or one statement: there is nothing to take back
            )

    async def close(self) -> None:
        """Let go of the connections."""
        if not hasattr(self, "_pool"):
            return
        try:
            await asyncio.wait_for(self._pool.close(), _CLOSE_S)
        except _AWAY:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for single statements, each a transaction of its own."""
        with self.told():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that writes. Each statement sees what was committed before it began."""
        async with self.connection() as connection, connection.transaction(isolation="read_committed"):
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A transaction that only reads, all of it from one moment."""
        async with (
            self.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call ``heard`` with each payload, and with '' when something may have been missed. Until cancelled."""
        while True:
            try:
                async with self._connected() as connection:
                    await self._check(connection)
                    lost = asyncio.Event()
                    connection.add_termination_listener(lambda _, lost=lost: lost.set())
                    await connection.add_listener(channel, lambda *message: heard(str(message[-1])))
                    heard("")
                    while not lost.is_set():
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_KEEPALIVE_S):
                                await lost.wait()
                        if not lost.is_set():
                            await connection.execute("SELECT 1")
            except (*_AWAY, WeftError) as exc:
                _log.debug("listening to %s waits: %s", channel, exc)
            await asyncio.sleep(_RECONNECT_S)

    def corrupt(self, problem: object) -> WeftError:
        """The error of a store that can't be trusted."""
        return error(
            Reason.STORE_CORRUPT,
            f"{self._schema.what} in {self._url}, schema {self._schema.name}, is damaged or not a Weft store: "
            f"{problem}; restore it from a backup, or drop the schema to begin anew",
            store=self._url,
            schema=self._schema.name,
            problem=problem,
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """PostgreSQL's errors in our words."""
        try:
            yield
        except _CORRUPT as exc:
            raise self.corrupt(self._problem(exc)) from exc
        except _AWAY as exc:
            problem = self._problem(exc)
            raise error(
                Reason.DEPENDENCY_UNAVAILABLE,
                f"{self._schema.what} in {self._url} cannot be used now: {problem}; check that the server runs, may be "
                "reached and takes this user's writes. A write that this cut off may have gone in: send it again, "
                "it will not be there twice",
                store=self._url,
                problem=problem,
            ) from exc

    def _problem(self, exc: Exception) -> str:
        text = str(exc) or ("it took too long" if isinstance(exc, TimeoutError) else type(exc).__name__)
        return text.replace(self._url.password, "***") if self._url.password else text

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(
            self._url.raw,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=ANSWER_TIMEOUT_S,
            server_settings=self._settings,
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def _check(self, connection: Connection) -> None:
        found = await connection.fetchval(f"SELECT value FROM {self._schema.name}.meta WHERE name = 'id'")
        if found != self.store_id:
            raise self.corrupt(f"it is {found} now and was {self.store_id}: another one took its place")

    async def _prepare(self, connection: Connection) -> str:
        name = self._schema.name
        async with connection.transaction(isolation="read_committed"):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_key(f"schema {name}"))
            if await connection.fetchval("SELECT to_regclass($1)", f"{name}.meta") is None:
                if await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", name):
                    raise self.corrupt("it holds tables that are not Weft's")
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
                await connection.execute(f"CREATE TABLE {name}.meta (name text PRIMARY KEY, value text NOT NULL)")
                for statement in self._schema.statements:
                    await connection.execute(statement)
                await connection.executemany(
                    f"INSERT INTO {name}.meta (name, value) VALUES ($1, $2)",
                    [("id", uuid.uuid4().hex), ("version", str(self._schema.version))],
                )
        rows = await connection.fetch(f"SELECT name, value FROM {name}.meta")
        meta = {row["name"]: row["value"] for row in rows}
        if meta.get("version") != str(self._schema.version):
            raise self.corrupt(
                f"its tables are of version {meta.get('version')}, this release knows {self._schema.version}"
            )
        return str(meta["id"])


class Bell:
    """Tells all processes that a store changed: who writes rings in the same transaction, who waits hears of it."""

    def __init__(self, database: Database, channel: str) -> None:
        self._channel = channel
        self._version, self._rung = 1, asyncio.Event()  # the event is replaced each time it is set
        self._listening = asyncio.create_task(database.listen(channel, self._heard))

    async def ring(self, connection: Connection) -> None:
        """Ring when the transaction commits."""
        await connection.execute("SELECT pg_notify($1, '')", self._channel)

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until it rang since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        if self._version == seen and timeout_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._rung.wait()
        return self._version

    async def close(self) -> None:
        """Stop listening."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    def _heard(self, payload: str) -> None:
        self._version += 1
        self._rung.set()
        self._rung = asyncio.Event()


async def open(url: Url, schema: Schema, *, max_connections: int = 6) -> Database:
    """Open a store's schema in the database of ``url``, made if it isn't there."""
    database = Database(url, schema, max_connections)
    try:
        await database.start()
    except BaseException:
        await database.close()
        raise
    return database


async def _nothing(connection: Connection) -> None:
    return

"""``sqlite:``: sessions in ``DIR/sessions.db``, shared by every replica on the machine.

Three tables. A **session** row carries the lease: who holds it (owner, and the row of the turn), until
when, and ``fence``, which grows each time it is given out. A **turn** row carries question, state and
end. **log** holds what happened in between, one row per write, each a JSON array (``codec.py``); a row's
id is the turn's id and the write's number, ``turn << 20 | n``, so a turn's log is one range of the
primary key.

Every write names the fence it was made under and changes nothing under another: a replica that was
paused, lost its lease and woke again can do no harm. Leases compare wall clocks, which replicas of one
machine share; those of a process that has ended are void at once (``_owners.py``). WAL with
synchronous=NORMAL: a killed process loses nothing; a power cut may lose the last moments, never the
order. Writes of all turns go through one group-committing thread (``_writer.py``), reads through another.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from mesh.plugins import Url
from services.orchestrator import codec
from services.orchestrator.ports import LeaseLost
from services.orchestrator.records import (
    Busy,
    Ended,
    Entry,
    Lease,
    Limits,
    Opening,
    Progress,
    Session,
    Taken,
    Turn,
    TurnState,
)
from services.orchestrator.sessions import _schema as schema
from services.orchestrator.sessions._owners import Owners
from services.orchestrator.sessions._writer import Operation, Writer
from services.orchestrator.types import Exchange, Failure, Finished, Started
from weft.errors import Reason, WeftError, error

T = TypeVar("T")
_RUNNING, _FINISHED, _FAILED = range(3)
_STATES: Final = (TurnState.RUNNING, TurnState.FINISHED, TurnState.FAILED)


async def open(url: Url, limits: Limits, now_s: Callable[[], float] = time.time) -> SqliteSessions:
    """Open ``DIR/sessions.db`` of ``sqlite:///DIR``, making it if absent.

    Raises:
        WeftError: STORE_CORRUPT, DEPENDENCY_UNAVAILABLE.
    """
    sessions = SqliteSessions(path_of(url), limits, now_s)
    try:
        await sessions.check()
    except BaseException:
        await sessions.close()
        raise
    return sessions


def path_of(url: Url) -> Path:
    """The file behind ``sqlite:///DIR`` (relative) or ``sqlite:////DIR`` (absolute)."""
    if url.host or len(url.path) < 2:
        raise error(
            Reason.INVALID_FIELD,
            f"{url}: expected sqlite:///DIR (relative) or sqlite:////DIR (absolute)",
            value=url,
        )
    return Path(url.path[1:]).expanduser() / "sessions.db"


class SqliteSessions:
    """The Sessions port over one SQLite file."""

    def __init__(self, path: Path, limits: Limits, now_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limits = limits
        self._now_s = now_s
        self._writer = Writer(lambda: schema.connect(path))
        self._reader_thread = ThreadPoolExecutor(1, thread_name_prefix="sessions-read")
        self._reader: sqlite3.Connection | None = None
        self._owners = Owners(path.with_suffix(".owners"))

    async def check(self) -> None:
        """Make the tables if absent, and see that they can be read."""
        await self._write(schema.create)

    async def close(self) -> None:
        """Finish what was begun and let go."""
        await self._writer.close()

        def close() -> None:
            if self._reader is not None:
                self._reader.close()

        await asyncio.get_running_loop().run_in_executor(self._reader_thread, close)
        self._reader_thread.shutdown(wait=False)
        self._owners.close()

    # -- the turn -------------------------------------------------------------------------------------

    async def begin(self, opening: Opening) -> Taken | Busy | Ended:
        """Take the session's lease for a turn, or say why not."""

        def operation(db: sqlite3.Connection) -> Taken | Busy | Ended:
            return self._begin(db, opening)

        def give_back(outcome: Taken | Busy | Ended) -> Operation[None]:
            return _released(outcome.lease) if isinstance(outcome, Taken) else lambda db: None

        return await self._write(operation, abandoned=give_back)

    def _begin(self, db: sqlite3.Connection, opening: Opening) -> Taken | Busy | Ended:
        now_s = self._now_s()
        row = db.execute(schema.FIND, (opening.request_id, opening.tenant, opening.session)).fetchone()
        if row is not None and row["expires"] <= now_s:
            schema.forget(db, row["id"])
            row = None
        if row is None:
            if not opening.create:
                raise _no_session(opening.session)
            session, turn_count = schema.insert_session(db, opening, now_s, now_s + self._limits.ttl_s), 0
        else:
            session, turn_count = row["id"], row["turn_count"]
            settled = self._settled(db, row, opening, now_s)
            if settled is not None:
                return settled
        if row is None or row["turn"] is None:
            number = turn_count + 1
            turn = schema.insert_turn(db, session, number, opening, now_s)
            started = Started(opening.session, number, opening.trace_id, opening.request_id, opening.versions)
            log: tuple[Entry, ...] = (Entry(0, started),)
        else:
            number, turn = row["number"], row["turn"]
            log = _log(db, opening.session, row)
        self._owners.announce(opening.owner)
        (fence,) = db.execute(
            schema.TAKE,
            (turn, opening.owner, now_s + self._limits.lease_s, now_s + self._limits.ttl_s, number, session),
        ).fetchone()
        lease = Lease(opening.tenant, opening.session, number, fence, handle=(session, turn))
        history: list[Exchange] = []
        if number > 1 and self._limits.history_turns:
            rows = db.execute(schema.HISTORY, (session, number, self._limits.history_turns))
            history = [Exchange(r["question"], r["answer"], r["query"]) for r in rows]
        return Taken(lease, log, tuple(reversed(history)))

    def _settled(self, db: sqlite3.Connection, row: sqlite3.Row, opening: Opening, now_s: float) -> Busy | Ended | None:
        """What there is to say of an existing session without taking its lease; None to take it."""
        if row["turn"] is not None:
            if row["question"] != opening.question:
                raise error(
                    Reason.REQUEST_ID_REUSED,
                    f"request_id {opening.request_id!r} was already used in session {opening.session!r} for another "
                    "question; use a new request_id for a new question",
                    request_id=opening.request_id,
                    session=opening.session,
                )
            if row["state"] != _RUNNING:
                failure = codec.load_failure(row["failure"]) if row["failure"] else None
                return Ended(row["number"], _log(db, opening.session, row), failure)
        if self._is_leased(row):
            mine = row["turn"] is not None and row["holder"] == row["turn"]
            return Busy(row["number"] if mine else None, row["owner"], row["lease_expires"] - now_s)
        if row["turn"] is None:
            self._check_room(row, opening.session)
        return None

    def _check_room(self, row: sqlite3.Row, session: str) -> None:
        for what, has, limit in (
            ("turns", row["turn_count"], self._limits.max_turns),
            ("bytes", row["bytes"], self._limits.max_bytes),
        ):
            if has >= limit:
                raise error(
                    Reason.SESSION_FULL,
                    f"session {session!r} has {has} {what}; allowed are {limit}. Begin a new session",
                    session=session,
                    what=what,
                    has=has,
                    limit=limit,
                )

    async def append(self, lease: Lease, entries: Sequence[Entry]) -> None:
        """Add to the turn's log."""
        body = codec.dump(entries)

        def operation(db: sqlite3.Connection) -> None:
            if schema.append(db, lease, body) == 0:
                raise LeaseLost(lease)

        await self._write(operation)

    async def finish(self, lease: Lease, entries: Sequence[Entry], finished: Finished, query: str) -> None:
        """Add the last entries, close the turn and give the lease back."""
        *others, last = entries
        body = codec.dump(others) if others else ""
        end = codec.dump_finished(finished)

        def operation(db: sqlite3.Connection) -> None:
            self._close(db, lease, body, extra_bytes=len(end))
            db.execute(schema.FINISH, (_FINISHED, end, last.sequence, query, lease.handle[1]))

        await self._write(operation)

    async def fail(self, lease: Lease, failure: Failure) -> None:
        """Close the turn as failed for good and give the lease back."""
        text = codec.dump_failure(failure)

        def operation(db: sqlite3.Connection) -> None:
            self._close(db, lease, "", extra_bytes=len(text))
            db.execute(schema.FAIL, (_FAILED, text, lease.handle[1]))

        await self._write(operation)

    def _close(self, db: sqlite3.Connection, lease: Lease, body: str, extra_bytes: int) -> None:
        if body and schema.append(db, lease, body) == 0:
            raise LeaseLost(lease)
        turn = lease.handle[1]
        expires_s = self._now_s() + self._limits.ttl_s
        closed = db.execute(schema.CLOSE, (expires_s, extra_bytes, *schema.log_range(turn), *_held(lease)))
        if closed.rowcount == 0:
            raise LeaseLost(lease)

    async def release(self, lease: Lease) -> None:
        """Give the lease back with the turn unfinished."""
        await self._write(_released(lease))

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Prolong leases; returns those that are lost."""

        def operation(db: sqlite3.Connection) -> list[Lease]:
            now_s = self._now_s()
            until = (now_s + self._limits.lease_s, now_s + self._limits.ttl_s)
            return [lease for lease in leases if db.execute(schema.RENEW, (*until, *_held(lease))).rowcount == 0]

        return await self._write(operation)

    async def progress(self, tenant: str, session: str, turn: int, after_sequence: int) -> Progress:
        """A turn's log behind ``after_sequence``."""

        def operation(db: sqlite3.Connection) -> Progress:
            row = self._find(db, tenant, session)
            found = db.execute(schema.TURN, (row["id"], turn)).fetchone()
            if found is None:
                raise error(
                    Reason.TURN_NOT_FOUND,
                    f"session {session!r} has no turn {turn}; it has {row['turn_count']}",
                    session=session,
                    turn=turn,
                    turn_count=row["turn_count"],
                )
            # Notes have a negative sequence, so they stay out.
            log = tuple(entry for entry in _log(db, session, found) if entry.sequence > after_sequence)
            failure = codec.load_failure(found["failure"]) if found["failure"] else None
            leased = row["holder"] == found["turn"] and self._is_leased(row)
            return Progress(log, _STATES[found["state"]], failure, leased)

        return await self._read(operation)

    # -- the session ----------------------------------------------------------------------------------

    async def get(self, tenant: str, session: str) -> Session:
        """One session's record."""

        def operation(db: sqlite3.Connection) -> Session:
            row = self._find(db, tenant, session)
            variables = json.loads(row["variables"])
            return Session(session, row["created"], row["expires"], row["turn_count"], variables)

        return await self._read(operation)

    async def turns(self, tenant: str, session: str, *, after_turn: int, limit: int) -> list[Turn]:
        """Turns numbered above ``after_turn``, oldest first."""

        def operation(db: sqlite3.Connection) -> list[Turn]:
            row = self._find(db, tenant, session)
            return [_turn(session, t) for t in db.execute(schema.TURNS, (row["id"], after_turn, limit))]

        return await self._read(operation)

    async def delete(self, tenant: str, session: str) -> None:
        """Forget a session."""

        def operation(db: sqlite3.Connection) -> None:
            row = db.execute(schema.FIND_SESSION, (tenant, session)).fetchone()
            if row is not None:
                schema.forget(db, row["id"])

        await self._write(operation)

    async def reap(self, limit: int) -> int:
        """Forget up to ``limit`` expired sessions."""

        def operation(db: sqlite3.Connection) -> int:
            self._owners.sweep()
            now_s = self._now_s()
            expired = [row["id"] for row in db.execute(schema.EXPIRED, (now_s, now_s, limit))]
            for session in expired:
                schema.forget(db, session)
            return len(expired)

        return await self._write(operation)

    def _find(self, db: sqlite3.Connection, tenant: str, session: str) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute(schema.FIND_SESSION, (tenant, session)).fetchone()
        if row is None or row["expires"] <= self._now_s():
            raise _no_session(session)
        return row

    def _is_leased(self, session: sqlite3.Row) -> bool:
        return session["lease_expires"] > self._now_s() and not self._owners.is_dead(session["owner"])

    # -- threads --------------------------------------------------------------------------------------

    async def _write(self, operation: Operation[T], *, abandoned: Callable[[T], Operation[Any]] | None = None) -> T:
        try:
            return await self._writer.run(operation, abandoned=abandoned)
        except (sqlite3.Error, OSError) as exc:
            raise self._broken(exc) from exc

    async def _read(self, operation: Operation[T]) -> T:
        def read() -> T:
            if self._reader is None:
                self._reader = schema.connect(self._path)
            return operation(self._reader)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader_thread, read)
        except (sqlite3.Error, OSError) as exc:
            raise self._broken(exc) from exc

    def _broken(self, exc: sqlite3.Error | OSError) -> WeftError:
        what = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, sqlite3.OperationalError | OSError):
            return error(
                Reason.DEPENDENCY_UNAVAILABLE,
                f"the session store {self._path} cannot be used ({what}); sessions need it, so no turn can run",
                store=self._path,
                problem=what,
            )
        return error(
            Reason.STORE_CORRUPT,
            f"the session store {self._path} is damaged ({what}); restore it, or move it away to begin anew",
            store=self._path,
            problem=what,
        )


def _released(lease: Lease) -> Operation[None]:
    def operation(db: sqlite3.Connection) -> None:
        db.execute(schema.RELEASE, _held(lease))

    return operation


def _held(lease: Lease) -> tuple[int, int, int]:
    """What the statements compare: session, turn, fence."""
    return (*lease.handle, lease.fence)


def _log(db: sqlite3.Connection, session: str, row: sqlite3.Row) -> tuple[Entry, ...]:
    """A turn's whole log, from its row: Started from the row itself, Finished too."""
    started = Started(session, row["number"], row["trace_id"], row["request_id"], json.loads(row["versions"]))
    entries = [Entry(0, started)]
    for part in db.execute(schema.LOG, schema.log_range(row["turn"])):
        entries += codec.load(part["body"])
    if row["finished"]:
        entries.append(Entry(row["last_sequence"], codec.load_finished(row["finished"])))
    return tuple(entries)


def _turn(session: str, row: sqlite3.Row) -> Turn:
    return Turn(
        session=session,
        number=row["number"],
        state=_STATES[row["state"]],
        question=row["question"],
        finished=codec.load_finished(row["finished"]) if row["finished"] else None,
        created_s=row["turn_created"],
        trace_id=row["trace_id"],
        failure=codec.load_failure(row["failure"]) if row["failure"] else None,
    )


def _no_session(session: str) -> WeftError:
    return error(
        Reason.SESSION_NOT_FOUND,
        f"there is no session {session!r}; it may have expired. Leave the session empty to begin a new one",
        session=session,
    )

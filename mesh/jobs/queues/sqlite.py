"""The queue in one SQLite file, ``jobs.db``, shared by the processes of a machine.

One row per job, ended ones included, until they are swept after ``Limits.kept_s``. A claim looks for the next
due row with a reader first, so that idle workers never take the write lock, and takes it in a transaction
that looks again. Leases and due times compare wall clocks, which processes of one machine share.

Expired leases need nobody to watch them: a running job past its lease is simply due again. Where it has had
all its strikes, or was cancelled meanwhile, the claim that finds it ends it instead.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mesh import database
from mesh.database import Database
from mesh.jobs import (
    Claim,
    Job,
    JobProgress,
    JobState,
    Lease,
    LeaseLost,
    Limits,
    Submission,
    abandoned,
    key_reused,
    queue_full,
    still_active,
)
from mesh.jobs.queues import _tables as sql
from mesh.jobs.queues._rows import error_bytes, some_job, to_job
from mesh.plugins import Url
from mesh.settings import directory_of
from mesh.validation import invalid, shorten
from weft.errors import WeftError

_SWEEP_ROWS: Final = 100
_FIRST: Final = 1 << 62  # above every sequence


class SqliteJobs:
    """``Jobs`` on SQLite. Make it with ``open``."""

    def __init__(self, db: Database, limits: Limits, now_s: Callable[[], float]) -> None:
        self._db, self.limits, self._now_s = db, limits, now_s

    # -- for those who ask ----------------------------------------------------------------------------

    async def submit(self, wanted: Submission) -> Job:
        """Put a job in the queue, or return the one that has this tenant, kind and key."""

        def work(db: sqlite3.Connection) -> Job:
            there = db.execute(sql.BY_KEY, (wanted.tenant, wanted.kind, wanted.key)).fetchone()
            if there is not None:
                if there["payload"] != wanted.payload:
                    raise key_reused(wanted.kind, wanted.key)
                return to_job(there)
            self._check_room(db)
            now_s, job_id = self._now_s(), uuid.uuid4().hex
            db.execute(
                sql.INSERT,
                (
                    *(wanted.tenant, job_id, wanted.kind, wanted.key, wanted.payload, now_s),
                    *(wanted.max_strikes, wanted.traceparent, now_s, now_s),
                ),
            )
            return to_job(db.execute(sql.BY_ID, (wanted.tenant, job_id)).fetchone())

        return await self._db.write(work, durable=wanted.durable)

    async def get(self, tenant: str, job: str) -> Job | None:
        """The job, or None."""
        return some_job(await self._db.read(lambda db: db.execute(sql.BY_ID, (tenant, job)).fetchone()))

    async def find(self, tenant: str, kind: str, key: str) -> Job | None:
        """The job of that key, or None."""
        return some_job(await self._db.read(lambda db: db.execute(sql.BY_KEY, (tenant, kind, key)).fetchone()))

    async def list_jobs(
        self, tenant: str, *, state: JobState | None = None, before: str = "", limit: int = 50
    ) -> tuple[list[Job], str]:
        """A tenant's jobs, newest first, and the ``before`` of the next page ('' at the end)."""
        if before and not (before.isascii() and before.isdigit() and len(before) < 19):
            raise invalid("page_token", f"is {shorten(before)!r}; hand back what the page before gave")
        after = int(before or _FIRST)

        def ask(db: sqlite3.Connection) -> list[sqlite3.Row]:
            if state is None:
                return db.execute(sql.PAGE, (tenant, after, limit + 1)).fetchall()
            return db.execute(sql.PAGE_OF_STATE, (tenant, after, state, limit + 1)).fetchall()

        rows = await self._db.read(ask)
        return [to_job(row) for row in rows[:limit]], str(rows[limit - 1]["seq"]) if len(rows) > limit else ""

    async def wait(self, tenant: str, job: str, timeout_s: float) -> Job | None:
        """The job when it has ended, or as it stands when the time is up; None where there is none."""
        until_s, seen = time.monotonic() + timeout_s, 0
        while True:
            seen = await self._db.changed(seen, 0.0)
            found = await self.get(tenant, job)
            remaining_s = until_s - time.monotonic()
            if found is None or found.state.ended or remaining_s <= 0:
                return found
            await self._db.changed(seen, remaining_s)

    async def cancel(self, tenant: str, job: str) -> Job | None:
        """Ask a job to stop. A waiting one ends at once, a running one when its worker has noticed."""

        def work(db: sqlite3.Connection) -> Job | None:
            found = some_job(db.execute(sql.BY_ID, (tenant, job)).fetchone())
            if found is None or found.state.ended or found.cancelling:
                return found
            if found.state is JobState.QUEUED:
                change, values = "state = 'cancelled', updated_s = ?", [self._now_s()]
            else:
                change, values = "cancelling = 1", []
            db.execute(f"UPDATE jobs SET {change} WHERE tenant = ? AND id = ?", (*values, tenant, job))
            return some_job(db.execute(sql.BY_ID, (tenant, job)).fetchone())

        return await self._db.write(work)

    async def retry(self, tenant: str, job: str) -> Job | None:
        """Put a job that FAILED back in the queue, its strikes wiped; any other stays as it is."""

        def work(db: sqlite3.Connection) -> Job | None:
            found = some_job(db.execute(sql.BY_ID, (tenant, job)).fetchone())
            if found is None or found.state is not JobState.FAILED:
                return found
            self._check_room(db)
            now_s = self._now_s()
            db.execute(
                "UPDATE jobs SET state = 'queued', due_s = ?, updated_s = ?, strikes = 0, error = NULL "
                "WHERE tenant = ? AND id = ?",
                (now_s, now_s, tenant, job),
            )
            return some_job(db.execute(sql.BY_ID, (tenant, job)).fetchone())

        return await self._db.write(work)

    async def hurry(self, tenant: str, job: str) -> None:
        """Let a job that waits for its next try, or was parked, go now."""
        statement = "UPDATE jobs SET due_s = 0 WHERE tenant = ? AND id = ? AND state = 'queued' AND due_s > ?"
        await self._db.write(lambda db: db.execute(statement, (tenant, job, self._now_s())))

    async def delete(self, tenant: str, job: str) -> bool:
        """Forget a job that has ended; whether there was one."""

        def work(db: sqlite3.Connection) -> bool:
            found = some_job(db.execute(sql.BY_ID, (tenant, job)).fetchone())
            if found is None:
                return False
            if not found.state.ended:
                raise still_active(job, found.state)
            db.execute("DELETE FROM jobs WHERE tenant = ? AND id = ?", (tenant, job))
            return True

        return await self._db.write(work)

    # -- for workers ----------------------------------------------------------------------------------

    async def claim(self, kinds: tuple[str, ...], owner: str) -> Claim | None:
        """Take the next job of one of ``kinds`` that is due, or whose lease has run out; None if there is none."""
        statement = sql.next_due(len(kinds))

        def look(db: sqlite3.Connection) -> sqlite3.Row | None:
            now_s = self._now_s()
            row: sqlite3.Row | None = db.execute(statement, (now_s, *kinds, now_s, now_s)).fetchone()
            return row

        def take(db: sqlite3.Connection) -> Claim | None:
            while (row := look(db)) is not None:
                now_s = self._now_s()
                if row["state"] == JobState.RUNNING and (row["cancelling"] or row["strikes"] >= row["max_strikes"]):
                    self._end_orphan(db, row, now_s)
                    continue
                db.execute(sql.TAKE, (owner, now_s + self.limits.lease_s, now_s, row["seq"]))
                job = to_job(db.execute("SELECT * FROM jobs WHERE seq = ?", (row["seq"],)).fetchone())
                return Claim(job, Lease(job.tenant, job.id, owner, row["fence"] + 1, self.limits.lease_s))
            return None

        return await self._db.write(take) if await self._db.read(look) is not None else None

    async def heartbeat(self, lease: Lease, progress: JobProgress | None = None) -> bool:
        """Prolong a lease and note ``progress``; returns whether somebody asked the job to stop."""

        def work(db: sqlite3.Connection) -> bool:
            self._as(lease, db, sql.RENEW, self._now_s() + self.limits.lease_s)
            self._note(lease, db, progress)
            return bool(db.execute(sql.BY_ID, (lease.tenant, lease.job)).fetchone()["cancelling"])

        return await self._db.write(work)

    async def finish(self, lease: Lease, result: bytes, progress: JobProgress | None = None) -> None:
        """End the job well."""

        def work(db: sqlite3.Connection) -> None:
            self._note(lease, db, progress)
            self._as(lease, db, sql.END, JobState.SUCCEEDED, None, result, self._now_s())

        await self._db.write(work)

    async def fail(self, lease: Lease, failure: WeftError, *, retry: bool, passing: bool = False) -> None:
        """End the job badly; with ``retry``, only if it has had all its strikes, else it waits for another try."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT * FROM jobs" + sql.HELD, _held(lease)).fetchone()
            if row is None:
                raise LeaseLost(lease)
            now_s = self._now_s()
            if retry and row["strikes"] < (self.limits.passing_strikes if passing else row["max_strikes"]):
                self._as(lease, db, sql.REQUEUE, now_s + self.limits.wait_s(row["strikes"]), 0, now_s)
            else:
                self._as(lease, db, sql.END, JobState.FAILED, error_bytes(failure), b"", now_s)

        await self._db.write(work)

    async def cancelled(self, lease: Lease) -> None:
        """End the job as cancelled."""
        await self._db.write(lambda db: self._as(lease, db, sql.END, JobState.CANCELLED, None, b"", self._now_s()))

    async def give_back(self, lease: Lease, after_s: float = 0.0) -> None:
        """Put the job back in the queue, due in ``after_s``: no fault of its own, and no strike."""

        def work(db: sqlite3.Connection) -> None:
            now_s = self._now_s()
            self._as(lease, db, sql.REQUEUE, now_s + after_s, 1, now_s)
            # A cancellation that came too late for the worker to notice needs no other one.
            db.execute(
                "UPDATE jobs SET state = 'cancelled', cancelling = 0 WHERE tenant = ? AND id = ? AND cancelling",
                (lease.tenant, lease.job),
            )

        await self._db.write(work)

    # -- for both -------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        return await self._db.changed(seen, timeout_s)

    async def backlog(self) -> Mapping[str, tuple[int, int]]:
        """Jobs that wait and jobs that run, by kind."""
        found: dict[str, tuple[int, int]] = {}
        for kind, state, count in await self._db.read(lambda db: db.execute(sql.BACKLOG).fetchall()):
            waiting, running = found.get(kind, (0, 0))
            found[kind] = (count, running) if state == JobState.QUEUED else (waiting, count)
        return found

    async def sweep(self) -> bool:
        """Forget a few jobs that ended long ago; returns whether there may be more."""
        before_s = self._now_s() - self.limits.kept_s

        def work(db: sqlite3.Connection) -> bool:
            removed = [
                db.execute(sql.FORGET_OLD, (state, before_s, _SWEEP_ROWS)).rowcount for state in JobState if state.ended
            ]
            return max(removed) == _SWEEP_ROWS

        return await self._db.write(work)

    async def close(self) -> None:
        """Close the file."""
        await self._db.close()

    def _check_room(self, db: sqlite3.Connection) -> None:
        (waiting,) = db.execute(sql.COUNT_QUEUED).fetchone()
        if waiting >= self.limits.max_queued:
            raise queue_full(waiting, self.limits)

    def _as(self, lease: Lease, db: sqlite3.Connection, statement: str, *values: object) -> None:
        if db.execute(statement, (*values, *_held(lease))).rowcount == 0:
            raise LeaseLost(lease)

    def _note(self, lease: Lease, db: sqlite3.Connection, progress: JobProgress | None) -> None:
        if progress is not None:
            values = (progress.done, progress.done, progress.total, progress.unit, progress.message)
            self._as(lease, db, sql.PROGRESS, *values)

    def _end_orphan(self, db: sqlite3.Connection, row: sqlite3.Row, now_s: float) -> None:
        lease = Lease(row["tenant"], row["id"], row["owner"], row["fence"], self.limits.lease_s)
        if row["cancelling"]:
            self._as(lease, db, sql.END, JobState.CANCELLED, None, b"", now_s)
        else:
            failure = error_bytes(abandoned(row["id"], row["strikes"]))
            self._as(lease, db, sql.END, JobState.FAILED, failure, b"", now_s)


async def open(url: Url, limits: Limits) -> SqliteJobs:
    """Open ``DIR/jobs.db`` of ``sqlite:///DIR``, made if it isn't there.

    Raises:
        WeftError: STORE_CORRUPT, DEPENDENCY_UNAVAILABLE.
    """
    return await open_file(directory_of(url) / "jobs.db", limits)


async def open_file(path: Path, limits: Limits, now_s: Callable[[], float] = time.time) -> SqliteJobs:
    """Open the queue in ``path``, made if it isn't there."""
    return SqliteJobs(await database.open(path, sql.SCHEMA), limits, now_s)


def _held(lease: Lease) -> tuple[object, ...]:
    return lease.tenant, lease.job, lease.owner, lease.fence

"""The queue in PostgreSQL, schema ``weft_jobs``, shared by the processes of a mesh.

One row per job, as in SQLite. A claim takes the next due row that nobody else is about to take (``SKIP
LOCKED``), so workers don't wait for each other; only what counts against the bound of the queue does, by an
advisory lock. Leases and due times go by the server's clock, so those of the machines needn't agree. What
changes a job rings a bell in the same transaction, by NOTIFY: who waits wakes at once, on any machine.

Errors: see ``mesh.postgresql``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mesh import postgresql
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
from mesh.jobs.queues import _postgresql_tables as sql
from mesh.jobs.queues._rows import error_bytes, some_job, to_job
from mesh.plugins import Url
from mesh.postgresql import Bell, Database, lock_key
from mesh.validation import invalid, shorten
from weft.errors import WeftError

if TYPE_CHECKING:
    from mesh.postgresql import Connection

_CONNECTIONS: Final = 4
_LOCK: Final = lock_key("weft_jobs")
_SWEEP_ROWS: Final = 100
_FIRST: Final = 1 << 62  # above every sequence


class PostgresqlJobs:
    """``Jobs`` on PostgreSQL. Make it with ``open``."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database, self.limits = database, limits
        self._bell = Bell(database, sql.CHANNEL)

    # -- for those who ask ----------------------------------------------------------------------------

    async def submit(self, wanted: Submission) -> Job:
        """Put a job in the queue, or return the one that has this tenant, kind and key."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            there = await connection.fetchrow(sql.BY_KEY, wanted.tenant, wanted.kind, wanted.key)
            if there is not None:
                if there["payload"] != wanted.payload:
                    raise key_reused(wanted.kind, wanted.key)
                return to_job(there)
            await self._check_room(connection)
            made = await connection.fetchrow(
                sql.INSERT,
                *(wanted.tenant, uuid.uuid4().hex, wanted.kind, wanted.key, wanted.payload),
                *(wanted.max_strikes, wanted.traceparent),
            )
            await self._bell.ring(connection)
        assert made is not None
        return to_job(made)

    async def get(self, tenant: str, job: str) -> Job | None:
        """The job, or None."""
        async with self._database.connection() as connection:
            return some_job(await connection.fetchrow(sql.BY_ID, tenant, job))

    async def find(self, tenant: str, kind: str, key: str) -> Job | None:
        """The job of that key, or None."""
        async with self._database.connection() as connection:
            return some_job(await connection.fetchrow(sql.BY_KEY, tenant, kind, key))

    async def list_jobs(
        self, tenant: str, *, state: JobState | None = None, before: str = "", limit: int = 50
    ) -> tuple[list[Job], str]:
        """A tenant's jobs, newest first, and the ``before`` of the next page ('' at the end)."""
        if before and not (before.isascii() and before.isdigit() and len(before) < 19):
            raise invalid("page_token", f"is {shorten(before)!r}; hand back what the page before gave")
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql.PAGE, tenant, int(before or _FIRST), state, limit + 1)
        return [to_job(row) for row in rows[:limit]], str(rows[limit - 1]["seq"]) if len(rows) > limit else ""

    async def wait(self, tenant: str, job: str, timeout_s: float) -> Job | None:
        """The job when it has ended, or as it stands when the time is up; None where there is none."""
        until_s, seen = time.monotonic() + timeout_s, 0
        while True:
            seen = await self._bell.changed(seen, 0.0)
            found = await self.get(tenant, job)
            remaining_s = until_s - time.monotonic()
            if found is None or found.state.ended or remaining_s <= 0:
                return found
            await self._bell.changed(seen, remaining_s)

    async def cancel(self, tenant: str, job: str) -> Job | None:
        """Ask a job to stop. A waiting one ends at once, a running one when its worker has noticed."""
        async with self._database.transaction() as connection:
            found = some_job(await connection.fetchrow(sql.HOLD, tenant, job))
            if found is None or found.state.ended or found.cancelling:
                return found
            change = sql.CANCEL_WAITING if found.state is JobState.QUEUED else sql.CANCEL_RUNNING
            row = await connection.fetchrow(change, tenant, job)
            await self._bell.ring(connection)
        return some_job(row)

    async def retry(self, tenant: str, job: str) -> Job | None:
        """Put a job that FAILED back in the queue, its strikes wiped; any other stays as it is."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.LOCK, _LOCK)
            found = some_job(await connection.fetchrow(sql.HOLD, tenant, job))
            if found is None or found.state is not JobState.FAILED:
                return found
            await self._check_room(connection)
            row = await connection.fetchrow(sql.RETRY, tenant, job)
            await self._bell.ring(connection)
        return some_job(row)

    async def hurry(self, tenant: str, job: str) -> None:
        """Let a job that waits for its next try, or was parked, go now."""
        async with self._database.transaction() as connection:
            await connection.execute(sql.HURRY, tenant, job)
            await self._bell.ring(connection)

    async def delete(self, tenant: str, job: str) -> bool:
        """Forget a job that has ended; whether there was one."""
        async with self._database.transaction() as connection:
            found = some_job(await connection.fetchrow(sql.HOLD, tenant, job))
            if found is None:
                return False
            if not found.state.ended:
                raise still_active(job, found.state)
            await connection.execute(sql.DELETE, tenant, job)
            await self._bell.ring(connection)
        return True

    # -- for workers ----------------------------------------------------------------------------------

    async def claim(self, kinds: tuple[str, ...], owner: str) -> Claim | None:
        """Take the next job of one of ``kinds`` that is due, or whose lease has run out; None if there is none."""
        async with self._database.transaction() as connection:
            while (row := await connection.fetchrow(sql.NEXT_DUE, kinds)) is not None:
                await self._bell.ring(connection)
                if row["state"] == JobState.RUNNING and (row["cancelling"] or row["strikes"] >= row["max_strikes"]):
                    await self._end_orphan(connection, row)
                    continue
                taken = await connection.fetchrow(sql.TAKE, row["seq"], owner, self.limits.lease_s)
                break
        if row is None or taken is None:
            return None
        job = to_job(taken)
        return Claim(job, Lease(job.tenant, job.id, owner, taken["fence"], self.limits.lease_s))

    async def heartbeat(self, lease: Lease, progress: JobProgress | None = None) -> bool:
        """Prolong a lease and note ``progress``; returns whether somebody asked the job to stop."""
        async with self._database.transaction() as connection:
            cancelling = bool(await self._as(lease, connection, sql.RENEW, self.limits.lease_s))
            await self._note(lease, connection, progress)
            if progress is not None:
                await self._bell.ring(connection)
        return cancelling

    async def finish(self, lease: Lease, result: bytes, progress: JobProgress | None = None) -> None:
        """End the job well."""
        async with self._database.transaction() as connection:
            await self._note(lease, connection, progress)
            await self._as(lease, connection, sql.END, JobState.SUCCEEDED, None, result)
            await self._bell.ring(connection)

    async def fail(self, lease: Lease, failure: WeftError, *, retry: bool, passing: bool = False) -> None:
        """End the job badly; with ``retry``, only if it has had all its strikes, else it waits for another try."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql.HELD, *_held(lease))
            if row is None:
                raise LeaseLost(lease)
            if retry and row["strikes"] < (self.limits.passing_strikes if passing else row["max_strikes"]):
                await self._as(lease, connection, sql.REQUEUE, self.limits.wait_s(row["strikes"]), False)
            else:
                await self._as(lease, connection, sql.END, JobState.FAILED, error_bytes(failure), b"")
            await self._bell.ring(connection)

    async def cancelled(self, lease: Lease) -> None:
        """End the job as cancelled."""
        async with self._database.transaction() as connection:
            await self._as(lease, connection, sql.END, JobState.CANCELLED, None, b"")
            await self._bell.ring(connection)

    async def give_back(self, lease: Lease, after_s: float = 0.0) -> None:
        """Put the job back in the queue, due in ``after_s``: no fault of its own, and no strike."""
        async with self._database.transaction() as connection:
            await self._as(lease, connection, sql.REQUEUE, after_s, True)
            await self._bell.ring(connection)

    # -- for both -------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""
        return await self._bell.changed(seen, timeout_s)

    async def backlog(self) -> Mapping[str, tuple[int, int]]:
        """Jobs that wait and jobs that run, by kind."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(sql.BACKLOG)
        found: dict[str, tuple[int, int]] = {}
        for row in rows:
            waiting, running = found.get(row["kind"], (0, 0))
            queued = row["state"] == JobState.QUEUED
            found[row["kind"]] = (row["count"], running) if queued else (waiting, row["count"])
        return found

    async def sweep(self) -> bool:
        """Forget a few jobs that ended long ago; returns whether there may be more."""
        async with self._database.connection() as connection:
            removed = await connection.fetchval(sql.FORGET_OLD, self.limits.kept_s, _SWEEP_ROWS)
        return bool(removed == _SWEEP_ROWS)

    async def close(self) -> None:
        """Let go of the store."""
        await self._bell.close()
        await self._database.close()

    async def _check_room(self, connection: Connection) -> None:
        waiting = await connection.fetchval(sql.COUNT_QUEUED)
        if waiting >= self.limits.max_queued:
            raise queue_full(waiting, self.limits)

    async def _as(self, lease: Lease, connection: Connection, statement: str, *values: object) -> Any:
        found = await connection.fetchrow(statement, *_held(lease), *values)
        if found is None:
            raise LeaseLost(lease)
        return found[0]

    async def _note(self, lease: Lease, connection: Connection, progress: JobProgress | None) -> None:
        if progress is not None:
            values = (progress.done, progress.total, progress.unit, progress.message)
            await self._as(lease, connection, sql.PROGRESS, *values)

    async def _end_orphan(self, connection: Connection, row: Any) -> None:
        lease = Lease(row["tenant"], row["id"], row["owner"], row["fence"], self.limits.lease_s)
        if row["cancelling"]:
            await self._as(lease, connection, sql.END, JobState.CANCELLED, None, b"")
        else:
            failure = error_bytes(abandoned(row["id"], row["strikes"]))
            await self._as(lease, connection, sql.END, JobState.FAILED, failure, b"")


async def open(url: Url, limits: Limits) -> PostgresqlJobs:
    """Open the queue in the database of ``url``; its table is made if it isn't there."""
    return PostgresqlJobs(await postgresql.open(url, sql.SCHEMA, max_connections=_CONNECTIONS), limits)


def _held(lease: Lease) -> tuple[object, ...]:
    return lease.tenant, lease.job, lease.owner, lease.fence

"""What the built-in registry keeps in ``mesh.db``: instance records, policies, departures, the index.

    instances(service, id, record)         who holds a lease; how long it still runs is not kept here
    policies(service, document, revision)  revision = the index at the change, so it never repeats
    departures(id, at)                     ids that took themselves off the list, the newest 1,000
    counter(value)                         the index, which grows with every change

Each change is one short transaction that moves the index with it. The functions block; the registry
calls them on a thread of its own. One control plane per file: leases run in its memory, so two would
each evict the other's instances. An advisory lock on ``mesh.lock`` says so at start.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh import records, sqlite
from mesh.registry import Instance, StoredPolicy
from weft.errors import Reason, WeftError, error

MAX_DEPARTURES: Final = 1_000
_BUSY_TIMEOUT_S: Final = 2.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS instances (
  service TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (service, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policies (
  service TEXT PRIMARY KEY, document TEXT NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS departures (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the file holds."""

    index: int
    instances: tuple[Instance, ...]
    policies: tuple[StoredPolicy, ...]
    departures: tuple[str, ...]  # oldest first


class Store:
    """One open ``mesh.db``.

    Raises (from the constructor):
        WeftError: STORE_CORRUPT when the file is damaged or no database; REGISTRY_UNAVAILABLE when the
            directory can't be used, or another control plane uses it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mesh.db"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(directory / "mesh.lock")
        except OSError as exc:
            raise error(
                Reason.REGISTRY_UNAVAILABLE,
                f"cannot use {directory} for the registry's store: {exc.strerror}; choose another with WEFT_STORE",
                path=directory,
            ) from exc
        try:
            self._db = _open(self.path)
        except sqlite3.Error as exc:
            os.close(self._lock)
            raise _damaged(self.path, exc) from exc

    def read(self) -> Contents:
        """Everything, as it stands.

        Raises:
            WeftError: STORE_CORRUPT.
        """
        try:
            (index,) = self._db.execute("SELECT value FROM counter").fetchone()
            rows = self._db.execute("SELECT record FROM instances ORDER BY service, id")
            instances = tuple(records.from_json(record) for (record,) in rows)
            rows = self._db.execute("SELECT service, document, revision FROM policies ORDER BY service")
            policies = tuple(StoredPolicy(*row) for row in rows)
            departures = tuple(i for (i,) in self._db.execute("SELECT id FROM departures ORDER BY at, id"))
        except (sqlite3.Error, ValueError, TypeError) as exc:
            raise _damaged(self.path, exc) from exc
        return Contents(index, instances, policies, departures)

    def put_instance(self, instance: Instance) -> int:
        """Store or replace a record; returns the new index."""
        with self._change() as index:
            self._db.execute(
                "INSERT OR REPLACE INTO instances VALUES (?, ?, ?)",
                (instance.service, instance.id, records.to_json(instance)),
            )
            self._db.execute("DELETE FROM departures WHERE id = ?", (instance.id,))
        return index

    def drop_instances(self, keys: Iterable[tuple[str, str]], *, departed: bool) -> int:
        """Remove the records of these (service, id); returns the new index."""
        with self._change() as index:
            for service, instance_id in keys:
                self._db.execute("DELETE FROM instances WHERE service = ? AND id = ?", (service, instance_id))
                if departed:
                    self._db.execute("INSERT OR REPLACE INTO departures VALUES (?, ?)", (instance_id, index))
            self._db.execute(
                "DELETE FROM departures WHERE id NOT IN (SELECT id FROM departures ORDER BY at DESC, id DESC LIMIT ?)",
                (MAX_DEPARTURES,),
            )
        return index

    def put_policy(self, service: str, document: str) -> StoredPolicy:
        """Store or replace a policy; its revision is the new index."""
        with self._change() as index:
            self._db.execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", (service, document, index))
        return StoredPolicy(service, document, index)

    def delete_policy(self, service: str) -> int:
        """Remove a policy; returns the new index."""
        with self._change() as index:
            self._db.execute("DELETE FROM policies WHERE service = ?", (service,))
        return index

    def close(self) -> None:
        """Close the file and let the next control plane have it."""
        self._db.close()
        os.close(self._lock)

    @contextmanager
    def _change(self) -> Iterator[int]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("UPDATE counter SET value = value + 1")
            (index,) = self._db.execute("SELECT value FROM counter").fetchone()
            yield index
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _open(path: Path) -> sqlite3.Connection:
    # a policy that was answered for outlives a power cut
    db = sqlite.connect(path, synchronous="FULL", timeout_s=_BUSY_TIMEOUT_S)
    try:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise error(
            Reason.REGISTRY_UNAVAILABLE,
            f"another control plane (pid {holder}) keeps its registry in {path.parent}; "
            "stop it, or choose another directory with WEFT_STORE",
            path=path.parent,
            pid=holder,
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _damaged(path: Path, cause: Exception) -> WeftError:
    return error(
        Reason.STORE_CORRUPT,
        f"{path} cannot be read: {cause}; move it away and start again: instances register by themselves, "
        "route policies have to be set again",
        path=path,
    )

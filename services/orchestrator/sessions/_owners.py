"""Which owners of leases are dead: a lock file for each, which the kernel lets go of when its process ends.

A lease outlasts its owner, for a pause could be all that is the matter. A process that has ended doesn't come back, so
nobody needs to wait for its leases. The replicas that share an SQLite file share the machine, and its locks:

    SESSIONS.owners/<hash of the owner's name>
        locked        it lives, or is paused; its leases count
        not locked    it died; its leases are void
        absent        it has closed, is of an earlier release, or its file couldn't be made; its leases count

An owner announces itself before its first lease. Its file gets its name only when it is locked, so a file that isn't
locked is always of a dead one. A reader asks for a shared lock, so that readers don't take each other for the owner.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

_NEW: Final = ".new"


class Owners:
    """The lock files of a store's owners. May be used from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}  # descriptors, by owner

    def announce(self, owner: str) -> None:
        """Hold the lock of an owner in this process, until it is closed or ends."""
        if owner in self._held:
            return
        with self._lock, suppress(OSError):
            if owner in self._held:
                return
            path = self._path(owner)
            new = path.with_name(f"{path.name}{_NEW}")
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                new.rename(path)
            except BaseException:
                os.close(descriptor)
                raise
            self._held[owner] = descriptor

    def is_dead(self, owner: str) -> bool:
        """Whether that owner's process has ended without closing."""
        return owner not in self._held and _is_free(self._path(owner))

    def sweep(self) -> None:
        """Forget the dead. Whatever leases they left expire."""
        with suppress(OSError):
            for path in self._directory.iterdir():
                if not path.name.endswith(_NEW) and _is_free(path):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all that were announced here."""
        with self._lock:
            for owner, descriptor in self._held.items():
                with suppress(OSError):
                    self._path(owner).unlink(missing_ok=True)
                os.close(descriptor)
            self._held.clear()

    def _path(self, owner: str) -> Path:
        return self._directory / hashlib.sha256(owner.encode()).hexdigest()[:32]


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True

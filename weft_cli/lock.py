"""One mesh per data directory: a lock that the operating system lets go of when its holder ends, however it ends.

The file ``DIR/lock`` holds the pid of the holder. It is the lock on it (flock) that counts, not the
file: one that a crash has left behind means nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "lock"


class Held(Exception):
    """Somebody else holds the lock.

    Attributes:
        pid: the holder; 0 where it isn't known.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(f"held by pid {pid}")
        self.pid = pid


class DataLock:
    """Holds the lock on a data directory from construction until ``release`` or the process's end."""

    def __init__(self, data_dir: Path) -> None:
        """Take the lock.

        Raises:
            Held: another process holds it.
            OSError: the directory can't be written.
        """
        self._descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = _read_pid(self._descriptor)
            os.close(self._descriptor)
            raise Held(pid) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def holder(data_dir: Path) -> int | None:
    """Pid of the process that holds the lock; None where nobody does."""
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return _read_pid(descriptor) or None
    else:
        return None
    finally:
        os.close(descriptor)


def _read_pid(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdecimal() else 0

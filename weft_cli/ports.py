"""Ports: whether one is free, who has it if not, and which one to take.

A port that was found free is bound some seconds later, by a child. Two meshes that start at the same moment
would find the same one. So who chooses a port holds a lock on a file of its number until it is done with it:
``weft-ports-UID/9500`` in the directory for temporary files. The operating system lets go of it however its
holder ends; the empty file stays and means nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_TRIED_IN_A_ROW: Final = 100


def taken_by(host: str, port: int) -> str | None:
    """None where the port can be had; else why not, and by whom as far as that can be seen."""
    try:
        _bind(host, port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return f"port {port} on {host} is taken{_owner(port)}"
        return f"port {port} on {host} cannot be listened on: {exc.strerror or exc}"
    return None


@contextmanager
def reserved(host: str, preferred: int) -> Iterator[int]:
    """A free port that no other ``weft`` of this user takes meanwhile: ``preferred``, else one of the next, else any.

    Raises:
        OSError: there is none.
    """
    candidates = [*range(preferred, min(65_536, preferred + _TRIED_IN_A_ROW)), *([0] * _TRIED_IN_A_ROW)]
    for candidate in candidates:
        try:
            port = _bind(host, candidate)
        except OSError:
            continue
        descriptor = _lock(port)
        if descriptor is None:
            continue
        try:
            yield port
            return
        finally:
            os.close(descriptor)
    raise OSError(errno.EADDRINUSE, f"no free port on {host} from {preferred} on")


def _lock(port: int) -> int | None:
    """The descriptor of the port's lock file; None where another process holds it."""
    folder = Path(tempfile.gettempdir()) / f"weft-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT doesn't count
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _owner(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f" by pid {connection.pid} ({command[:100]})"
    except psutil.Error:  # somebody else's process: all that may be known is that it is there
        pass
    return ""

"""Ports: whether one is free, who has it if not, and which one to take."""

from __future__ import annotations

import errno
import socket


def taken_by(host: str, port: int) -> str | None:
    """None where the port can be had; else why not, and by whom as far as that can be seen."""
    try:
        _bind(host, port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return f"port {port} on {host} is taken{_owner(port)}"
        return f"port {port} on {host} cannot be listened on: {exc.strerror or exc}"
    return None


def free_port(host: str, preferred: int) -> int:
    """``preferred`` if it is free, else any."""
    try:
        return _bind(host, preferred)
    except OSError:
        return _bind(host, 0)


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

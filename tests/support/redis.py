"""A real Redis server for tests: a free port on loopback, nothing on disk, killed, paused and started at will.

The binary is looked for in ``WEFT_TEST_REDIS`` (its path) and on the PATH; ``.ci/install-redis`` gets it.

A test module that imports ``redis_server`` has one server. Tests that must not see each other's keys take a database
of their own (``server.url(3)``) or call ``empty``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.mesh import free_port
from tests.support.server import Server, find

DATABASES = 64


class RedisServer(Server):
    """One server, restartable on the same port; what it held is gone then."""

    name = "Redis"

    def __init__(self) -> None:
        self._binary = find("redis-server", "WEFT_TEST_REDIS", ".ci/install-redis")
        self._place = Path(tempfile.mkdtemp(prefix="weft-redis-"))
        super().__init__(self._place / "log")
        self.take_ports()

    def url(self, database: int = 0) -> str:
        """For settings and for clients."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def empty(self) -> None:
        """Forget every key of every database."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.flushall()

    def take_ports(self) -> None:
        self.port = free_port()

    def command(self) -> list[str]:
        kept = ["--save", "", "--appendonly", "no", "--databases", str(DATABASES), "--dir", str(self._place)]
        return [self._binary, "--bind", "127.0.0.1", "--port", str(self.port), *kept]

    def ready(self, pid: int) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=1, retry=None) as client:
                # Its own process id: another server may have taken the port in between.
                return bool(client.info("server")["process_id"] == pid)
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Kill it and forget its data."""
        self.kill()
        shutil.rmtree(self._place, ignore_errors=True)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A server for the tests of a module."""
    server = RedisServer()
    try:
        yield server.start()
    finally:
        server.close()

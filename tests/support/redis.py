"""A real Redis server for tests: a free port on loopback, nothing on disk, killed, paused and started at will.

The binary is looked for in ``WEFT_TEST_REDIS`` (its path) and on the PATH; ``.ci/install-redis`` gets it. Without it
the tests that need the server are skipped, except in CI, where nothing may be.

A test module that imports ``redis_server`` has one server. Tests that must not see each other's keys take a database
of their own (``server.url(3)``) or call ``empty``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.mesh import free_port

DATABASES = 64
_READY_S = 30.0


def redis_binary() -> str:
    """Path of the server; skips the test where there is none."""
    found = os.environ.get("WEFT_TEST_REDIS") or shutil.which("redis-server")
    if found is None:
        reason = "no redis-server: put it on the PATH or its path into WEFT_TEST_REDIS (.ci/install-redis DIR gets it)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class RedisServer:
    """One server, restartable on the same port; what it held is gone then."""

    def __init__(self) -> None:
        self._binary = redis_binary()
        self._place = Path(tempfile.mkdtemp(prefix="weft-redis-"))
        self.log = self._place / "log"
        self.port = free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = False

    def url(self, database: int = 0) -> str:
        """For settings and for clients."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    def empty(self) -> None:
        """Forget every key of every database."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.flushall()

    def start(self) -> RedisServer:
        """Start it and wait until it answers. The first start looks for a port that is free."""
        for _ in range(3):
            self._launch()
            try:
                self._wait_until_ready()
            except AssertionError:
                self.kill()
                if self._started:
                    raise
                self.port = free_port()
            else:
                self._started = True
                return self
        raise AssertionError(f"Redis doesn't start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [self._binary, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
                 "--databases", str(DATABASES), "--dir", str(self._place)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _wait_until_ready(self) -> None:
        assert self._popen is not None
        until_s = time.monotonic() + _READY_S
        while time.monotonic() < until_s:
            if self._popen.poll() is not None:
                raise AssertionError(f"Redis ended:\n{self.log.read_text(errors='replace')[-2000:]}")
            try:
                # Its own process id: another server may have taken the port in between.
                with redis.Redis(port=self.port, socket_timeout=1, retry=None) as client:
                    if client.info("server")["process_id"] == self._popen.pid:
                        return
            except redis.RedisError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"Redis isn't ready after {_READY_S} s")

    def kill(self) -> None:
        """``kill -9``."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.kill()
            self._popen.wait(10)

    def pause(self) -> None:
        """Stop it where it is: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

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

"""A real PostgreSQL server for tests: its own data directory, a free port on loopback, killed and started at will.

The binaries ``initdb`` and ``postgres`` are looked for in ``WEFT_TEST_POSTGRESQL`` (a directory), on the PATH,
and where Debian puts them; ``.ci/install-postgresql`` gets them. Without them the tests that need the server
are skipped, except in CI, where nothing may be. PostgreSQL refuses to run as root: there it runs as nobody.

A test module that imports ``postgresql_server`` has one server; each test makes databases of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.support.mesh import free_port

USER = "weft"
_READY_S = 30.0
_DEBIAN = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def postgresql_binary(name: str) -> str:
    """Path of a binary; skips the test where there is none."""
    found = shutil.which(name, path=os.environ.get("WEFT_TEST_POSTGRESQL"))
    found = found or shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_DEBIAN]))
    if found is None:
        reason = (
            f"no {name}: put PostgreSQL on the PATH or name its directory in WEFT_TEST_POSTGRESQL "
            "(.ci/install-postgresql DIR gets it)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(Path(found).resolve())  # a link may lie where only root may look


class PostgresqlServer:
    """One server, restartable on the same port with the same data."""

    def __init__(self) -> None:
        self._postgres, initdb = postgresql_binary("postgres"), postgresql_binary("initdb")
        self.password = secrets.token_urlsafe(12)
        self._place = Path(tempfile.mkdtemp(prefix="weft-postgresql-", dir="/tmp" if os.getuid() == 0 else None))
        self._data, self.log = self._place / "data", self._place / "log"
        self._port = free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = False
        self._databases = 0
        password_file = self._place / "password"
        password_file.write_text(self.password)
        self.log.touch()
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self._place, password_file, self.log):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        made = subprocess.run(
            [initdb, f"--pgdata={self._data}", f"--username={USER}", f"--pwfile={password_file}",
             "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, timeout=60, cwd=self._place, **self._as,
        )  # fmt: skip
        if made.returncode:
            shutil.rmtree(self._place)
            raise AssertionError(f"initdb failed:\n{made.stdout}\n{made.stderr}")

    def url(self, database: str) -> str:
        """For WEFT_STORE."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self._port}/{database}"

    async def make_database(self, options: str = "") -> str:
        """Make a database; returns its URL."""
        self._databases += 1
        name = f"test{self._databases}"
        await self.run(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    async def make_index(self) -> str:
        """Make a database for a shared index; returns its URL for WEFT_RETRIEVER__INDEX."""
        available = await self.run("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        if not available:
            reason = "this PostgreSQL lacks pgvector (.ci/install-postgresql DIR gets both)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return (await self.make_database()).replace("postgresql:", "pgvector:", 1)

    async def run(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the administrator that a test sometimes is."""
        connection = await asyncpg.connect(self.url(database), timeout=10)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    def start(self) -> PostgresqlServer:
        """Start it and wait until it takes connections. The first start looks for a port that is free."""
        for _ in range(3):
            self._launch()
            try:
                self._wait_until_ready()
            except AssertionError:
                self.kill()
                if self._started:
                    raise
                self._port = free_port()
            else:
                self._started = True
                return self
        raise AssertionError(f"PostgreSQL doesn't start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [self._postgres, "-D", self._data, "-p", str(self._port), "-c", "listen_addresses=127.0.0.1",
                 "-c", "unix_socket_directories=", "-c", "jit=off", "-c", "shared_buffers=32MB",
                 "-c", "max_connections=80"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._place, **self._as,
            )  # fmt: skip

    def _wait_until_ready(self) -> None:
        until_s = time.monotonic() + _READY_S
        while time.monotonic() < until_s:
            assert self._popen is not None
            if self._popen.poll() is not None:
                raise AssertionError(f"PostgreSQL ended:\n{self.log.read_text(errors='replace')[-2000:]}")
            with contextlib.suppress(OSError, IndexError):
                # The last line says how it is, the first who: a killed server's file is still there.
                lines = (self._data / "postmaster.pid").read_text().splitlines()
                if lines[0] == str(self._popen.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL isn't ready after {_READY_S} s")

    def kill(self) -> None:
        """``kill -9``, all its processes at once: nothing is tidied up."""
        if self._popen is None or self._popen.poll() is not None:
            return
        top = psutil.Process(self._popen.pid)
        top.suspend()  # so that it starts no other while they are killed
        for process in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait(10)

    def pause(self) -> None:
        """Stop all its processes where they are: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        top = psutil.Process(self._popen.pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def close(self) -> None:
        """Kill it and forget its data."""
        self.kill()
        shutil.rmtree(self._place, ignore_errors=True)


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A server for the tests of a module."""
    server = PostgresqlServer()
    try:
        yield server.start()
    finally:
        server.close()

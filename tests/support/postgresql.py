"""A real PostgreSQL server for tests: its own data directory, a free port on loopback, killed and started at will.

The binaries ``initdb`` and ``postgres`` are looked for in ``WEFT_TEST_POSTGRESQL`` (a directory), on the PATH,
and where Debian puts them; ``.ci/install-postgresql`` gets them. PostgreSQL refuses to run as root: there it
runs as nobody.

A test module that imports ``postgresql_server`` has one server; each test makes databases of its own.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.mesh import free_port
from tests.support.server import Server, find, missing

USER = "weft"
_DEBIAN = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def _binary(name: str) -> str:
    # A link may lie where only root may look.
    return str(Path(find(name, "WEFT_TEST_POSTGRESQL", ".ci/install-postgresql", _DEBIAN)).resolve())


class PostgresqlServer(Server):
    """One server, restartable on the same port with the same data."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        self._postgres, initdb = _binary("postgres"), _binary("initdb")
        self.password = secrets.token_urlsafe(12)
        self._place = Path(tempfile.mkdtemp(prefix="weft-postgresql-", dir="/tmp" if os.getuid() == 0 else None))
        self._data = self._place / "data"
        super().__init__(self._place / "log")
        self.take_ports()
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
            missing("this PostgreSQL lacks pgvector (.ci/install-postgresql DIR gets both)")
        return (await self.make_database()).replace("postgresql:", "pgvector:", 1)

    async def run(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the administrator that a test sometimes is."""
        connection = await asyncpg.connect(self.url(database), timeout=10)
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    def take_ports(self) -> None:
        self._port = free_port()

    def command(self) -> list[str]:
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "jit=off", "shared_buffers=32MB")
        more = [word for setting in (*settings, "max_connections=80") for word in ("-c", setting)]
        return [self._postgres, "-D", str(self._data), "-p", str(self._port), *more]

    def options(self) -> dict[str, Any]:
        return {"cwd": self._place, **self._as}

    def ready(self, pid: int) -> bool:
        # The last line says how it is, the first who: a killed server's file is still there.
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

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

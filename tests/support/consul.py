"""A real Consul agent for tests: in memory, on loopback, so that killing and starting it empties it.

The binary is ``WEFT_TEST_CONSUL`` or the PATH's ``consul``; ``.ci/install-consul`` gets one. Without it
the tests that need it are skipped, except in CI, where nothing may be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.mesh import free_port

_READY_S = 20.0


def consul_binary() -> str:
    """Path of the binary; skips the test where there is none."""
    found = os.environ.get("WEFT_TEST_CONSUL") or shutil.which("consul")
    if found is None:
        reason = "no Consul: put it on the PATH or name it in WEFT_TEST_CONSUL (.ci/install-consul DIR gets it)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class ConsulAgent:
    """One agent in development mode, restartable on the same ports. With a ``token``, nothing goes without it."""

    def __init__(self, directory: Path, *, token: str = "") -> None:
        self._token = token
        self._binary = consul_binary()
        self._log = directory / "consul.log"
        self._ports = {name: free_port() for name in ("http", "server", "serf_lan", "serf_wan")}
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    @property
    def url(self) -> str:
        """For WEFT_REGISTRY."""
        return f"consul://{self.address}"

    def start(self) -> ConsulAgent:
        """Start it, empty, and wait until it has a leader. The first start looks for ports that are free."""
        for _ in range(3):
            self._launch()
            try:
                self._wait_for_leader()
            except AssertionError:
                self.kill()
                if self._started:
                    raise
                self._ports = {name: free_port() for name in self._ports}
            else:
                self._started = True
                return self
        raise AssertionError(f"Consul doesn't start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def _launch(self) -> None:
        ports = [f"{name} = {port}" for name, port in {**self._ports, "dns": -1, "grpc": -1}.items()]
        settings = f"ports {{ {' '.join(ports)} }} disable_update_check = true"
        if self._token:
            tokens = f'master = "{self._token}" agent = "{self._token}"'
            settings += f' acl {{ enabled = true default_policy = "deny" tokens {{ {tokens} }} }}'
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [self._binary, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=weft-test",
                 "-log-level=warn", f"-hcl={settings}"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _wait_for_leader(self) -> None:
        until_s = time.monotonic() + _READY_S
        while time.monotonic() < until_s:
            assert self._popen is not None
            if self._popen.poll() is not None:
                raise AssertionError(f"Consul ended:\n{self._log.read_text(errors='replace')[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://{self.address}/v1/status/leader", timeout=1) as answer:
                    if len(answer.read()) > 4:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"Consul has no leader after {_READY_S} s")

    def kill(self) -> None:
        """``kill -9``."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(signal.SIGKILL)
            self._popen.wait(10)

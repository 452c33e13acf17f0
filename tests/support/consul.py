"""A real Consul agent for tests: in memory, on loopback, so that killing and starting it empties it.

The binary is ``WEFT_TEST_CONSUL`` or the PATH's ``consul``; ``.ci/install-consul`` gets one.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tests.support.mesh import free_port
from tests.support.server import Server, find


class ConsulAgent(Server):
    """One agent in development mode, restartable on the same ports. With a ``token``, nothing goes without it."""

    name = "Consul"

    def __init__(self, directory: Path, *, token: str = "") -> None:
        super().__init__(directory / "consul.log")
        self._token = token
        self._binary = find("consul", "WEFT_TEST_CONSUL", ".ci/install-consul")
        self.take_ports()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    @property
    def url(self) -> str:
        """For WEFT_REGISTRY."""
        return f"consul://{self.address}"

    def take_ports(self) -> None:
        self._ports = {name: free_port() for name in ("http", "server", "serf_lan", "serf_wan")}

    def command(self) -> list[str]:
        ports = [f"{name} = {port}" for name, port in {**self._ports, "dns": -1, "grpc": -1}.items()]
        settings = f"ports {{ {' '.join(ports)} }} disable_update_check = true"
        if self._token:
            tokens = f'master = "{self._token}" agent = "{self._token}"'
            settings += f' acl {{ enabled = true default_policy = "deny" tokens {{ {tokens} }} }}'
        on = ["-bind=127.0.0.1", "-client=127.0.0.1", "-node=weft-test"]
        return [self._binary, "agent", "-dev", *on, "-log-level=warn", f"-hcl={settings}"]

    def ready(self, pid: int) -> bool:
        """Once it has a leader."""
        with urllib.request.urlopen(f"http://{self.address}/v1/status/leader", timeout=1) as answer:
            return len(answer.read()) > 4

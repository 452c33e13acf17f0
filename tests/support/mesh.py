"""A whole mesh of real processes for tests: started, killed, paused and restarted one by one.

Everything listens on loopback, writes into a directory that the test gives, and ends with the block.
Only processes that were started here are ever signalled. A Python process that is started here ends with the test
run even if that is killed (``leashed``); so start it from a thread that lives on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from weft.mesh.v1 import routing_pb2, routing_pb2_grpc, status_pb2, status_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("retriever", "generator", "tools", "orchestrator")
READY_S = 60.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """Poll until ``check`` returns something true; returns it."""
    until_s = time.monotonic() + within_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > until_s:
            raise AssertionError(f"not within {within_s} s: {what} (last: {found!r})")
        time.sleep(0.05)


def leashed(arguments: Sequence[str]) -> list[str]:
    """``python -m MODULE …`` as the same process on a leash: it ends when the thread that starts it does, so none is
    left of a test run that was killed. Other programs as they are."""
    if list(arguments[:2]) != [sys.executable, "-m"]:
        return list(arguments)
    return [sys.executable, "-m", "weft_cli.leash", str(os.getpid()), *arguments[2:]]


class Process:
    """One process of the mesh, restartable with the same command and environment."""

    def __init__(self, name: str, arguments: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.name, self._arguments, self._environ, self.log = name, arguments, dict(environ), log
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                leashed(self._arguments), env=self._environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT
            )
        return self

    @property
    def instance_id(self) -> str:
        """Under which it registers; empty for what doesn't."""
        return self._environ.get("WEFT_INSTANCE_ID", "")

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def signal(self, number: int) -> None:
        if self.running:
            assert self._popen is not None
            self._popen.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        assert self._popen is not None
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """``kill -9``, and reap."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and wait for the drain."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def tail(self, lines: int = 30) -> str:
        """The end of its log, for a failing test's message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Mesh:
    """Handles of one running mesh."""

    def __init__(
        self, directory: Path, *, registry: str = "builtin:", environ: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.collector_address = f"127.0.0.1:{free_port()}"
        self.registry = registry
        self.processes: list[Process] = []
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "GRPC_XDS_", "OTEL_"))},
            "WEFT_MESH": self.address,
            "WEFT_REGISTRY": registry,
            "WEFT_STORE": f"sqlite:///{directory}",
            "WEFT_LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.collector_address}",
            "PYTHONUNBUFFERED": "1",
            **(environ or {}),
        }
        self._channel: grpc.Channel | None = None

    def spawn(self, name: str, module: str, arguments: Sequence[str] = (), **environ: str) -> Process:
        """Start ``python -m module``; ``name`` is for this test's use."""
        process = Process(
            name,
            [sys.executable, "-m", module, *arguments],
            {**self._environ, **environ},
            self.directory / f"{name}.log",
        ).start()
        self.processes.append(process)
        return process

    def spawn_service(self, service: str, *, version: str = "v1", **environ: str) -> Process:
        """Start one more instance of a service."""
        number = sum(p.name.startswith(f"{service}-") for p in self.processes)
        return self.spawn(
            f"{service}-{number}",
            f"services.{service}",
            WEFT_VERSION=version,
            WEFT_INSTANCE_ID=f"{service}-{version}-{number}-{self.address.rpartition(':')[2]}",
            **environ,
        )

    def named(self, prefix: str) -> list[Process]:
        """Running processes whose name begins with ``prefix``."""
        return [p for p in self.processes if p.name.startswith(prefix) and p.running]

    @property
    def channel(self) -> grpc.Channel:
        """A plain channel to the control plane (one that was restarted is found again)."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 500)])
        return self._channel

    def status(self, *, with_load: bool = False) -> status_pb2.GetMeshStatusResponse | None:
        """The control plane's view; None while it doesn't answer."""
        stub = status_pb2_grpc.StatusServiceStub(self.channel)
        try:
            return stub.GetMeshStatus(status_pb2.GetMeshStatusRequest(with_load=with_load), timeout=3)
        except grpc.RpcError:
            return None

    def serving(self) -> dict[str, list[Any]]:
        """Serving instances by service."""
        found: dict[str, list[Any]] = {}
        status = self.status()
        for item in status.instances if status is not None else ():
            if item.health == status_pb2.HEALTH_SERVING:
                found.setdefault(item.instance.service, []).append(item.instance)
        return found

    def restart(self, *processes: Process, within_s: float = READY_S) -> None:
        """Start services' processes that ended, and wait until the mesh serves by them. (Their former records
        may still be on the list.)"""
        started_s = time.time()
        for process in processes:
            process.start()

        def back() -> bool:
            for process in processes:
                if not process.running:
                    raise AssertionError(f"{process.name} ended while starting:\n{process.tail()}")
            new = {
                instance.id
                for instances in self.serving().values()
                for instance in instances
                if instance.start_time.ToNanoseconds() / 1e9 >= started_s
            }
            return all(process.instance_id in new for process in processes)

        eventually(back, within_s=within_s, what=f"{[process.name for process in processes]} back")

    def calls(self, service: str, method: str) -> Counter[str]:
        """Calls of ``method`` begun so far, by version, as the instances' /metrics count them."""
        counts: Counter[str] = Counter()
        for instance in self.serving()[service]:
            text = httpx.get(f"http://{instance.host}:{instance.metrics_port}/metrics", timeout=5).text
            for line in text.splitlines():
                if line.startswith("grpc_server_call_started_total") and f'/{method}"' in line:
                    counts[instance.version] += int(float(line.rpartition(" ")[2]))
        return counts

    def wait_ready(self, expected: Mapping[str, int], within_s: float = READY_S) -> None:
        """Wait until the mesh serves at least so many instances of each service."""

        def ready() -> bool:
            dead = [p for p in self.processes if p.name in self._starting and not p.running]
            if dead:
                raise AssertionError(f"{dead[0].name} ended while starting:\n{dead[0].tail()}")
            serving = self.serving()
            status = self.status()
            return (
                all(len(serving.get(service, ())) >= count for service, count in expected.items())
                and status is not None
                and bool(status.snapshot_version)
            )

        eventually(ready, within_s=within_s, what=f"a mesh of {dict(expected)}")

    @property
    def _starting(self) -> set[str]:
        return {p.name for p in self.processes}

    def set_route(
        self, service: str, *, weights: Mapping[str, int] | None = None, header: tuple[str, str, str] | None = None
    ) -> None:
        """Set a route policy, whatever is stored."""
        policy = routing_pb2.RoutePolicy(service=service)
        for version, weight in (weights or {}).items():
            policy.weights.add(version=version, weight=weight)
        if header is not None:
            policy.headers.add(header=header[0], value=header[1], version=header[2])
        routing_pb2_grpc.RoutingServiceStub(self.channel).SetRoutePolicy(
            routing_pb2.SetRoutePolicyRequest(policy=policy, force=True), timeout=5
        )

    def clear_route(self, service: str) -> None:
        """Back to an even spread."""
        routing_pb2_grpc.RoutingServiceStub(self.channel).DeleteRoutePolicy(
            routing_pb2.DeleteRoutePolicyRequest(service=service), timeout=5
        )

    def close(self) -> None:
        """End everything that runs: softly, then not."""
        if self._channel is not None:
            self._channel.close()
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        until_s = time.monotonic() + 15
        for process in self.processes:
            try:
                process.wait(max(0.1, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def running_mesh(
    directory: Path,
    replicas: Mapping[str, int],
    *,
    registry: str = "builtin:",
    environ: Mapping[str, str] | None = None,
) -> Iterator[Mesh]:
    """A mesh with so many instances of each service, ready to be called."""
    mesh = Mesh(directory, registry=registry, environ=environ)
    try:
        mesh.spawn("controlplane", "mesh.controlplane")
        mesh.spawn("collector", "mesh.telemetry.collector", WEFT_PORT=mesh.collector_address.rpartition(":")[2])
        for service, count in replicas.items():
            for _ in range(count):
                mesh.spawn_service(service)
        mesh.wait_ready(replicas)
        yield mesh
    finally:
        mesh.close()

"""A mesh with one retriever over a given store, for benchmarks/retriever.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.mesh import Mesh, Process, free_port

_START_TIMEOUT_S = 120.0
_SERVING = health_pb2.HealthCheckResponse.SERVING


class Hosted:
    """The retriever of a mesh.

    Attributes:
        address: where it listens.
        started_s: from exec to SERVING.
    """

    def __init__(self, mesh: Mesh, process: Process, port: int) -> None:
        self.mesh, self._process = mesh, process
        self.address = f"127.0.0.1:{port}"
        self.started_s = 0.0

    def wait_serving(self, since_s: float) -> float:
        """Wait until it says SERVING; returns how long that was after ``since_s``, and then waits for the mesh."""
        quick = [(f"grpc.{kind}_reconnect_backoff_ms", 20) for kind in ("initial", "min", "max")]
        with grpc.insecure_channel(self.address, options=quick) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    if health.Check(health_pb2.HealthCheckRequest(), timeout=1).status == _SERVING:
                        break
                except grpc.RpcError as exc:
                    if not self._process.running or time.perf_counter() > since_s + _START_TIMEOUT_S:
                        raise SystemExit(f"the retriever did not start:\n{self._process.tail()}") from exc
                time.sleep(0.01)
        taken_s = time.perf_counter() - since_s
        self.mesh.wait_ready({"retriever": 1})
        return taken_s

    def restart(self) -> float:
        """End it and start it again; returns how long that took from exec to SERVING."""
        self._process.terminate()
        since_s = time.perf_counter()
        self._process.start()
        return self.wait_serving(since_s)

    def cpu_s(self) -> float:
        """CPU it has used."""
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def memory_mib(self) -> dict[str, float]:
        """What it holds now."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
        return {"own": found["RssAnon"], "mapped": found["RssFile"]}


@contextmanager
def hosted(directory: Path, store: Path, embedder: str) -> Iterator[Hosted]:
    """A retriever on ``store`` in a mesh that lives in ``directory``, serving."""
    mesh = Mesh(directory, environ={"WEFT_DRAIN_TRAVEL_S": "0"})
    try:
        mesh.spawn("controlplane", "mesh.controlplane")
        mesh.spawn("collector", "mesh.telemetry.collector", WEFT_PORT=mesh.collector_address.rpartition(":")[2])
        port = free_port()
        since_s = time.perf_counter()
        process = mesh.spawn(
            "retriever-0",
            "benchmarks.retriever_service",
            WEFT_STORE=f"sqlite:///{store.absolute()}",
            WEFT_RETRIEVER__EMBEDDER=embedder,
            WEFT_INSTANCE_ID="retriever-0",
            WEFT_PORT=str(port),
        )
        service = Hosted(mesh, process, port)
        service.started_s = service.wait_serving(since_s)
        yield service
    finally:
        mesh.close()

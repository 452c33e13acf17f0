"""How soon a route policy that was set changes where a running client's calls go.

    python -m benchmarks.routes [--times 20]

Two generators, v1 and v2, each with a model of its own name: ``ListModels`` tells which one answered. A client calls
it over the mesh without a pause, on one channel, while all traffic is moved from the one to the other and back. A
change begins when ``SetRoutePolicy`` has replied and has reached the client with the first call, begun after that,
which the new version answers: the time between is measured to that call's begin. From then on no call may land on
the old version: that would be a change that came only in part.

Runs with the built-in registry, and with Consul where there is one (``WEFT_TEST_CONSUL`` or the PATH's). Exits with 1
where the median is over 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.support.consul import ConsulAgent
from tests.support.mesh import ROOT, Mesh
from weft.channel import Dial, open_address, open_service
from weft.generator.v1 import generator_pb2, generator_pb2_grpc
from weft.mesh.v1 import routing_pb2, routing_pb2_grpc

BOUND_MS: Final = 100.0
VERSIONS: Final = ("v1", "v2")
_CALM_S: Final = 0.2  # between changes: calls go on
_GIVE_UP_S: Final = 10.0
console = Console()


class Caller:
    """Calls without a pause and notes when each call began and which version answered."""

    def __init__(self, dial: Dial) -> None:
        self._stub = generator_pb2_grpc.GeneratorServiceStub(open_service("generator", dial))
        self.calls: list[tuple[float, str]] = []

    async def run(self) -> None:
        while True:
            begin_s = time.perf_counter()
            found = await self._stub.ListModels(generator_pb2.ListModelsRequest(), timeout=5)
            self.calls.append((begin_s, found.models[0].name))

    async def first(self, version: str, since_s: float) -> float:
        """When the first call began that began since then and that ``version`` answered."""
        while True:
            for begin_s, answered in reversed(self.calls):
                if begin_s < since_s:
                    break
                if answered == version:
                    return min(b for b, a in self.calls if b >= since_s and a == version)
            await asyncio.sleep(0.001)


async def measure(address: str, times: int) -> dict[str, Any]:
    dial = Dial(mesh=(address,))
    routing = routing_pb2_grpc.RoutingServiceStub(open_address((address,), dial))
    caller, delays_ms, strays = Caller(dial), [], 0

    async def move_to(version: str) -> float:
        policy = routing_pb2.RoutePolicy(service="generator")
        for name in VERSIONS:
            policy.weights.add(version=name, weight=100 if name == version else 0)
        request = routing_pb2.SetRoutePolicyRequest(policy=policy, force=True)
        await routing.SetRoutePolicy(request, timeout=5)
        return time.perf_counter()

    calling = asyncio.create_task(caller.run())
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            await caller.first("v1", await move_to("v1"))
        for number in range(times):
            await asyncio.sleep(_CALM_S)
            version = VERSIONS[(number + 1) % 2]
            async with asyncio.timeout(_GIVE_UP_S):
                set_s = await move_to(version)
                landed_s = await caller.first(version, set_s)
            delays_ms.append((landed_s - set_s) * 1_000)
            await asyncio.sleep(_CALM_S)
            strays += sum(begin_s > landed_s and answered != version for begin_s, answered in caller.calls)
    finally:
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    return {"delays_ms": delays_ms, "strays": strays, "calls": len(caller.calls)}


@contextmanager
def running(directory: Path, registry: str) -> Iterator[Mesh]:
    """A control plane and two generators."""
    mesh = Mesh(directory, registry=registry)
    try:
        mesh.spawn("controlplane", "mesh.controlplane")
        for version in VERSIONS:
            models = json.dumps({version: "scripted:"})
            mesh.spawn_service("generator", version=version, WEFT_GENERATOR__MODELS=models)
        mesh.wait_ready({"generator": 2})
        yield mesh
    finally:
        mesh.close()


def measured(registry: str, times: int) -> dict[str, Any]:
    """One registry's figures. The client is a process of its own: a process belongs to one mesh."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        url = "builtin:"
        if registry == "consul":
            agent = ConsulAgent(Path(name))
            stack.callback(agent.kill)
            url = agent.start().url
        mesh = stack.enter_context(running(Path(name), url))
        command = [sys.executable, "-m", "benchmarks.routes", "--mesh", mesh.address, "--times", str(times)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + times, check=False)
        if done.returncode:
            raise SystemExit(f"the client of the {registry} mesh failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
    delays_ms = found.pop("delays_ms")
    figures = {"median_ms": statistics.median(delays_ms), "max_ms": max(delays_ms), "changes": len(delays_ms)}
    return {"registry": registry, **figures, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mesh", help=argparse.SUPPRESS)  # the child that calls
    arguments = parser.parse_args()
    if arguments.mesh:
        print(json.dumps(asyncio.run(measure(arguments.mesh, arguments.times))))
        return
    registries = ["builtin"]
    if os.environ.get("WEFT_TEST_CONSUL") or shutil.which("consul"):
        registries.append("consul")
    else:
        console.print("no Consul here: not measured with it", highlight=False)
    raise SystemExit(report([measured(registry, arguments.times) for registry in registries], arguments.json))


def report(rows: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table = Table(title=f"{rows[0]['changes']} changes of a route", title_justify="left")
        table.add_column("registry")
        for column in ("median ms", "at most", "calls", "back on the old version"):
            table.add_column(column, justify="right")
        for row in rows:
            times = (f"{row[key]:.1f}" for key in ("median_ms", "max_ms"))
            table.add_row(row["registry"], *times, str(row["calls"]), str(row["strays"]))
        console.print(table)
    late = [row["registry"] for row in rows if row["median_ms"] > BOUND_MS]
    torn = [row["registry"] for row in rows if row["strays"]]
    for name in late:
        console.print(f"[red]{name}: over {BOUND_MS:.0f} ms")
    for name in torn:
        console.print(f"[red]{name}: calls landed on the old version after the change")
    return 1 if late or torn else 0


if __name__ == "__main__":
    main()

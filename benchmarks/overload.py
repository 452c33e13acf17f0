"""What a generator does with three times as many requests as it can answer.

    python -m benchmarks.overload [--seconds 10] [--json]

A real generator process (with control plane and collector) serves a scripted model that sleeps: 32 answers at once,
0.2 s each, so it can do 160 a second. Callers wait 1 s. One call in ten is another tenant's than that which floods.

    peak       closed loop, twice as many callers as places
    before     open loop at 0.7 of the peak, for what is normal
    burst      open loop at 3 times the peak
    after      as before

**Goodput** is whole answers a second that came before their caller's deadline, of calls that began in the phase.

**Refusals** are timed in the server, from its accepting the call (the interceptor's first line, after gRPC has read the
request) to the status being handed to gRPC: its own histogram of call durations by status. Those that were refused
after they had waited (`expired`, `displaced`) are in that histogram, too; they are counted, and taken off the calls
that must have been quick. What a call waits before its handler begins, for its turn on the event loop, shows in the
loop's worst lag and in what callers saw.

**Recovery** is the time from the burst's end, when `after` begins, to the first call from which on none was refused or
late and of each second's answers 95 of 100 took at most 1.5 times as long as before.

Exits with 1 where goodput fell below 80 % of the peak, fewer than 99 of 100 refusals took at most 10 ms, or recovery
took more than 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from rich.console import Console
from rich.table import Table

from tests.support.mesh import Mesh, running_mesh
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc

PLACES: Final = 32
MODEL: Final = "scripted:?tokens=8&delay_ms=25"
DEADLINE_S: Final = 1.0
NORMAL, BURST = 0.7, 3.0
MIN_GOODPUT: Final = 0.8
MAX_REFUSAL_S: Final = 0.01
REFUSALS_IN_TIME: Final = 0.99
MAX_RECOVERY_S: Final = 5.0
SLOWER: Final = 1.5
MIN_CALLS: Final = 40  # of a second that is judged: the last one is not whole
FLOOD, GUEST = "flood", "guest"
_STATUS: Final = {grpc.StatusCode.RESOURCE_EXHAUSTED: "refused", grpc.StatusCode.DEADLINE_EXCEEDED: "late"}
console = Console()


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as its caller saw it."""

    tenant: str
    begun_s: float
    took_s: float
    outcome: str
    """ok, refused, late, or another status."""


class Callers:
    """Calls one generator."""

    def __init__(self, address: str) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
        ]
        self._stubs = [pb_grpc.GeneratorServiceStub(channel) for channel in self._channels]
        self._request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="What is asked?")])
        self._request.sampling.max_tokens = 8
        self._random = random.Random(7)
        self.calls: list[Call] = []

    async def one(self) -> None:
        tenant = GUEST if self._random.random() < 0.1 else FLOOD
        stub, outcome, begun_s = self._random.choice(self._stubs), "ok", time.perf_counter()
        try:
            stream = stub.Generate(self._request, timeout=DEADLINE_S, metadata=(("weft-tenant", tenant),))
            async for _ in stream:
                pass
        except grpc.aio.AioRpcError as err:
            outcome = _STATUS.get(err.code(), err.code().name)
        self.calls.append(Call(tenant, begun_s, time.perf_counter() - begun_s, outcome))

    async def closed(self, callers: int, seconds: float) -> list[Call]:
        """So many callers, each with its next call when it had its answer."""
        until_s = time.perf_counter() + seconds

        async def caller() -> None:
            while time.perf_counter() < until_s:
                await self.one()

        return await self._gather(asyncio.gather(*(caller() for _ in range(callers))))

    async def open(self, *phases: tuple[float, float]) -> list[list[Call]]:
        """Phases of so many calls a second for so many seconds, however long they take; waits for the last one."""
        tasks: set[asyncio.Task[None]] = set()
        bounds_s, due_s = [time.perf_counter()], time.perf_counter()
        for rate, seconds in phases:
            bounds_s.append(bounds_s[-1] + seconds)
            while due_s < bounds_s[-1]:
                if (ahead_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(ahead_s)
                tasks.add(asyncio.create_task(self.one()))
                due_s += self._random.expovariate(rate)
        calls = await self._gather(asyncio.gather(*tasks))
        bounds_s[-1] = float("inf")
        return [[call for call in calls if low <= call.begun_s < high] for low, high in pairwise(bounds_s)]

    async def _gather(self, work: Any) -> list[Call]:
        await work
        calls, self.calls = self.calls, []
        return sorted(calls, key=lambda call: call.begun_s)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def sample(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.partition("{")[0].partition(" ")[0] == name and all(part in line for part in wanted)
    )


def goodput(calls: list[Call]) -> float:
    """Whole answers a second."""
    return sum(call.outcome == "ok" for call in calls) / (calls[-1].begun_s - calls[0].begun_s)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def recovery_s(after: list[Call], normal_s: float) -> float:
    """From the first call on to that from which on all is as before."""
    good_from = 0
    for index, call in enumerate(after):
        second = [other for other in after[index:] if other.begun_s < call.begun_s + 1.0]
        slow = len(second) >= MIN_CALLS and quantile([other.took_s for other in second], 0.95) > SLOWER * normal_s
        if slow or call.outcome != "ok":
            good_from = index + 1
    return (after[good_from].begun_s if good_from < len(after) else float("inf")) - after[0].begun_s


async def measure(address: str, metrics: Callable[[], str], seconds: float) -> dict[str, Any]:
    callers = Callers(address)
    await callers.closed(PLACES, 1.0)  # warm
    peak = goodput(await callers.closed(2 * PLACES, seconds / 2))
    (before,) = await callers.open((NORMAL * peak, seconds / 2))
    seen = await asyncio.to_thread(metrics)
    burst, after = await callers.open((BURST * peak, seconds), (NORMAL * peak, 2 * MAX_RECOVERY_S))
    then = await asyncio.to_thread(metrics)
    await callers.close()

    def refusals(**labels: str) -> float:
        method = {"grpc_status": "RESOURCE_EXHAUSTED", **labels}
        name = "grpc_server_call_duration_seconds_" + ("bucket" if labels else "count")
        return sample(then, name, **method) - sample(seen, name, **method)

    def refused_for(why: str) -> float:
        name = "weft_generator_refusals_total"
        return sample(then, name, why=why) - sample(seen, name, why=why)

    why = {name: round(refused_for(name)) for name in ("full", "late", "expired", "displaced")}
    at_once = max(1.0, refusals() - why["expired"] - why["displaced"])

    normal_s = quantile([call.took_s for call in before if call.outcome == "ok"], 0.95)
    refused = [call.took_s for call in burst if call.outcome == "refused"]
    guests = Counter(call.outcome for call in burst if call.tenant == GUEST)
    return {
        "peak": peak,
        "offered": len(burst) / (burst[-1].begun_s - burst[0].begun_s),
        "goodput": goodput(burst),
        "share": goodput(burst) / peak,
        "before": dict(Counter(call.outcome for call in before)),
        "burst": dict(Counter(call.outcome for call in burst)),
        "burst_p95_s": quantile([call.took_s for call in burst if call.outcome == "ok"], 0.95),
        "guest_ok": guests["ok"] / max(1, sum(guests.values())),
        "refusals": refusals(),
        "refused_in_10_ms": min(1.0, refusals(le=str(MAX_REFUSAL_S)) / at_once),
        "refused_in_2_ms": min(1.0, refusals(le="0.002") / at_once),
        "why": why,
        "refused_seen_p50_ms": quantile(refused, 0.5) * 1_000,
        "refused_seen_p99_ms": quantile(refused, 0.99) * 1_000,
        "loop_lag_max_ms": sample(then, "weft_event_loop_lag_max_seconds") * 1_000,
        "normal_p95_s": normal_s,
        "recovery_s": recovery_s(after, normal_s),
        "after": dict(Counter(call.outcome for call in after)),
    }


def generator_of(mesh: Mesh) -> tuple[str, str]:
    """Its address, and that of its metrics."""
    (instance,) = mesh.serving()["generator"]
    return f"{instance.host}:{instance.port}", f"http://{instance.host}:{instance.metrics_port}/metrics"


def report(row: dict[str, Any]) -> int:
    table = Table(title="three times capacity", title_justify="left", show_header=False)
    for name, value in (
        ("peak, closed loop", f"{row['peak']:.0f} answers/s"),
        ("offered in the burst", f"{row['offered']:.0f} calls/s: {row['burst']}"),
        ("goodput in the burst", f"{row['goodput']:.0f} answers/s, {row['share']:.0%} of the peak"),
        ("answers of the burst, P95", f"{row['burst_p95_s'] * 1_000:.0f} ms"),
        ("the other tenant's calls that were answered", f"{row['guest_ok']:.0%}"),
        ("refusals", f"{row['refusals']:.0f}: {row['why']}"),
        (
            "of those at once, in the server: 2 ms, 10 ms",
            f"{row['refused_in_2_ms']:.2%}, {row['refused_in_10_ms']:.2%}",
        ),
        ("as callers saw it, P50, P99", f"{row['refused_seen_p50_ms']:.1f}, {row['refused_seen_p99_ms']:.1f} ms"),
        ("the event loop's worst lag", f"{row['loop_lag_max_ms']:.0f} ms"),
        ("recovery", f"{row['recovery_s']:.2f} s; before {row['before']}, after {row['after']}"),
    ):
        table.add_row(name, value)
    console.print(table)
    problems = []
    if row["share"] < MIN_GOODPUT:
        problems.append(f"goodput was {row['share']:.0%} of the peak, floor {MIN_GOODPUT:.0%}")
    if row["refused_in_10_ms"] < REFUSALS_IN_TIME:
        problems.append(f"{row['refused_in_10_ms']:.1%} of the refusals took at most 10 ms, floor 99 %")
    if row["recovery_s"] > MAX_RECOVERY_S:
        problems.append(f"recovery took {row['recovery_s']:.1f} s, bound {MAX_RECOVERY_S:.0f} s")
    for problem in problems:
        console.print(f"[red]{problem}")
    console.print("[green]all bounds held" if not problems else f"[red]{len(problems)} missed")
    return 1 if problems else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the burst")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    environ = {
        "WEFT_GENERATOR__MODELS": json.dumps({"slow": MODEL}),
        "WEFT_GENERATOR__MAX_RUNNING": str(PLACES),
    }
    with tempfile.TemporaryDirectory() as name, running_mesh(Path(name), {"generator": 1}, environ=environ) as mesh:
        address, metrics_url = generator_of(mesh)
        row = asyncio.run(measure(address, lambda: httpx.get(metrics_url, timeout=5).text, arguments.seconds))
    if arguments.json:
        print(json.dumps(row, indent=2))
    raise SystemExit(report(row))


if __name__ == "__main__":
    main()

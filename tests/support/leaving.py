"""Callers who go away in the middle of an answer, in a process of their own, and what they leave behind.

    python -m tests.support.leaving HOST:PORT COUNT AT_ONCE

They leave at ``POINTS`` in turn. It prints one JSON object: per caller the trace of the turn and when it was left,
in nanoseconds since the epoch, and what was raised that should not have been.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
import httpx
import psutil

import weft
from tests.support.mesh import ROOT, Mesh, eventually
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc

QUESTION: Final = "How are documents split into passages?"
SLOW: Final = {"slow": "scripted:?tokens=2000&delay_ms=20"}
POINTS: Final = ("Started", "Retrieved", "first text", "third text", "cancelled")


def leave(mesh: Mesh, count: int, *, at_once: int, points: Sequence[str] = POINTS) -> list[dict[str, Any]]:
    """Have so many callers leave; returns what became of each."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.leaving", mesh.address, str(count), str(at_once), *points],
        capture_output=True, text=True, timeout=60 + count, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(done.stderr[-3_000:])
    found: dict[str, Any] = json.loads(done.stdout)
    if found["unexpected"]:
        raise AssertionError(f"{len(found['unexpected'])} turns failed: {found['unexpected'][:3]}")
    left: list[dict[str, Any]] = found["left"]
    return left


def spans_of(mesh: Mesh, turn: dict[str, Any], *, within_s: float = 10.0) -> list[trace_pb2.Span]:
    """The trace of a turn that was left while the generator wrote, once every span of it has ended.

    A span is sent when it ends. One that hasn't is missed by others: a parent by its child, a call's server side by
    its client side, and the two handlers at the ends by name.
    """
    wanted = {"OrchestratorService/Chat", "GeneratorService/Generate"}
    with grpc.insecure_channel(mesh.collector_address) as channel:
        stub = trace_pb2_grpc.TraceServiceStub(channel)

        def ended() -> list[trace_pb2.Span] | None:
            found = list(stub.GetTrace(trace_pb2.GetTraceRequest(trace_id=turn["trace_id"]), timeout=5).spans)
            served = [span for span in found if span.kind == "server"]
            parents = {span.parent_span_id for span in found if span.parent_span_id}
            whole = (
                wanted <= {span.name.rpartition(".")[2] for span in served}
                and parents <= {span.span_id for span in found}
                and {s.span_id for s in found if s.kind == "client"} <= {s.parent_span_id for s in served}
            )
            return found if whole else None

        spans: list[trace_pb2.Span] = eventually(ended, within_s=within_s, what=f"the end of every span of {turn}")
    return spans


def stopped_after_ms(mesh: Mesh, turn: dict[str, Any]) -> float:
    """From a caller's leaving to the end of the generator's handler: two clocks, one machine."""
    ends = [s.end_unix_ns for s in spans_of(mesh, turn) if s.service == "generator" and s.kind == "server"]
    return (max(ends) - float(turn["left_unix_ns"])) / 1e6


def tasks(mesh: Mesh) -> dict[str, float]:
    """asyncio's tasks, by instance."""
    return {i.id: _metric(i, "weft_event_loop_tasks") for i in _instances(mesh)}


def resident_mb(mesh: Mesh) -> dict[str, float]:
    """Resident memory, by process."""
    return {process.name: psutil.Process(process.pid).memory_info().rss / 1e6 for process in mesh.processes}


def wait_idle(mesh: Mesh) -> None:
    """Until no service has a call under way, and what they do behind one (a lease given back, spans sent) is done."""
    eventually(
        lambda: all(_metric(i, "weft_server_calls_in_flight") == 0 for i in _instances(mesh)),
        within_s=40,
        what="no call under way",
    )
    time.sleep(1)


def _instances(mesh: Mesh) -> list[Any]:
    return [instance for instances in mesh.serving().values() for instance in instances]


def _metric(instance: Any, family: str) -> float:
    text = httpx.get(f"http://{instance.host}:{instance.metrics_port}/metrics", timeout=10).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return sum(float(value) for name, _, value in lines if name.partition("{")[0] == family)


class Leaver:
    """Begins answers and leaves them."""

    def __init__(self, client: weft.Client) -> None:
        self._client = client
        self.left: list[dict[str, Any]] = []
        self.unexpected: list[str] = []

    async def one(self, point: str) -> None:
        """Begin an answer and leave it at ``point``."""
        stream = self._client.stream(QUESTION, session=f"leaving-{uuid.uuid4().hex}", model="slow")
        task = asyncio.create_task(self._read(stream, point))
        try:
            await task
        except asyncio.CancelledError:
            pass
        except weft.WeftError as exc:
            self.unexpected.append(f"{point}: {exc}")

    async def _read(self, stream: weft.TurnStream, point: str) -> None:
        texts, trace_id, at_ns = 0, "", 0
        try:
            async for event in stream:
                texts += isinstance(event, weft.TextDelta)
                if isinstance(event, weft.Started):
                    trace_id = event.trace_id
                if point in (type(event).__name__, {1: "first text", 3: "third text"}.get(texts)):
                    break
                if point == "cancelled" and texts == 2:
                    task = asyncio.current_task()
                    assert task is not None
                    at_ns = time.time_ns()  # the call is cancelled on the way out, before `finally` comes
                    task.cancel()  # as a deadline or a closing connection of the application would
            else:
                self.unexpected.append(f"{point}: the answer came to its end")
        finally:
            at_ns = at_ns or time.time_ns()
            with suppress(asyncio.CancelledError):
                await stream.aclose()
            self.left.append({"trace_id": trace_id, "left_unix_ns": at_ns, "point": point})


async def main() -> None:
    address, count, at_once, *points = sys.argv[1:]
    async with weft.Client(address, timeout_s=60) as client:
        leaver, gate = Leaver(client), asyncio.Semaphore(int(at_once))

        async def gated(number: int) -> None:
            async with gate:
                await leaver.one(points[number % len(points)])

        await asyncio.gather(*(gated(number) for number in range(int(count))))
    print(json.dumps({"left": leaver.left, "unexpected": leaver.unexpected}))


if __name__ == "__main__":
    asyncio.run(main())

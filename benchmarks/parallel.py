"""What running retrieval beside tools saves: a turn, against the same calls one after the other.

    python -m benchmarks.parallel [--turns 20]

Retrieval waits 180 ms, each tool call 200 to 800 ms (injected, the same for the same arguments). The
baseline makes the calls of each turn in sequence, through the same mesh and in the same run: search,
each tool, generate. Exits with 1 where the parallel turn is not at least 35 % faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.record import Recorder
from tests.support.mesh import ROOT, Mesh
from tests.support.sdk import in_child
from weft.orchestrator.v1 import orchestrator_pb2

FLOOR: Final = 0.35
console = Console()


def questions(turns: int) -> list[str]:
    """Each needs two or three tools."""
    return [
        f"What is {n} times {n + 7}, how many days from 2026-01-01 to 2026-03-{n % 28 + 1:02d}, "
        f"and how many metres are {n + 2} miles?"
        for n in range(2, turns + 2)
    ]


async def measure(mesh: str, turns: int) -> list[dict[str, float]]:
    recorder = Recorder(mesh)
    await recorder.turn("What is 2 + 2?")  # connections
    rows = []
    for question in questions(turns):
        begin_s = time.perf_counter()
        chat = [m async for m in recorder.chat.Chat(orchestrator_pb2.ChatRequest(question=question), timeout=30)]
        parallel_s = time.perf_counter() - begin_s
        calls = [m.tool_call for m in chat if m.HasField("tool_call")]
        begin_s = time.perf_counter()
        await recorder.replay(question, chat)
        rows.append({"parallel": parallel_s, "sequence": time.perf_counter() - begin_s, "tools": len(calls)})
    return rows


def start(directory: Path) -> Mesh:
    mesh = Mesh(directory)
    mesh.spawn("controlplane", "mesh.controlplane")
    for service in ("orchestrator", "generator"):
        mesh.spawn_service(service)
    mesh.spawn("retriever-0", "benchmarks.slow", arguments=["retriever", "Search", "180", "180"])
    mesh.spawn("tools-0", "benchmarks.slow", arguments=["tools", "CallTool", "200", "800"])
    mesh.wait_ready({"orchestrator": 1, "generator": 1, "retriever": 1, "tools": 1})
    return mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mesh", help=argparse.SUPPRESS)  # the child that asks: a process belongs to one mesh
    arguments = parser.parse_args()
    if arguments.mesh:
        print(json.dumps(asyncio.run(measure(arguments.mesh, arguments.turns))))
        return
    with tempfile.TemporaryDirectory() as name:
        mesh = start(Path(name))
        try:
            in_child(mesh, "ingest", str(ROOT / "docs"))
            command = [sys.executable, "-m", "benchmarks.parallel", "--mesh", mesh.address]
            command += ["--turns", str(arguments.turns)]
            rows = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300).stdout)
        finally:
            mesh.close()
    raise SystemExit(report(rows, arguments.json))


def report(rows: list[dict[str, Any]], as_json: bool) -> int:
    parallel = statistics.mean(r["parallel"] for r in rows)
    sequence = statistics.mean(r["sequence"] for r in rows)
    saved = 1 - parallel / sequence
    found = {
        "turns": len(rows),
        "tools_per_turn": statistics.mean(r["tools"] for r in rows),
        "parallel_mean_ms": parallel * 1_000,
        "sequence_mean_ms": sequence * 1_000,
        "saved": saved,
    }
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        table = Table(title=f"{found['turns']} turns of {found['tools_per_turn']:.1f} tools", title_justify="left")
        for column in ("in parallel, ms", "in sequence, ms", "saved"):
            table.add_column(column, justify="right")
        table.add_row(f"{parallel * 1_000:.0f}", f"{sequence * 1_000:.0f}", f"{saved:.0%}")
        console.print(table)
    return 0 if saved >= FLOOR else 1


if __name__ == "__main__":
    main()

"""What is left of a caller who goes away in the middle of an answer: how soon the generator stops, and what stays.

    python -m benchmarks.cancel [--times 20] [--cancels 1000]

Each caller asks over the mesh, reads some events of an answer that would take 40 s, and leaves, by breaking off or by
being cancelled. **The stop** is the end of the generator's own server span, whose handler ends there: the time from
the caller's leaving to it is read off two processes' clocks, which on one machine are one. Left one by one, for the
time; then 1,000, 25 at once and at five points of a turn, for the memory: resident, of every process, before and
after, and the event loops' tasks.

Before that comes a warm-up of as many: SQLite's page caches, the collector's 1,000 traces, the allocator's pools and
the garbage that waits for its collector fill once. Exits with 1 where a stop took more than 200 ms, a process grew by
more than 5 MB, or a task stayed; a span or a call that never ends fails the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.support import leaving
from tests.support.mesh import ROOT, SERVICES, Mesh, running_mesh
from tests.support.sdk import in_child

STOP_MS: Final = 200.0
GROWTH_MB: Final = 5.0
AT_ONCE: Final = 25
console = Console()


def stops(mesh: Mesh, times: int) -> list[float]:
    """Milliseconds from each leaving to the generator's stop."""
    left = leaving.leave(mesh, times, at_once=1, points=("third text", "cancelled"))
    return [leaving.stopped_after_ms(mesh, turn) for turn in left]


def memory(mesh: Mesh, cancels: int) -> dict[str, dict[str, float]]:
    """By process: resident MB before and after, tasks before and after."""
    leaving.leave(mesh, cancels, at_once=AT_ONCE)
    leaving.wait_idle(mesh)
    before, tasks = leaving.resident_mb(mesh), leaving.tasks(mesh)
    leaving.leave(mesh, cancels, at_once=AT_ONCE)
    leaving.wait_idle(mesh)
    after, tasks_after = leaving.resident_mb(mesh), leaving.tasks(mesh)
    return {
        process.name: {
            "before_mb": before[process.name],
            "after_mb": after[process.name],
            "tasks_before": tasks.get(process.instance_id, 0.0),
            "tasks_after": tasks_after.get(process.instance_id, 0.0),
        }
        for process in mesh.processes
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--cancels", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    environ = {"WEFT_GENERATOR__MODELS": json.dumps(leaving.SLOW)}
    with tempfile.TemporaryDirectory() as name, running_mesh(
        Path(name), dict.fromkeys(SERVICES, 1), environ=environ
    ) as mesh:  # fmt: skip
        in_child(mesh, "ingest", str(ROOT / "docs"))
        times_ms = stops(mesh, arguments.times)
        begin_s = time.perf_counter()
        found = memory(mesh, arguments.cancels)
        console.print(f"2 x {arguments.cancels} left in {time.perf_counter() - begin_s:.0f} s", highlight=False)
    raise SystemExit(report(times_ms, found, arguments))


def report(times_ms: list[float], found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> int:
    row: dict[str, Any] = {"stop_median_ms": statistics.median(times_ms), "stop_max_ms": max(times_ms)}
    row |= {"stops": len(times_ms), "cancels": arguments.cancels, "processes": found}
    if arguments.json:
        print(json.dumps(row, indent=2))
    else:
        median, worst = row["stop_median_ms"], row["stop_max_ms"]
        console.print(f"the generator stops after {median:.1f} ms (median of {len(times_ms)}; {worst:.1f} at most)")
        table = Table(title=f"{arguments.cancels} callers left", title_justify="left")
        table.add_column("")
        for column in ("MB before", "MB after", "grown", "tasks before", "after"):
            table.add_column(column, justify="right")
        for name, one in found.items():
            grown = one["after_mb"] - one["before_mb"]
            megabytes = (f"{mb:.1f}" for mb in (one["before_mb"], one["after_mb"], grown))
            tasks = (f"{count:.0f}" if count else "" for count in (one["tasks_before"], one["tasks_after"]))
            table.add_row(name, *megabytes, *tasks)
        console.print(table)
    problems = [f"a stop took {ms:.0f} ms, bound {STOP_MS:.0f}" for ms in times_ms if ms > STOP_MS]
    for name, one in found.items():
        grown = one["after_mb"] - one["before_mb"]
        if grown > GROWTH_MB:
            problems.append(f"{name} grew by {grown:.1f} MB, bound {GROWTH_MB:.0f}")
        if one["tasks_after"] > one["tasks_before"]:
            problems.append(f"{name} kept {one['tasks_after'] - one['tasks_before']:.0f} tasks")
    for problem in problems:
        console.print(f"[red]{problem}")
    console.print("[green]all bounds held" if not problems else f"[red]{len(problems)} missed")
    return 1 if problems else 0


if __name__ == "__main__":
    main()

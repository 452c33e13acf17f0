"""Full turns through Weft, beside the same hops without it, in alternating rounds of one run.

    python -m benchmarks.turns [--seconds 10] [--rounds 2] [--callers 1,50,200,500]

A turn here is what a user gets: session leased and stored, retrieval, an answer streamed with its
citations, one trace of every hop exported; questions cycle over 200 about the documents that were
ingested, every tenth one needs a tool. Beside it run two baselines with the same message counts and
sizes (benchmarks/chain.py): **bare** gRPC hops, and the services' own **domain** without mesh/. Exits
with 1 where a turn failed or a ratio is under its floor.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from tests.support.mesh import ROOT, SERVICES, Mesh, free_port, running_mesh
from tests.support.sdk import in_child

FLOORS: Final = {"bare": 0.4, "domain": 0.75}
QUESTIONS: Final = 200
POINTERS: Final = frozenset(
    [
        "it",
        "its",
        "itself",
        "they",
        "them",
        "their",
        "this",
        "that",
        "these",
        "those",
        "he",
        "she",
        "his",
        "her",
        "such",
    ]
)
console = Console(width=None if sys.stdout.isatty() else 170)  # piped, a table keeps its lines


class System:
    """One of the three things that are compared."""

    def __init__(self, name: str, where: list[str], processes: dict[str, psutil.Process]) -> None:
        self.name, self.where, self.processes = name, where, processes

    def cpu_s(self) -> dict[str, float]:
        return {name: sum(p.cpu_times()[:2]) for name, p in self.processes.items()}


def questions() -> list[str]:
    """200 questions about the project's own documents; every tenth needs a tool."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for sentence in re.split(r"(?<=[.:])\s+", page.read_text(encoding="utf-8")):
            words = re.findall(r"[A-Za-z][A-Za-z-]+", sentence)
            if len(words) >= 6:
                # words that lean on a session would make another query of each turn
                found.append(
                    "Where do we read of " + " ".join(w for w in words if w.lower() not in POINTERS)[:70] + "?"
                )
    found = sorted(set(found))[: QUESTIONS * 9 // 10]
    tools = [f"What is {n} times {n + 3}?" for n in range(QUESTIONS - len(found))]
    step = max(1, len(found) // max(1, len(tools)))
    for index, question in enumerate(tools):
        found.insert(min(len(found), index * (step + 1)), question)
    return found[:QUESTIONS]


@contextmanager
def chain(kind: str, directory: Path, recording: Path) -> Iterator[System]:
    """A baseline's four processes."""
    ports = {role: free_port() for role in SERVICES}
    peers = json.dumps({role: f"127.0.0.1:{port}" for role, port in ports.items()})
    with ExitStack() as stack:
        processes = {}
        for role, port in ports.items():
            arguments = [sys.executable, "-m", "benchmarks.chain", kind, role, str(port), peers]
            arguments += [str(recording)] if kind == "bare" else []
            process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, env=environment(directory))
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            processes[role] = process
        for role, process in processes.items():
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"ready":
                raise SystemExit(f"the {kind} baseline's {role} did not start")
        yield System(
            kind,
            ["--address", f"127.0.0.1:{ports['orchestrator']}"],
            {role: psutil.Process(process.pid) for role, process in processes.items()},
        )


def environment(directory: Path) -> dict[str, str]:
    import os  # the one place that hands the environment on

    return {**os.environ, "WEFT_STORE": f"sqlite:///{directory}", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}


def measure(system: System, arguments: argparse.Namespace, load: list[str]) -> dict[str, Any]:
    """One round: what the load saw, and what each process spent."""
    command = [sys.executable, "-m", "benchmarks.load", *system.where, *load, "--questions", str(arguments.questions)]
    command += ["--seconds", str(arguments.seconds)]
    before = system.cpu_s()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=arguments.seconds + 90, check=False
    )
    after = system.cpu_s()
    if done.returncode:
        raise SystemExit(f"the load on {system.name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # The warm-up's turns cost CPU too: scale by the share of the time that was measured.
    share = arguments.seconds / (arguments.seconds + 2.0)
    turns = max(1, found["turns"])
    found["cpu_ms"] = {name: (after[name] - before[name]) * share * 1_000 / turns for name in after}
    return found


def middle(rounds: list[dict[str, Any]], key: str) -> float:
    return statistics.median(r[key] for r in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", default="1,50,200,500")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        arguments.questions = directory / "questions.json"
        arguments.questions.write_text(json.dumps(questions()), encoding="utf-8")
        mesh = stack.enter_context(running_mesh(directory, dict.fromkeys(SERVICES, 1)))
        in_child(mesh, "ingest", str(ROOT / "docs"), str(ROOT / "README.md"))
        recording = directory / "recording.pickle"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.record", mesh.address, str(arguments.questions), str(recording)],
            cwd=ROOT, check=True, timeout=300,
        )  # fmt: skip
        systems = [
            weft_system(mesh),
            stack.enter_context(chain("bare", directory, recording)),
            stack.enter_context(chain("domain", directory, recording)),
        ]
        report = closed_loop(systems, arguments)
        report += open_loop(systems, arguments, report)
    if arguments.json:
        print(json.dumps(report, indent=2))
    raise SystemExit(verdict(report))


def weft_system(mesh: Mesh) -> System:
    processes = {role: psutil.Process(mesh.named(f"{role}-")[0].pid) for role in SERVICES}
    others = {name: psutil.Process(mesh.named(name)[0].pid) for name in ("controlplane", "collector")}
    return System("weft", ["--mesh", mesh.address], {**processes, **others})


def closed_loop(systems: list[System], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    report = []
    for callers in [int(c) for c in arguments.callers.split(",")]:
        rounds: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
        for _ in range(arguments.rounds):
            for system in systems:
                rounds[system.name].append(measure(system, arguments, ["--callers", str(callers)]))
        report.append(show(f"closed loop, {callers} callers", rounds, {"callers": callers}))
    return report


def open_loop(
    systems: list[System], arguments: argparse.Namespace, closed: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Arrivals at 60 % of what Weft did closed: does the queue stay short?"""
    rate = 0.6 * max(row["weft"]["turns_per_s"] for row in closed)
    rounds: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
    for system in systems:
        rounds[system.name].append(measure(system, arguments, ["--rate", f"{rate:.1f}"]))
    return [show(f"open loop, {rate:.0f} turns/s", rounds, {"rate": rate})]


def show(title: str, rounds: dict[str, list[dict[str, Any]]], row: dict[str, Any]) -> dict[str, Any]:
    table = Table(title=title, title_justify="left")
    for column in (
        "",
        "turns/s",
        "ratio",
        "mean ms",
        "P50",
        "P95",
        "P99",
        "first text",
        "failed",
        "cpu-ms a turn, by process",
    ):
        table.add_column(column, justify="left" if column.startswith("cpu") or not column else "right")
    for name, found in rounds.items():
        row[name] = {
            key: middle(found, key)
            for key in (
                "turns_per_s",
                "mean_ms",
                "p50_ms",
                "p95_ms",
                "p99_ms",
                "first_text_p50_ms",
                "messages_per_turn",
            )
        }
        row[name]["failed"] = sum(r["failed"] for r in found)
        row[name]["failures"] = [f for r in found for f in r["failures"]][:3]
        row[name]["cpu_ms"] = {k: statistics.median(r["cpu_ms"][k] for r in found) for k in found[0]["cpu_ms"]}
    for name in rounds:
        mine = row[name]
        # pair by pair, so that a drifting machine cancels out
        pairs = [
            w["turns_per_s"] / max(0.01, o["turns_per_s"]) for w, o in zip(rounds["weft"], rounds[name], strict=True)
        ]
        mine["ratio"] = statistics.median(pairs)
        cpu = " ".join(f"{k} {v:.2f}" for k, v in mine["cpu_ms"].items())
        table.add_row(
            name, f"{mine['turns_per_s']:.0f}", "" if name == "weft" else f"{mine['ratio']:.2f}",
            *(f"{mine[k]:.1f}" for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "first_text_p50_ms")),
            str(mine["failed"]), f"{sum(mine['cpu_ms'].values()):.2f}: {cpu}",
        )  # fmt: skip
    console.print(table)
    for name in rounds:
        for failure in row[name]["failures"]:
            console.print(f"[red]{name}: {failure}")
    return row


def verdict(report: list[dict[str, Any]]) -> int:
    problems = []
    for row in report:
        label = f"{row['callers']} callers" if "callers" in row else f"{row['rate']:.0f}/s"
        if row["weft"]["failed"]:
            problems.append(f"{label}: {row['weft']['failed']} turns failed")
        if "callers" in row:
            problems += [
                f"{label}: {row[name]['ratio']:.2f} of {name}, floor {floor}"
                for name, floor in FLOORS.items()
                if row["callers"] > 1 and row[name]["ratio"] < floor
            ]
    for problem in problems:
        console.print(f"[red]{problem}")
    console.print("[green]all floors held" if not problems else f"[red]{len(problems)} missed")
    return 1 if problems else 0


if __name__ == "__main__":
    main()

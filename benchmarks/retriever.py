"""The retriever as a service, beside its own index and BM25 called directly in one process.

    python -m benchmarks.retriever [--sizes 1000,10000,100000] [--million] [--rounds 3] [--ingest-chunks 2000]

Collections are synthetic (benchmarks/filling.py): Zipf's words, clustered vectors of 384 dimensions, written through
the change log's port and joined into segments as a replica does. The service is a real process in a real mesh
(control plane, registry, collector of traces); only its embedder is ``synthetic:``, so that searching is measured and
not a model. **Direct** is ``finding.find``, the one domain call behind a search, on the same segments from the same
files, on one thread or as many as the service has, whichever does more; nothing around it: no wire, no event loop,
no process that asks.

Rates are of 50 callers in closed loop with ``allow_cached=false``, direct and service in alternating rounds; the load
runs in a process of its own on the same processors and counts against the service. Then, at the size that floors
hold for: an open loop at 60 % of the service's rate; the same question asked again and again, answered from memory,
closed, then open at 60 % of that rate, then five a second beside 60 % of uncached load. A start is from exec to SERVING
on a snapshot whose pages are in the page cache. Memory: ``own`` is anonymous; ``mapped`` is shared between the
replicas of a machine and given back when it needs it; a passage's share is what grew since the smallest size.

Ingest: real documents (the project's own, shuffled) with the real ``minilm:``, until they can be searched, beside the
bare embedder on as many threads over the same passages. 10,000 passages take some minutes; the default is 2,000.

Exits with 1 where a search failed or a floor or bound is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.beside import Direct, ingest_rounds
from benchmarks.embedders.synthetic import Synthetic
from benchmarks.filling import queries
from benchmarks.hosting import Hosted, hosted
from tests.support.mesh import ROOT

FLOOR_SIZE: Final = 100_000
LEAST_RATIO: Final = 0.5
LEAST_INGEST: Final = 0.8
OPEN_SHARE: Final = 0.6
MOST_OPEN_P99_MS: Final = 300.0
MOST_CACHED_P95_MS: Final = 10.0
MOST_START_S: Final = 5.0
MOST_MIB_OF_A_MILLION: Final = 4_096
QUERIES: Final = 200
STARTS: Final = 3
CALLERS: Final = 50
BESIDE_RATE: Final = 5.0
console = Console()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", default=f"1000,10000,{FLOOR_SIZE}", help="passages, separated by commas; '' for none"
    )
    parser.add_argument("--million", action="store_true", help="a million passages, too: ten minutes and 7 GB of disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round")
    parser.add_argument("--ingest-chunks", type=int, default=2_000, help="0 for no ingest")
    parser.add_argument("--stores", type=Path, help="keep the filled stores here and use them again")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, too")
    arguments = parser.parse_args(argv)
    sizes = [int(size) for size in arguments.sizes.split(",") if size] + [1_000_000] * arguments.million
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        questions = directory / "questions.json"
        questions.write_text(json.dumps(queries(QUERIES)), encoding="utf-8")
        stores = arguments.stores or directory / "stores"
        report: dict[str, Any] = {"sizes": []}
        for rows in sorted(sizes):
            filled(stores / str(rows), rows)
            work = directory / f"mesh-{rows}"
            with console.status(f"measuring {rows:,} passages"):
                report["sizes"].append(of_size(stores / str(rows), rows, work, questions, arguments))
        if report["sizes"]:
            show_sizes(report["sizes"])
        for row in report["sizes"]:
            if "open" in row:
                show_loads(row)
        if arguments.ingest_chunks:
            with console.status("measuring ingest"), ingest_service(directory / "ingest") as service:
                report["ingest"] = ingest_rounds(service, directory / "ingest", arguments.ingest_chunks)
            show_ingest(report["ingest"])
    if arguments.json:
        print(json.dumps(report, indent=2))
    return verdict(report)


def filled(store: Path, rows: int) -> None:
    """Make a store unless it is there."""
    if (store / "snapshots").exists():
        return
    store.mkdir(parents=True, exist_ok=True)
    with console.status(f"filling a collection of {rows:,} passages"):
        subprocess.run([sys.executable, "-m", "benchmarks.filling", str(store), str(rows)], cwd=ROOT, check=True)


def ingest_service(directory: Path) -> Any:
    """A mesh with an empty store and the real embedder."""
    directory.mkdir()
    return hosted(directory, directory / "store", "minilm:")


def of_size(store: Path, rows: int, work: Path, questions: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is measured with one collection."""
    work.mkdir()
    with ExitStack() as stack:
        service = stack.enter_context(hosted(work, store, Synthetic(rows).url))
        starts_s = [service.started_s] + [service.restart() for _ in range(STARTS - 1)]
        row: dict[str, Any] = {"rows": rows, "start_s": statistics.median(starts_s)}
        alone = load(service, questions, arguments.seconds, "--callers", "1")
        row["alone"] = alone
        direct = stack.enter_context(Direct.of(store, rows, json.loads(questions.read_text(encoding="utf-8"))))
        row["segments"] = direct.segments
        rounds: dict[str, list[dict[str, Any]]] = {"direct": [], "service": []}
        for _ in range(arguments.rounds):
            rounds["direct"].append(direct.round(arguments.seconds))
            rounds["service"].append(load(service, questions, arguments.seconds, "--callers", str(CALLERS)))
        for name, found in rounds.items():
            row[name] = {
                key: statistics.median(one[key] for one in found) for key in ("rate", "p50_ms", "p99_ms", "cpu_ms")
            }
        pairs = zip(rounds["service"], rounds["direct"], strict=True)
        row["ratio"] = statistics.median(mine["rate"] / theirs["rate"] for mine, theirs in pairs)
        row["memory"] = service.memory_mib()
        done = [alone, *rounds["service"]]
        if rows >= FLOOR_SIZE:
            done += other_loads(service, questions, row, arguments)
        row["failed"] = sum(one["failed"] for one in done)
        row["failures"] = [failure for one in done for failure in one["failures"]][:3]
        return row


def other_loads(
    service: Hosted, questions: Path, row: dict[str, Any], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Open loops, and questions that are answered from memory. Both need time enough for their tails."""
    seconds = 2 * arguments.seconds
    rate = OPEN_SHARE * row["service"]["rate"]
    row["open"] = load(service, questions, seconds, "--rate", f"{rate:.1f}")
    row["cached"] = load(service, questions, arguments.seconds, "--callers", str(CALLERS), "--cached")
    cached_rate = OPEN_SHARE * row["cached"]["rate"]
    row["cached_open"] = load(service, questions, arguments.seconds, "--rate", f"{cached_rate:.1f}", "--cached")
    row["cached_beside"] = load(
        service, questions, seconds, "--rate", f"{BESIDE_RATE}", "--cached", "--beside", f"{rate:.1f}"
    )
    return [row[name] for name in ("open", "cached", "cached_open", "cached_beside")]


def load(service: Hosted, questions: Path, seconds: float, *how: str) -> dict[str, Any]:
    """One round of the load, and the service's CPU for each search."""
    command = [sys.executable, "-m", "benchmarks.searching", "--mesh", service.mesh.address]
    command += ["--questions", str(questions), "--seconds", str(seconds), *how]
    before_s = service.cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + 90, check=False)
    spent_s = service.cpu_s() - before_s
    if done.returncode:
        raise SystemExit(f"the load failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["cpu_ms"] = spent_s * 1_000 / found["asked"]
    return found


# -- tables ---------------------------------------------------------------------------------------------


def table(title: str, *columns: str) -> Table:
    """A table whose first column says what a row is of."""
    made = Table(title=title, title_justify="left", padding=0, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def show_sizes(rows: Sequence[dict[str, Any]]) -> None:
    """How cost grows with the collection."""
    rates = table(
        f"searches a second, {CALLERS} callers, closed loop, nothing cached (alone: one caller)",
        "passages", "parts", "direct", "service", "ratio", "direct\ncpu-ms", "service\ncpu-ms",
        "P50\nms", "P99\nms", "alone\nP50", "alone\nP99",
    )  # fmt: skip
    costs = table(
        "what a replica takes",
        "passages", "start s", "own MiB", "mapped MiB", "own bytes\na passage", "mapped bytes\na passage",
    )  # fmt: skip
    for row in rows:
        direct, service, memory = row["direct"], row["service"], row["memory"]
        rates.add_row(
            f"{row['rows']:,}", str(row["segments"]),
            f"{direct['rate']:.0f}", f"{service['rate']:.0f}", f"{row['ratio']:.2f}",
            f"{direct['cpu_ms']:.2f}", f"{service['cpu_ms']:.2f}",
            f"{service['p50_ms']:.1f}", f"{service['p99_ms']:.1f}",
            f"{row['alone']['p50_ms']:.1f}", f"{row['alone']['p99_ms']:.1f}",
        )  # fmt: skip
        grown = row["rows"] - rows[0]["rows"]
        shares = [
            f"{(memory[kind] - rows[0]['memory'][kind]) * 2**20 / grown:,.0f}" if grown else ""
            for kind in ("own", "mapped")
        ]
        costs.add_row(
            f"{row['rows']:,}", f"{row['start_s']:.2f}", f"{memory['own']:.0f}", f"{memory['mapped']:.0f}", *shares
        )
    console.print(rates)
    console.print(costs)


def show_loads(row: dict[str, Any]) -> None:
    """Open loops, and cached answers."""
    shown = table(f"{row['rows']:,} passages", "", "searches/s", "P50 ms", "P95", "P99", "failed")
    labels = {
        "open": "open loop at 60 % of the rate",
        "cached": f"one question, cached, {CALLERS} callers",
        "cached_open": "the same, open loop at 60 % of that",
        "cached_beside": "that question beside the first row",
    }
    for name, label in labels.items():
        one = row[name]
        figures = [f"{one[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
        shown.add_row(label, f"{one['rate']:.0f}", *figures, str(one["failed"]))
    console.print(shown)


def show_ingest(found: dict[str, Any]) -> None:
    """Ingest beside the embedder."""
    shown = table("ingest, minilm:", "", "passages", "passages/s", "ratio")
    shown.add_row("bare embedder", f"{found['passages']:,}", f"{found['bare_rate']:.1f}", "")
    shown.add_row("service", f"{found['passages']:,}", f"{found['rate']:.1f}", f"{found['ratio']:.2f}")
    console.print(shown)


def verdict(report: dict[str, Any]) -> int:
    """Say what was missed; the exit code."""
    problems = []
    for row in report["sizes"]:
        size = f"{row['rows']:,} passages"
        if row["failed"]:
            problems.append(f"{size}: {row['failed']} searches failed: {row['failures']}")
        if row["rows"] < FLOOR_SIZE:
            continue
        memory_mib = sum(row["memory"].values())
        checks = [
            (
                row["rows"] > FLOOR_SIZE or row["ratio"] >= LEAST_RATIO,
                f"{row['ratio']:.2f} of direct, floor {LEAST_RATIO}",
            ),
            (row["open"]["p99_ms"] <= MOST_OPEN_P99_MS, f"open loop P99 {row['open']['p99_ms']:.0f} ms"),
            (row["cached_open"]["p95_ms"] < MOST_CACHED_P95_MS, f"cached P95 {row['cached_open']['p95_ms']:.1f} ms"),
            (row["rows"] > FLOOR_SIZE or row["start_s"] <= MOST_START_S, f"start {row['start_s']:.1f} s"),
            (row["rows"] > 1_000_000 or memory_mib <= MOST_MIB_OF_A_MILLION, f"{memory_mib:.0f} MiB"),
        ]
        problems += [f"{size}: {what}" for held, what in checks if not held]
    ingest = report.get("ingest")
    if ingest and ingest["ratio"] < LEAST_INGEST:
        problems.append(f"ingest: {ingest['ratio']:.2f} of the bare embedder, floor {LEAST_INGEST}")
    for problem in problems:
        console.print(f"[red]{problem}")
    console.print("[green]all floors held" if not problems else f"[red]{len(problems)} missed")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

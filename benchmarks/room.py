"""How soon the replica with room is picked, and how clearly.

    python -m benchmarks.room [--times 4] [--streams 96]

Two generators whose model says a token a second, and a caller who opens a short stream over the mesh every 20 ms.
Then one of the two is loaded by hand, with long streams opened at its own address, past the balancer: what the
caller sees of them is the load report alone, since none of them ends. It has shifted with the first 25 streams in a
row of which at most a fifth go to the loaded one; the time counts from the first of the long streams to the last of
those 25, and how the split is afterwards from the first of them. Then the caller opens one long stream a second and
keeps them, so that for seconds no call ends anywhere. Then all load goes, and the other is loaded.

A report takes up to a second, and so does the balancer's next look at it; the loaded replica keeps the one in
twenty that gRPC gives to each. Exits with 1 where the median shift takes over 5 s, or over a fifth stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.support.mesh import Mesh
from tests.support.streams import Streams, loaded_by_hand, streams_over

MODEL: Final = "scripted:?tokens=100000&first_delay_ms=0&delay_ms=1000"
EVERY_S: Final = 0.02
WINDOW: Final = 25  # streams
SHIFTED: Final = 0.2  # of a window to the loaded one, at most
SHIFT_BOUND_S: Final = 5.0
CALM_S: Final = 4.0
OBSERVED_S: Final = 10.0
KEPT: Final = 9  # one more, all of them left at once, and a replica would pass for failing
console = Console()

Opened = list[tuple[float, str]]


def share(opened: Opened, name: str) -> float:
    return sum(model == name for _, model in opened) / max(1, len(opened))


def shifted_at(opened: Opened, name: str) -> int:
    """Which stream begins the first window with few enough to ``name``; the number of all where none does."""
    for first in range(len(opened) - WINDOW + 1):
        if share(opened[first : first + WINDOW], name) <= SHIFTED:
            return first
    return len(opened)


def one_round(streams: Streams, name: str, address: str, count: int) -> dict[str, Any]:
    """Load ``name`` by hand beside a caller who goes on."""
    before = streams.open(round(CALM_S / EVERY_S), every_s=EVERY_S)
    with ThreadPoolExecutor(1) as caller:
        calling = caller.submit(streams.open, round(OBSERVED_S / EVERY_S), every_s=EVERY_S)
        begin_s = time.time()
        with loaded_by_hand(address, count):
            opened = [(at_s, model) for at_s, model in calling.result() if at_s >= begin_s]
            kept = streams.open(KEPT, every_s=1.0, keep=True)
            streams.leave()
    first = shifted_at(opened, name)
    return {
        "loaded": name,
        "before": share(before[len(before) // 2 :], name),
        "after": share(opened[first:], name),
        "long": share(kept, name),
        "shift_s": opened[first + WINDOW - 1][0] - begin_s if first < len(opened) else float("inf"),
        "streams_per_s": len(opened) / (opened[-1][0] - opened[0][0]),
    }


def measured(times: int, count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        mesh = Mesh(Path(directory))
        try:
            mesh.spawn("controlplane", "mesh.controlplane")
            ids = {
                name: mesh.spawn_service("generator", WEFT_GENERATOR__MODELS=json.dumps({name: MODEL})).instance_id
                for name in ("a", "b")
            }
            mesh.wait_ready({"generator": 2})
            addresses = {i.id: f"{i.host}:{i.port}" for i in mesh.serving()["generator"]}
            with streams_over(mesh.address) as streams:
                loaded = ["ab"[number % 2] for number in range(times)]
                return [one_round(streams, name, addresses[ids[name]], count) for name in loaded]
        finally:
            mesh.close()


def report(rows: list[dict[str, Any]], count: int) -> int:
    table = Table(title=f"one of two generators loaded with {count} long streams", title_justify="left")
    for column in ("loaded", "its share before", "after", "of long ones", "shift s", "streams/s"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = (f"{row[key]:.2f}" for key in ("before", "after", "long"))
        table.add_row(row["loaded"], *shares, f"{row['shift_s']:.1f}", f"{row['streams_per_s']:.0f}")
    console.print(table)
    shift_s = statistics.median(row["shift_s"] for row in rows)
    after = statistics.median(row["after"] for row in rows)
    console.print(f"median: shifts after {shift_s:.1f} s, {after:.0%} stay", highlight=False)
    return 1 if shift_s > SHIFT_BOUND_S or after > SHIFTED else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=4, help="rounds; the loaded one alternates")
    parser.add_argument("--streams", type=int, default=96, help="long streams by hand")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measured(arguments.times, arguments.streams)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    raise SystemExit(report(rows, arguments.streams) if not arguments.json else 0)


if __name__ == "__main__":
    main()

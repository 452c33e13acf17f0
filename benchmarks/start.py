"""Cold starts: from a process's exec to SERVING, for the generator and the retriever as they are by default.

    python -m benchmarks.start [--rounds 5]

Each process is started alone, with nothing to register with, and ended once it serves. It says itself how long it took
from its exec (the log line "serving on …", `weft_start_seconds`), which tests/unit/test_app.py holds to the truth. The
files are in the system's cache from the second round on, as on a machine where the image was pulled ahead. MiniLM must
have been prepared: `weft models pull`. Exits with 1 where a median is over BOUND_S.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Final

from rich.console import Console
from rich.table import Table

BOUND_S: Final = 5.0
TIMEOUT_S: Final = 60.0
SERVING: Final = re.compile(r"serving on .*?, ([0-9.]+) s after exec")
CASES: Final = {
    "generator, extractive:": ("services.generator", {}),
    "retriever, none:": ("services.retriever", {"WEFT_RETRIEVER__EMBEDDER": "none:"}),
    "retriever, minilm:": ("services.retriever", {"WEFT_RETRIEVER__EMBEDDER": "minilm:"}),
    "tools": ("services.tools", {}),
    "orchestrator": ("services.orchestrator", {}),
}


def start(module: str, more: dict[str, str]) -> float:
    """Start a process and end it when it serves; returns what it says it took."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "OTEL_"))}
    with tempfile.TemporaryDirectory() as folder:
        environ = {**kept, "WEFT_STORE": f"sqlite:///{folder}", "WEFT_MESH": "127.0.0.1:9", **more}
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        try:
            said: list[str] = []
            for line in process.stdout:
                said.append(line)
                if (found := SERVING.search(line)) is not None:
                    return float(found[1])
            raise SystemExit(f"{module} ended before it served:\n{''.join(said)}")
        finally:
            process.kill()
            process.wait(TIMEOUT_S)


def main() -> int:
    """Run all cases in alternating rounds; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure cold starts.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    told: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, (module, more) in CASES.items():
            told[name].append(start(module, more))
    table = Table("process", "median s", "worst s")
    for name, took_s in told.items():
        table.add_row(name, f"{statistics.median(took_s):.2f}", f"{max(took_s):.2f}")
    Console().print(table)
    slow = [name for name in CASES if statistics.median(told[name]) > BOUND_S]
    if slow:
        print(f"over {BOUND_S:g} s: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())

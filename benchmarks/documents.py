"""What a big document costs the searches beside it.

    python -m benchmarks.documents [--pages 300] [--rounds 3] [--rate 20] [--seconds 8] [--embedder minilm:]

A real retriever, in a mesh, holds a book of its own. Searches begin at random moments of a mean rate, whatever their
answers do, each with words of its own so that no cache answers: while nothing else happens, then while a PDF of
``--pages`` pages goes in, for as long as that takes, and so on in turns. Times count from when a search should have
begun. ``others`` is how many processors were busy with something else than the mesh and this process: a round
beside a busy neighbour tells little.

Exits with 1 where the median of the rounds' ratios, P95 beside the ingest to P95 at rest, is over 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

import weft
from benchmarks.load import percentile
from tests.support.documents import page_of_words, pdf
from tests.support.mesh import running_mesh

BOUND: Final = 2.0
_WARM_UP_S: Final = 2.0
_WORDS: Final = [
    "a", "control", "plane", "keeps", "the", "catalogue", "of", "every", "service", "and", "pushes", "routes", "to",
    "its", "clients", "while", "the", "old", "ones", "drain", "slowly", "when", "memory", "runs", "out", "someone",
    "reads", "the", "log", "and", "finds", "which", "index", "was", "merged", "before", "the", "lease", "was",
    "lost", "under", "load", "every", "queue", "has", "a", "bound", "and", "each", "answer", "names", "the", "page",
    "it", "came", "from", "so", "that", "people", "can", "check", "it",
]  # fmt: skip
console = Console()


def book(pages: int, seed: int) -> bytes:
    """A PDF of sentences; each page has some 350 words under a heading."""
    rng = random.Random(seed)

    def page(number: int) -> str:
        return " ".join(
            f"{' '.join(rng.choices(_WORDS, k=14)).capitalize()} {rng.randrange(10**6)}." for _ in range(23)
        )

    return pdf([page_of_words(page(number), heading=f"Chapter {number}") for number in range(1, pages + 1)])


async def search(client: weft.Client, rate: float, until: asyncio.Event, seed: int) -> list[float]:
    """Search until told to stop; returns how long each search took, in milliseconds, in order."""
    rng = random.Random(seed)
    took_ms: list[float] = []

    async def one(due_s: float) -> None:
        query = f"{' '.join(rng.sample(_WORDS, 6))} {rng.randrange(10**6)}"
        await client.search(query, allow_cached=False, timeout_s=30)
        took_ms.append((time.perf_counter() - due_s) * 1_000)

    due_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        while not until.is_set():
            due_s += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.create_task(one(due_s))
    return sorted(took_ms)


class Others:
    """How many processors were at work for others than this process and its descendants, since it was made."""

    def __init__(self) -> None:
        self._began_s, self._busy_s, self._own_s = self._now()

    def processors(self) -> float:
        """The mean since then."""
        now_s, busy_s, own_s = self._now()
        return max(0.0, (busy_s - self._busy_s) - (own_s - self._own_s)) / (now_s - self._began_s)

    def _now(self) -> tuple[float, float, float]:
        times, own_s = psutil.cpu_times(), 0.0
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                own_s += sum(process.cpu_times()[:2])
        busy_s = times.user + times.nice + times.system + getattr(times, "steal", 0.0)
        return time.perf_counter(), busy_s, own_s


@dataclass(frozen=True, slots=True)
class Phase:
    """Searches of a while: their times in order, and how busy others were."""

    times_ms: list[float]
    others: float
    took_s: float

    @property
    def p95_ms(self) -> float:
        return percentile(self.times_ms, 0.95)


async def searched(client: weft.Client, rate: float, seed: int, meanwhile: Awaitable[object]) -> Phase:
    """Search until ``meanwhile`` is over."""
    stop, others, began_s = asyncio.Event(), Others(), time.perf_counter()
    searches = asyncio.create_task(search(client, rate, stop, seed))
    try:
        await meanwhile
        took_s, busy = time.perf_counter() - began_s, others.processors()
    finally:
        stop.set()
    return Phase(await searches, busy, took_s)


async def run(address: str, arguments: argparse.Namespace) -> list[tuple[Phase, Phase]]:
    """At rest and beside the ingest, in turns."""
    rounds: list[tuple[Phase, Phase]] = []
    async with weft.Client(address) as client:
        await client.ingest(weft.Document("there.pdf", book(60, seed=1)))
        await searched(client, arguments.rate, 2, asyncio.sleep(_WARM_UP_S))

        async def ingest(document: weft.Document) -> None:
            result = await client.ingest(document, timeout_s=600)
            assert not result.failed, result

        for number in range(arguments.rounds):
            big = weft.Document("big.pdf", book(arguments.pages, seed=10 + number))
            at_rest = await searched(client, arguments.rate, 100 + number, asyncio.sleep(arguments.seconds))
            rounds.append((at_rest, await searched(client, arguments.rate, 200 + number, ingest(big))))
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="searches a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured at rest, each time")
    parser.add_argument("--embedder", default="minilm:")
    arguments = parser.parse_args()
    environ = {"WEFT_RETRIEVER__EMBEDDER": arguments.embedder}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_mesh(Path(directory), {"retriever": 1}, environ=environ) as mesh,
    ):
        rounds = asyncio.run(run(mesh.address, arguments))
    table = Table(title=f"{arguments.rate:g} searches/s, at rest and beside {arguments.pages} pages")
    for column in (
        "P50 ms",
        "P95 ms",
        "P99 ms",
        "beside: P50 ms",
        "P95 ms",
        "P99 ms",
        "pages/s",
        "others",
        "P95 ratio",
    ):
        table.add_column(column, justify="right")
    ratios = []
    for phases in rounds:
        at_rest, beside = phases
        ratios.append(beside.p95_ms / at_rest.p95_ms)
        times = [f"{percentile(phase.times_ms, share):.1f}" for phase in phases for share in (0.5, 0.95, 0.99)]
        others = f"{at_rest.others:.2f}, {beside.others:.2f}"
        table.add_row(*times, f"{arguments.pages / beside.took_s:.1f}", others, f"{ratios[-1]:.2f}")
    console.print(table)
    ratio = statistics.median(ratios)
    console.print(f"P95 beside the ingest is {ratio:.2f} of that at rest (median of the rounds); at most {BOUND:g}")
    return int(ratio > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())

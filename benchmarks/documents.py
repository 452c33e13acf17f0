"""What a big document costs the searches beside it.

    python -m benchmarks.documents [--pages 300] [--rate 20] [--seconds 8] [--embedder minilm:]

A real retriever, in a mesh, holds a book of its own. Searches begin at random moments of a mean rate, whatever their
answers do, each with words of its own so that no cache answers: first while nothing else happens, then while a PDF
of ``--pages`` pages goes in, for as long as that takes. Times count from when a search should have begun.

Exits with 1 where the P95 beside the ingest is over twice the P95 at rest.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Final

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


async def run(address: str, arguments: argparse.Namespace) -> tuple[list[float], list[float], float, int]:
    """Times at rest, times beside the ingest, how long that took, and how many passages it made."""
    async with weft.Client(address) as client:
        await client.ingest(weft.Document("there.pdf", book(60, seed=1)))
        stop = asyncio.Event()
        warm = asyncio.create_task(search(client, arguments.rate, stop, seed=2))
        await asyncio.sleep(_WARM_UP_S)
        stop.set()
        await warm
        stop = asyncio.Event()
        rest = asyncio.create_task(search(client, arguments.rate, stop, seed=3))
        await asyncio.sleep(arguments.seconds)
        stop.set()
        at_rest = await rest
        big = weft.Document("big.pdf", book(arguments.pages, seed=4))
        stop = asyncio.Event()
        beside = asyncio.create_task(search(client, arguments.rate, stop, seed=5))
        began_s = time.perf_counter()
        result = await client.ingest(big, timeout_s=600)
        took_s = time.perf_counter() - began_s
        stop.set()
        assert not result.failed, result
        return at_rest, await beside, took_s, result.chunks


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20.0, help="searches a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured at rest")
    parser.add_argument("--embedder", default="minilm:")
    arguments = parser.parse_args()
    environ = {"WEFT_RETRIEVER__EMBEDDER": arguments.embedder}
    with (
        tempfile.TemporaryDirectory() as directory,
        running_mesh(Path(directory), {"retriever": 1}, environ=environ) as mesh,
    ):
        at_rest, beside, took_s, chunks = asyncio.run(run(mesh.address, arguments))
    table = Table(
        title=f"{arguments.pages} pages, {chunks} passages in {took_s:.1f} s: {arguments.pages / took_s:.0f} pages/s"
    )
    for column in ("", "searches", "P50 ms", "P95 ms", "P99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in (("at rest", at_rest), ("beside the ingest", beside)):
        table.add_row(name, str(len(times)), *(f"{percentile(times, share):.1f}" for share in (0.5, 0.95, 0.99)))
    console.print(table)
    ratio = percentile(beside, 0.95) / percentile(at_rest, 0.95)
    console.print(f"P95 beside the ingest is {ratio:.2f} of that at rest; at most {BOUND:g}")
    return int(ratio > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())

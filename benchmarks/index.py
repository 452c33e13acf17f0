"""What the retriever's indexes cost as a collection grows: time, memory, recall, and starting from a snapshot.

    python -m benchmarks.index kinds [--rows 100000]    flat against inverted file against HNSW, on vectors alone
    python -m benchmarks.index grow [--rows 100000]     a whole collection: built, joined, stored, loaded, searched

All data is synthetic, seeded and made here: texts of 80 words in Zipf's distribution, eight passages to a document;
vectors of 384 dimensions about ``rows / 200`` centres in a space of 32 dimensions with noise in all of them. Two sets:
*apart*, where clusters hardly touch, and *overlapping*, where a passage's neighbours lie in many of them. Queries are
vectors of the same kind that are not in the collection. One thread. ``grow`` starts a process of its own for each
step, so that memory is that of a replica which has begun from the snapshot: ``anon`` is its own, ``file`` is mapped
from the snapshot, shared between replicas and given back when the machine needs it.

Exits with 1 where recall@10 falls below 0.95, or a start from 100,000 passages takes more than 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.plugins import Url
from services.retriever.indexes import _ivf
from services.retriever.indexes import faiss as plugin
from services.retriever.ports import StoredDocument
from services.retriever.replicas import merging
from services.retriever.replicas.replica import State
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.segments.joining import join
from services.retriever.segments.view import View
from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors

DIMENSION, LATENT, PASSAGES, WORDS, PAGE = 384, 32, 8, 80, 4_096
SPREADS = {"apart": 0.5, "overlapping": 1.5}
QUERIES, K, CANDIDATES = 200, 10, 50
LEAST_RECALL, MOST_START_S = 0.95, 5.0
KEY = CollectionKey("benchmark", "index")
COLLECTION = Collection(KEY, 1, "synthetic:", "synthetic:", DIMENSION, 0.0, 1)
LOG_ID = "0" * 32


class Clustered:
    """Vectors without end, drawn about the same centres."""

    def __init__(self, rows: int, spread: float) -> None:
        chance = np.random.default_rng(0)
        self._projection = chance.standard_normal((LATENT, DIMENSION)).astype(np.float32)
        self._centres = chance.standard_normal((max(10, rows // 200), LATENT)).astype(np.float32)
        self._spread = spread

    def draw(self, count: int, seed: int) -> Vectors:
        """So many of length 1."""
        chance = np.random.default_rng(seed + 1)
        latent = self._centres[chance.integers(0, len(self._centres), count)]
        latent = latent + self._spread * chance.standard_normal((count, LATENT), np.float32)
        rows = latent @ self._projection + chance.standard_normal((count, DIMENSION), np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description="Cost of the retriever's indexes.")
    parser.add_argument("what", choices=("kinds", "grow", "build", "serve"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--set", choices=SPREADS, default="overlapping", help="of grow")
    parser.add_argument("--dir", type=Path, help="where grow keeps its snapshot; unset: a temporary directory")
    arguments = parser.parse_args(argv)
    if arguments.what == "kinds":
        return kinds(arguments.rows)
    if arguments.what in ("build", "serve"):  # the steps of grow, each in its process
        step = {"build": build, "serve": serve}[arguments.what]
        print(json.dumps(step(arguments.rows, arguments.set, arguments.dir)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        return grow(arguments.rows, arguments.set, arguments.dir or Path(place))


# -- kinds ----------------------------------------------------------------------------------------------


def kinds(rows: int) -> int:
    """Compare kinds of indexes on vectors alone."""
    indexes = plugin.open(Url.parse("faiss:"))
    library = indexes.faiss
    print(f"{'set':<14}{'index':<12}{'build s':>9}{'ms':>8}{'recall@10':>11}   {rows} vectors")
    worst = 1.0
    for name, spread in SPREADS.items():
        source = Clustered(rows, spread)
        vectors, queries = source.draw(rows, 0), source.draw(QUERIES, 1)
        exact = library.knn(queries, vectors, K, library.METRIC_INNER_PRODUCT)[1]
        flat = plugin.FlatIndex(library, vectors, True)
        _row(name, "flat", 0.0, *_measured(lambda query: flat.search(query, CANDIDATES, None)[0], queries, exact))  # noqa: B023
        began_s = time.perf_counter()
        lists = _ivf.build(library, vectors)
        built_s = time.perf_counter() - began_s
        if lists is None:
            print(f"{name:<14}{'ivf':<12}   no clusters: stays flat")
        else:
            find: Callable[[Vectors], Any] = lambda query: lists.search(query, CANDIDATES, None)[0]  # noqa: B023, E731
            ms, recall = _measured(find, queries, exact)
            worst = min(worst, recall)
            _row(name, f"ivf {int(lists.probes[0])}/{len(lists.centres)}", built_s, ms, recall)
        began_s = time.perf_counter()
        graph = library.IndexHNSWFlat(DIMENSION, 32, library.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 64
        graph.add(vectors)
        built_s = time.perf_counter() - began_s
        for depth in (64, 128, 256):
            graph.hnsw.efSearch = depth
            measured = _measured(lambda query: graph.search(query, CANDIDATES)[1][0], queries, exact)  # noqa: B023
            _row(name, f"hnsw {depth}", built_s, *measured)
    return int(worst < LEAST_RECALL)


def _measured(search: Callable[[Vectors], Any], queries: Vectors, exact: NDArray[np.int64]) -> tuple[float, float]:
    """Median time of a search in ms, and recall@10."""
    spent, shares = [], []
    for query, right in zip(queries, exact, strict=True):
        began_s = time.perf_counter()
        rows = search(query[None])
        spent.append(time.perf_counter() - began_s)
        shares.append(len(set(rows[:K].tolist()) & set(right.tolist())) / K)
    return float(np.median(spent)) * 1e3, float(np.mean(shares))


def _row(name: str, index: str, built_s: float, ms: float, recall: float) -> None:
    print(f"{name:<14}{index:<12}{built_s:>9.1f}{ms:>8.2f}{recall:>11.3f}", flush=True)


# -- grow -----------------------------------------------------------------------------------------------


def grow(rows: int, name: str, place: Path) -> int:
    """Build a collection, store it, start from the snapshot, search."""
    built, served = (_child(step, rows, name, place) for step in ("build", "serve"))
    print(f"{rows} passages, vectors {name}")
    for title, figures in (("built", built), ("started from the snapshot", served)):
        print(f"  {title}: " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    late = rows <= 100_000 and served["start_s"] > MOST_START_S
    return int(late or served["recall"] < LEAST_RECALL)


def _child(step: str, rows: int, name: str, place: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index", step, "--rows", str(rows), "--set", name, "--dir", str(place)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def build(rows: int, name: str, place: Path) -> dict[str, float]:
    """Take passages in page by page, join what is due after each, keep a snapshot now and then, as a replica does."""
    indexes = plugin.open(Url.parse("faiss:"))
    snapshots = Snapshots.claim(place, LOG_ID, indexes)
    view = View.empty(COLLECTION, indexes)
    changing_s = joining_s = saving_s = 0.0
    most_parts = pages = 0
    for page in _pages(rows, Clustered(rows, SPREADS[name])):
        began_s = time.perf_counter()
        view = view.changed(COLLECTION, page, ())
        changing_s += time.perf_counter() - began_s
        most_parts, pages = max(most_parts, len(view.parts)), pages + 1
        began_s = time.perf_counter()
        view = _settled(view, quiet=False)
        joining_s += time.perf_counter() - began_s
        if pages % 16 == 0:
            began_s = time.perf_counter()
            view = _stored(view, snapshots)
            saving_s += time.perf_counter() - began_s
    view = _settled(view, quiet=True)
    began_s = time.perf_counter()
    _stored(view, snapshots)
    saving_s += time.perf_counter() - began_s
    size = sum(path.stat().st_size for path in place.rglob("*.segment"))
    snapshots.close()
    return {
        "changing_s": round(changing_s, 1),
        "joining_s": round(joining_s, 1),
        "saving_s": round(saving_s, 1),
        "segments": len(view.parts),
        "most_segments": most_parts,
        "disk_bytes_per_passage": round(size / rows),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _settled(view: View, *, quiet: bool) -> View:
    while (job := merging.due(view, quiet=quiet)) is not None:
        joined = join(job.parts, view.indexes, settled=True)
        view = merging.with_joined(State(1, {KEY: view}), job, joined).views[KEY]
    return view


def _stored(view: View, snapshots: Snapshots) -> View:
    stored = snapshots.save(State(1, {KEY: view}))
    return view.with_parts([part.on(stored[part.segment.name]) for part in view.parts])


def serve(rows: int, name: str, place: Path) -> dict[str, float]:
    """Start from the snapshot and search; the system is asked to forget what it has read of the files."""
    for path in place.rglob("*.segment"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    indexes = plugin.open(Url.parse("faiss:"))
    snapshots = Snapshots.claim(place, LOG_ID, indexes)
    before = _memory_mib()
    began_s = time.perf_counter()
    view = snapshots.load().views[KEY]
    start_s = time.perf_counter() - began_s
    loaded = _memory_mib()
    source, chance = Clustered(rows, SPREADS[name]), random.Random(1)
    queries = source.draw(QUERIES, -1)
    vocabulary, weights = zipfian_words()
    words = [dict.fromkeys(chance.choices(vocabulary, weights, k=8), 1.0) for _ in queries]
    spent: dict[str, list[float]] = {"words": [], "dense": []}
    found = []
    for query, asked in zip(queries, words, strict=True):
        began_s = time.perf_counter()
        near, _ = view.search_dense(query[None], CANDIDATES)
        between_s = time.perf_counter()
        view.search_words(asked, CANDIDATES, also=near)
        for slot in near[:5]:
            view.entry(int(slot))
        spent["dense"].append((between_s - began_s) * 1e3)
        spent["words"].append((time.perf_counter() - between_s) * 1e3)
        found.append(set(near[:K].tolist()))
    searched = _memory_mib()
    shares = [len(one & right) / K for one, right in zip(found, _exact(view, queries), strict=True)]
    snapshots.close()
    return {
        "start_s": round(start_s, 2),
        "segments": len(view.parts),
        "recall": round(float(np.mean(shares)), 4),
        **{f"{side}_ms_p50": round(float(np.quantile(times, 0.5)), 2) for side, times in spent.items()},
        **{f"{side}_ms_p95": round(float(np.quantile(times, 0.95)), 2) for side, times in spent.items()},
        "anon_bytes_per_passage": round((searched["RssAnon"] - before["RssAnon"]) * 2**20 / rows),
        "anon_mib_loaded": loaded["RssAnon"],
        "anon_mib": searched["RssAnon"],
        "file_mib": searched["RssFile"],
    }


def _exact(view: View, queries: Vectors) -> list[set[int]]:
    library = plugin.open(Url.parse("faiss:")).faiss
    best = [(np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in queries]
    for first in range(0, view.size, 65_536):
        slots = np.arange(first, min(first + 65_536, view.size), dtype=np.int32)
        scores, rows = library.knn(queries, view.vectors(slots), K, library.METRIC_INNER_PRODUCT)
        for number, (known, where) in enumerate(best):
            together, places = np.append(known, scores[number]), np.append(where, slots[rows[number]])
            order = np.argsort(-together)[:K]
            best[number] = (together[order], places[order])
    return [set(where.tolist()) for _, where in best]


def _memory_mib() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("Rss")}


def zipfian_words() -> tuple[list[str], list[float]]:
    """Words without meaning, and how often each comes."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))) for _ in range(60_000)]
    return words, [1 / (rank + 5) for rank in range(len(words))]


def _pages(rows: int, source: Clustered) -> Iterator[list[StoredDocument]]:
    words, weights = zipfian_words()
    share = np.cumsum(weights) / sum(weights)
    vocabulary = np.array(words, object)
    for first in range(0, rows, PAGE):
        count = min(PAGE, rows - first)
        chance = np.random.default_rng(first)
        texts = [" ".join(row) for row in vocabulary[np.searchsorted(share, chance.random((count, WORDS)))]]
        vectors = source.draw(count, first)
        page = []
        for begin in range(0, count, PASSAGES):
            some = texts[begin : begin + PASSAGES]
            chunks = tuple(
                Chunk(n, text, n * 600, n * 600 + len(text), ("Guide", "Setup")) for n, text in enumerate(some)
            )
            name = f"d{chance.integers(1 << 62):x}"
            document = Document(name, f"docs/{name}.md", "A title", "text/markdown", "0" * 64, 4_000, len(chunks))
            page.append(StoredDocument(KEY, 1, document, chunks, vectors[begin : begin + len(some)]))
        yield page


if __name__ == "__main__":
    sys.exit(main())

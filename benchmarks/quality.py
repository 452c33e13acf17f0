"""How well the retriever finds: recall on a data set in SQuAD's JSON layout.

    python -m benchmarks.quality --dataset PATH [--json]

PATH is a file or a directory of them. Each paragraph goes in as a document of its own, through the service's
own parser, chunker, embedder, log and indexes, each file into a collection of its own, and all together into
one more; then every question is asked. R@k is the share of questions whose paragraph is among the first k
documents. Beside the fused order stand those of its two sides. The figures hold for the paragraphs that were
there: more of them are harder. A search's time is that of one thread; where it is the dense side's, the query's
vector came from the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mesh.deadline import Deadline
from mesh.plugins import Url
from mesh.settings import load
from services.retriever import prepare
from services.retriever.embedding import Embedders, open_plugin
from services.retriever.indexes import faiss
from services.retriever.ingest import Ingestor
from services.retriever.library import Library
from services.retriever.logs import sqlite
from services.retriever.ports import Embedder, EmbedderFiles
from services.retriever.replica import Replica
from services.retriever.search import find
from services.retriever.settings import Settings
from services.retriever.types import CollectionKey, Hit, Incoming, Progress, Query
from services.retriever.view import View
from services.retriever.workers import Workers

TENANT = "benchmark"
INGEST_TIMEOUT_S = 600


@dataclass(frozen=True)
class Question:
    """A question and the document that answers it."""

    text: str
    source: str


@dataclass(frozen=True)
class Score:
    """What was found on one set by one order."""

    name: str
    documents: int
    chunks: int
    questions: int
    order: str
    recall_at_1: float
    recall_at_5: float
    ms_per_search: float


def read(path: Path) -> tuple[list[Incoming], list[Question]]:
    """Paragraphs as documents, and the questions on them."""
    documents: list[Incoming] = []
    questions: list[Question] = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            source = f"{path.name}/{len(documents)}"
            data = paragraph["context"].encode()
            documents.append(Incoming(source, mime_type="text/plain", data=data, size_bytes=len(data)))
            questions += [Question(item["question"], source) for item in paragraph["qas"]]
    return documents, questions


def measure(name: str, view: View, documents: int, questions: Sequence[Question], embedder: Embedder) -> list[Score]:
    """Ask every question, by each order."""
    orders: dict[str, Callable[[Query], list[str]]] = {
        "fused": lambda query: _sources(find(view, query, embedder)),
        "words alone": lambda query: _sources(find(view, query, None)),
        "dense alone": partial(_dense, view, embedder),
    }
    scores = []
    for order, ask in orders.items():
        first = among = 0
        began_s = time.perf_counter()
        for question in questions:
            found = ask(Query(view.collection.key, question.text, top_k=5, max_per_document=1))
            first += found[:1] == [question.source]
            among += question.source in found
        spent_ms = (time.perf_counter() - began_s) * 1_000 / len(questions)
        rates = (round(first / len(questions), 4), round(among / len(questions), 4))
        scores.append(Score(name, documents, view.live_count, len(questions), order, *rates, round(spent_ms, 2)))
    return scores


def _sources(hits: Sequence[Hit]) -> list[str]:
    return [hit.document.source for hit in hits]


def _dense(view: View, embedder: Embedder, query: Query) -> list[str]:
    slots, _ = view.search_dense(embedder.embed_query(query.text), 50)
    return list(dict.fromkeys(view.entry(int(slot)).document.source for slot in slots))[: query.top_k]


async def run(paths: Sequence[Path], cache_dir: Path | None) -> list[Score]:
    """Take every set in and measure it."""
    sets = {path.stem.replace(".", "-"): read(path) for path in paths}
    if len(sets) > 1:
        everything = [document for documents, _ in sets.values() for document in documents]
        sets["all-together"] = (everything, [question for _, questions in sets.values() for question in questions])
    with tempfile.TemporaryDirectory() as place:
        log = await sqlite.open_file(Path(place) / "log.db")
        workers = Workers("benchmark", 2, 1_000)
        replica = Replica(log, faiss.open(Url.parse("faiss:")), workers)
        embedders = Embedders("minilm:", partial(open_plugin, files=EmbedderFiles(cache_dir)), workers)
        library, ingestor = Library(log, replica, embedders), Ingestor(log, replica, workers)
        following = asyncio.create_task(replica.follow())
        scores: list[Score] = []
        for name, (documents, questions) in sets.items():
            key = CollectionKey(TENANT, name)
            collection, embedder = await library.open_for_ingest(key)
            summary = await ingestor.run(collection, embedder, _stream(documents), _ignore)
            assert not summary.failed, summary.failed[0].error
            await replica.reach(summary.epoch, Deadline.after(INGEST_TIMEOUT_S))
            view = replica.state.views[key]
            scores += await asyncio.to_thread(measure, name, view, len(documents), questions, embedder)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await log.close()
        workers.close()
    return scores


async def _stream(documents: Sequence[Incoming]) -> AsyncIterator[Incoming]:
    for document in documents:
        yield document


async def _ignore(progress: Progress) -> None:
    """Nobody watches."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exits with 0 also where there is nothing to measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Recall of the retriever.")
    parser.add_argument("--dataset", type=Path, required=True, help="a file in SQuAD's JSON layout, or a directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    paths = sorted(arguments.dataset.glob("*.json")) if arguments.dataset.is_dir() else [arguments.dataset]
    if not paths or not all(path.is_file() for path in paths):
        print(f"skipped: there is no data set at {arguments.dataset}", file=sys.stderr)
        return 0
    with contextlib.redirect_stdout(sys.stderr):
        ready = prepare.main([]) == 0
    if not ready:
        print("skipped: the embedding model can't be had", file=sys.stderr)
        return 0
    scores = asyncio.run(run(paths, load(Settings).retriever.model_cache_dir))
    if arguments.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
        return 0
    print(f"{'set':<18}{'documents':>10}{'chunks':>8}{'questions':>10}  {'order':<12}{'R@1':>8}{'R@5':>8}{'ms':>7}")
    for score in scores:
        print(
            f"{score.name:<18}{score.documents:>10}{score.chunks:>8}{score.questions:>10}  {score.order:<12}"
            f"{score.recall_at_1:>8.4f}{score.recall_at_5:>8.4f}{score.ms_per_search:>7.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

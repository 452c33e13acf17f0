"""How well the retriever finds: recall on a data set in SQuAD's JSON layout.

    python -m benchmarks.quality --dataset PATH [--json]

PATH is a file or a directory of them. Everything goes in through the service's own parser, chunker, embedder,
log and indexes, each set into a collection of its own, and then every question is asked:

    <file>            each paragraph a document; R@k: the question's paragraph is among the first k documents
    <file>-articles   as in real use, each article a document, cut into passages by the service; R@k: one of
                      the first k passages holds the gold answer where it stands
    <file>-cipher     the first set of a file in Latin letters, with its letters swapped: words as regular as any,
                      in a language that nobody ever learned. What the words alone find must stay found
    all-together      the first set of every file in one collection

Beside the fused order stand those of its two sides. The figures hold for the paragraphs that were
there: more of them are harder. A search's time is that of one thread; where it is the dense side's, the query's
vector came from the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

from mesh.plugins import Url
from mesh.settings import load
from services.retriever import prepare
from services.retriever.documents import reading
from services.retriever.documents.chunking import chunk
from services.retriever.embedding import open_plugin
from services.retriever.indexes import faiss
from services.retriever.logs import sqlite
from services.retriever.ports import Content, Embedder, EmbedderFiles
from services.retriever.replicas.replica import Replica
from services.retriever.search.finding import find
from services.retriever.search.queries import Asked, ask
from services.retriever.segments.segment import indexed_text
from services.retriever.segments.view import View
from services.retriever.settings import Settings
from services.retriever.types import Chunk, CollectionKey, Document, Hit, Query, Vectors, document_name
from services.retriever.workers import Workers

TENANT = "benchmark"
TOP_K = 5
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SWAPPED = "yhkqgvxfoluapwmtzecjdbsnri"  # one order of them; vowels and consonants mixed
_CIPHER = str.maketrans(_LETTERS + _LETTERS.upper(), _SWAPPED + _SWAPPED.upper())
FUSED, WORDS, DENSE = "fused", "words alone", "dense alone"
FLOORS = {"xquad-en": (0.95, 0.995), "xquad-zh": (0.93, 0.99)}  # R@1 and R@5 among paragraphs
Place: TypeAlias = tuple[str, int, int]  # of a passage: its document's source, and from where to where


@dataclass(frozen=True)
class Text:
    """A document on its way in."""

    source: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, the document that answers it, and where in it the answer stands, if that is asked for."""

    text: str
    source: str
    answer: tuple[int, int] | None = None


Set: TypeAlias = tuple[list[Text], list[Question]]


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


def sets_of(path: Path) -> dict[str, Set]:
    """The sets that a file gives, by name."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    name = path.stem.replace(".", "-")
    sets = {name: paragraphs(name, articles), f"{name}-articles": whole(name, articles)}
    documents, questions = sets[name]
    letters = "".join(question.text for question in questions)
    if sum(char in _LETTERS for char in letters.lower()) > len(letters) / 2:
        sets[f"{name}-cipher"] = (
            [Text(f"{document.source}-cipher", document.text.translate(_CIPHER)) for document in documents],
            [Question(question.text.translate(_CIPHER), f"{question.source}-cipher") for question in questions],
        )
    return sets


def paragraphs(name: str, articles: Sequence[Any]) -> Set:
    """Paragraphs as documents, and the questions on them."""
    documents: list[Text] = []
    questions: list[Question] = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            source = f"{name}/{len(documents)}"
            documents.append(Text(source, paragraph["context"]))
            questions += [Question(item["question"], source) for item in paragraph["qas"]]
    return documents, questions


def whole(name: str, articles: Sequence[Any]) -> Set:
    """Articles as documents, and the questions on them with the places of their answers."""
    documents: list[Text] = []
    questions: list[Question] = []
    for article in articles:
        source, text = f"{name}/{len(documents)}", ""
        for paragraph in article["paragraphs"]:
            text = f"{text}\n\n" if text else ""
            first = len(text)
            text += paragraph["context"]
            for item in paragraph["qas"]:
                answer = item["answers"][0]
                start = first + answer["answer_start"]
                questions.append(Question(item["question"], source, (start, start + len(answer["text"]))))
        documents.append(Text(source, text))
    return documents, questions


def measure(name: str, view: View, documents: int, questions: Sequence[Question], embedder: Embedder) -> list[Score]:
    """Ask every question, by each order."""
    asked = lru_cache(maxsize=None)(partial(ask, embedder))
    orders: dict[str, Callable[[Query], Sequence[Place]]] = {
        FUSED: lambda query: _places(find(view, query, asked(query.text))),
        WORDS: lambda query: _places(find(view, query, None)),
        DENSE: lambda query: _dense(view, asked(query.text), query),
    }
    scores = []
    for order, search in orders.items():
        first = among = 0
        began_s = time.perf_counter()
        for question in questions:
            cap = 0 if question.answer else 1  # whole documents are asked for, or passages
            found = search(Query(view.collection.key, question.text, top_k=TOP_K, max_per_document=cap))
            right = [_answers(place, question) for place in found]
            first += any(right[:1])
            among += any(right)
        spent_ms = (time.perf_counter() - began_s) * 1_000 / len(questions)
        rates = (round(first / len(questions), 4), round(among / len(questions), 4))
        scores.append(Score(name, documents, view.live_count, len(questions), order, *rates, round(spent_ms, 2)))
    return scores


def below_floors(scores: Sequence[Score]) -> list[str]:
    """What is found less often than it has to be: XQuAD's paragraphs, and a language that the embedder doesn't know
    against words alone."""
    missed = []
    found = {(score.name, score.order): score for score in scores}
    for (name, order), score in found.items():
        floors = next((floors for begin, floors in FLOORS.items() if name.startswith(begin)), None)
        if order != FUSED:
            continue
        if name.endswith("-cipher"):
            words = found[name, WORDS]
            if score.recall_at_1 < words.recall_at_1 or score.recall_at_5 < words.recall_at_5:
                reached = f"R@1 {score.recall_at_1}, R@5 {score.recall_at_5}"
                missed.append(f"{name}: {reached}; by words alone {words.recall_at_1} and {words.recall_at_5}")
        elif (
            floors is not None
            and not name.endswith("-articles")
            and (score.recall_at_1 < floors[0] or score.recall_at_5 < floors[1])
        ):
            reached = f"R@1 {score.recall_at_1}, R@5 {score.recall_at_5}"
            missed.append(f"{name}: {reached}; the floors are {floors[0]} and {floors[1]}")
    return missed


def _answers(place: Place, question: Question) -> bool:
    source, start, end = place
    if source != question.source:
        return False
    return question.answer is None or (start <= question.answer[0] and question.answer[1] <= end)


def _places(hits: Sequence[Hit]) -> list[Place]:
    return [(hit.document.source, hit.chunk.start_char, hit.chunk.end_char) for hit in hits]


def _dense(view: View, asked: Asked, query: Query) -> list[Place]:
    slots, _ = view.search_dense(asked.vector, 50)
    found: dict[object, Place] = {}
    for number, slot in enumerate(slots.tolist()):
        document, chunk = view.entry(slot)
        key = document.name if query.max_per_document else number
        found.setdefault(key, (document.source, chunk.start_char, chunk.end_char))
    return list(found.values())[: query.top_k]


async def run(paths: Sequence[Path], cache_dir: Path | None) -> list[Score]:
    """Take every set in and measure it."""
    sets = {name: one for path in paths for name, one in sets_of(path).items()}
    if len(paths) > 1:
        plain = [sets[path.stem.replace(".", "-")] for path in paths]
        everything = [document for documents, _ in plain for document in documents]
        sets["all-together"] = (everything, [question for _, questions in plain for question in questions])
    with tempfile.TemporaryDirectory() as place:
        log = await sqlite.open_file(Path(place) / "log.db")
        workers = Workers("benchmark", 2, 1_000)
        replica = Replica(log, faiss.open(Url.parse("faiss:")), workers)
        embedder = open_plugin("minilm:", EmbedderFiles(cache_dir))
        scores: list[Score] = []
        for name, (documents, questions) in sets.items():
            key = CollectionKey(TENANT, name)
            collection = await log.create_collection(key, embedder.url, embedder.url, embedder.dimension)
            for document in documents:
                record, chunks, vectors = await asyncio.to_thread(_prepared, document, embedder)
                await log.publish(collection, [Content(record, chunks, vectors)])
            await replica.load()
            view = replica.state.views[key]
            scores += await asyncio.to_thread(measure, name, view, len(documents), questions, embedder)
        await log.close()
        workers.close()
    return scores


def _prepared(document: Text, embedder: Embedder) -> tuple[Document, list[Chunk], Vectors]:
    data = document.text.encode()
    parsed = reading.read(data, "text/plain")
    chunks = chunk(parsed)
    digest = hashlib.sha256(data).hexdigest()
    record = Document(
        document_name(document.source), document.source, parsed.title, "text/plain", digest, len(data), len(chunks)
    )
    return record, chunks, embedder.embed([indexed_text(record.title, piece) for piece in chunks])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exits with 1 below a floor, with 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Recall of the retriever.")
    parser.add_argument("--dataset", type=Path, required=True, help="a file in SQuAD's JSON layout, or a directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    paths = sorted(arguments.dataset.glob("*.json")) if arguments.dataset.is_dir() else [arguments.dataset]
    if not paths or not all(path.is_file() for path in paths):
        print(f"there is no data set at {arguments.dataset}", file=sys.stderr)
        return 2
    with contextlib.redirect_stdout(sys.stderr):
        ready = prepare.main([]) == 0
    if not ready:
        print("the embedding model can't be had", file=sys.stderr)
        return 2
    scores = asyncio.run(run(paths, load(Settings).retriever.model_cache_dir))
    missed = below_floors(scores)
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
        return 1 if missed else 0
    print(f"{'set':<27}{'documents':>10}{'chunks':>8}{'questions':>10}  {'order':<12}{'R@1':>8}{'R@5':>8}{'ms':>7}")
    for score in scores:
        print(
            f"{score.name:<27}{score.documents:>10}{score.chunks:>8}{score.questions:>10}  {score.order:<12}"
            f"{score.recall_at_1:>8.4f}{score.recall_at_5:>8.4f}{score.ms_per_search:>7.2f}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What benchmarks/retriever.py holds the service against: the domain's one call, and the bare embedder."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.embedders.synthetic import Synthetic
from benchmarks.filling import KEY
from benchmarks.hosting import Hosted
from benchmarks.load import percentile
from mesh.plugins import Url
from services.retriever.embedders import minilm
from services.retriever.indexes import faiss
from services.retriever.ingest.preparing import GROUP_CHUNKS
from services.retriever.logs import sqlite
from services.retriever.ports import EmbedderFiles
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.search.finding import find
from services.retriever.search.queries import Asked, ask
from services.retriever.segments.segment import indexed_text
from services.retriever.segments.view import View
from services.retriever.settings import RetrieverOptions
from services.retriever.types import Query
from tests.support.mesh import ROOT
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

_INGEST_ROUNDS: Final = 2
_PASSAGE_CHARS: Final = 600  # about what a passage of these documents comes to
_DOCUMENT_CHARS: Final = 12_000
_INGEST_TIMEOUT_S: Final = 3_600.0


class Direct:
    """``find`` on a view that was loaded from the snapshot of a store."""

    def __init__(self, view: View, questions: Sequence[tuple[Query, Asked]]) -> None:
        self._view, self._questions = view, questions
        self._threads = RetrieverOptions().thread_counts[0]
        self.segments = len(view.parts)

    @classmethod
    @contextmanager
    def of(cls, store: Path, rows: int, texts: Sequence[str]) -> Iterator[Direct]:
        """The collection that a running service holds in ``store``: its files, mapped here as well."""
        (log_dir,) = (store / "snapshots").iterdir()
        snapshots = Snapshots.claim(store / "snapshots", log_dir.name, faiss.open(Url.parse("faiss:")))
        embedder = Synthetic(rows)
        try:
            view = snapshots.load().views[KEY]
            direct = cls(view, [(Query(KEY, text), ask(embedder, text)) for text in texts])
            for question in direct._questions:
                find(view, *question)
            gc.collect()  # as a service does when it begins to serve
            gc.freeze()
            gc.set_threshold(5_000, 20, 50)
            yield direct
        finally:
            gc.unfreeze()
            snapshots.close()

    def round(self, seconds: float) -> dict[str, float]:
        """Search as fast as one thread can, then as fast as all can; the better of both counts.

        Vectors are read at the memory's speed and Python holds one lock: more threads are not always faster.
        """
        found = [self._on(threads, seconds) for threads in {1, self._threads}]
        return max(found, key=lambda one: one["rate"])

    def _on(self, threads: int, seconds: float) -> dict[str, float]:
        until_s = time.perf_counter() + seconds
        times_ms: list[float] = []

        def work(number: int) -> None:
            began_s = time.perf_counter()
            while began_s < until_s:
                find(self._view, *self._questions[number % len(self._questions)])
                now_s = time.perf_counter()
                times_ms.append((now_s - began_s) * 1_000)
                began_s, number = now_s, number + 1

        cpu_s = time.process_time()
        running = [threading.Thread(target=work, args=(number * 7,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        cpu_s = time.process_time() - cpu_s
        times_ms.sort()
        return {
            "rate": len(times_ms) / seconds,
            "p50_ms": percentile(times_ms, 0.5),
            "p99_ms": percentile(times_ms, 0.99),
            "cpu_ms": cpu_s * 1_000 / len(times_ms),
        }


def ingest_rounds(service: Hosted, directory: Path, passages: int) -> dict[str, Any]:
    """Ingest through the service and embed the same passages bare, in turns."""
    ingested, bare = [], []
    count = 0
    with grpc.insecure_channel(service.address) as channel:
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        _ingest(stub, "collections/warm-up", _documents(GROUP_CHUNKS))
        for number in range(_INGEST_ROUNDS):
            name = f"round-{number}"
            began_s = time.perf_counter()
            made = _ingest(stub, f"collections/{name}", _documents(passages // _INGEST_ROUNDS))
            ingested.append(made / (time.perf_counter() - began_s))
            texts = asyncio.run(_texts(directory / "store" / "log.db", name))
            bare.append(_bare(texts))
            count += len(texts)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ingested, bare, strict=True))
    return {
        "passages": count,
        "rate": statistics.median(ingested),
        "bare_rate": statistics.median(bare),
        "ratio": ratio,
    }


def _documents(passages: int) -> Iterator[str]:
    """Documents of about so many passages together, made of the paragraphs of the project's own."""
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    paragraphs = [part.strip() for page in pages for part in page.split("\n\n") if part.strip()]
    chance, left = random.Random(passages), passages * _PASSAGE_CHARS
    while left > 0:
        text = f"# Guide {left}"
        while len(text) < min(_DOCUMENT_CHARS, left):
            text += "\n\n" + chance.choice(paragraphs)
        left -= len(text)
        yield text


def _ingest(stub: Any, collection: str, documents: Iterator[str]) -> int:
    """Take documents in; how many passages they came to."""

    def messages() -> Iterator[pb.IngestDocumentsRequest]:
        yield pb.IngestDocumentsRequest(start=pb.IngestStart(collection=collection, request_id=collection))
        for number, text in enumerate(documents):
            yield pb.IngestDocumentsRequest(document=pb.DocumentHeader(source=f"guide-{number}.md"))
            yield pb.IngestDocumentsRequest(data=text.encode())

    finished = None
    for message in stub.IngestDocuments(messages(), timeout=_INGEST_TIMEOUT_S):
        if message.WhichOneof("event") == "finished":
            finished = message.finished
    if finished is None or finished.failed or not finished.chunks:
        raise SystemExit(f"the ingest failed: {finished}")
    return int(finished.chunks)


async def _texts(path: Path, name: str) -> list[str]:
    """What was embedded of a collection."""
    log = await sqlite.open_file(path)
    found: list[str] = []
    after, more = 0, True
    while more:
        changes = await log.read(after)
        after, more = changes.sequence, changes.more
        for stored in changes.documents:
            if stored.key.name == name:
                found += [indexed_text(stored.document.title, chunk) for chunk in stored.chunks]
    await log.close()
    return found


def _bare(texts: Sequence[str]) -> float:
    """Passages a second of the embedder alone."""
    embedder = minilm.open(Url.parse("minilm:"), EmbedderFiles(RetrieverOptions().model_cache_dir))
    groups = [texts[at : at + GROUP_CHUNKS] for at in range(0, len(texts), GROUP_CHUNKS)]
    with ThreadPoolExecutor(RetrieverOptions().thread_counts[1]) as pool:
        embedder.embed(texts[:GROUP_CHUNKS])
        began_s = time.perf_counter()
        for _ in pool.map(embedder.embed, groups):
            pass
        return len(texts) / (time.perf_counter() - began_s)

"""Parts of a retriever for tests: a log in a directory, documents, replicas, an embedder without a model."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mesh import plugins
from mesh.jobs import Jobs, Limits
from mesh.jobs.queues import sqlite as queues
from mesh.plugins import Url
from services.retriever.documents.chunking import chunk
from services.retriever.embedders.none import NoEmbedder
from services.retriever.embedding import Embedders
from services.retriever.indexes import faiss
from services.retriever.library import Library
from services.retriever.logs import sqlite
from services.retriever.parsers import text as text_parser
from services.retriever.ports import Content, Embedder, Log, SharedIndex, VectorIndexes
from services.retriever.replicas.applying import Applier
from services.retriever.replicas.replica import Replica
from services.retriever.search.queries import QueryVectors
from services.retriever.search.searching import Searcher
from services.retriever.search.sharing import Elsewhere, SharedSide
from services.retriever.segments.lexicon import terms
from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors, document_name
from services.retriever.workers import Workers
from weft.errors import Reason, error

DIMENSION = 64
KEY = CollectionKey("default", "default")


class BagOfWords:
    """An embedder whose vectors are counts of hashed words: near where words are shared. Deterministic."""

    url = "bag:"
    dimension = DIMENSION
    query_batch = 1

    def __init__(self, knowledge: float = 1.0) -> None:
        self._knowledge = knowledge

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for term in terms(text):
                row[hashlib.sha256(term.encode()).digest()[0] % DIMENSION] += 1
            row /= np.linalg.norm(row) or 1
        return rows

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return self.embed(texts)

    def knowledge(self, text: str) -> float:
        return self._knowledge

    def close(self) -> None:
        """It holds nothing."""


OPENERS: Mapping[str, Callable[[], Embedder]] = {"bag:": BagOfWords, "none:": NoEmbedder}


def opener(openers: Mapping[str, Callable[[], Embedder]], url: str) -> Embedder:
    """Opens one of ``openers``; any other is an embedder that isn't there."""
    if url not in openers:
        raise error(Reason.EMBEDDER_UNAVAILABLE, f"{url} is away", embedder=url)
    return openers[url]()


def indexes() -> VectorIndexes:
    return faiss.open(Url.parse("faiss:"))


def cut(text: str) -> list[Chunk]:
    return chunk(text_parser.parse(text.encode()))


def record(source: str, text: str, chunks: Sequence[Chunk]) -> Document:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Document(
        document_name(source), source, "", "text/plain", digest, len(text.encode()), chunk_count=len(chunks)
    )


def content(source: str, text: str, embedder: Embedder, arrived_s: float = 0.0) -> Content:
    """A text as a document that wants to be published."""
    chunks = cut(text)
    document = replace(record(source, text, chunks), arrived_s=arrived_s)
    return Content(document, chunks, embedder.embed([piece.text for piece in chunks]))


async def put(log: Log, collection: Collection, source: str, text: str, embedder: Embedder | None = None) -> Document:
    """Publish a text as a document, with the collection's own embedder unless told."""
    embedder = embedder or opener(OPENERS, collection.embedder)
    (there,) = await log.publish(collection, [content(source, text, embedder)])
    assert there is not None
    return there


class House:
    """The domain of one replica over a log."""

    def __init__(
        self,
        log: Log,
        jobs: Jobs,
        embedder: str,
        openers: Mapping[str, Callable[[], Embedder]],
        index: VectorIndexes | SharedIndex,
    ) -> None:
        self.log, self.jobs, self.index = log, jobs, index
        self.workers = Workers("test", 2, 200)
        self.shared = SharedSide(index, self.workers) if isinstance(index, SharedIndex) else None
        self.replica = Replica(log, Elsewhere() if isinstance(index, SharedIndex) else index, self.workers)
        self.embedders = Embedders(embedder, partial(opener, openers), self.workers)
        self.library = Library(log, self.replica, self.embedders, jobs)
        self.vectors = QueryVectors(self.workers)
        self.searcher = Searcher(self.replica, self.embedders, self.workers, self.vectors, shared=self.shared)


@asynccontextmanager
async def house(
    place: Path,
    embedder: str = "bag:",
    openers: Mapping[str, Callable[[], Embedder]] = OPENERS,
    begin: Callable[[House], Awaitable[None]] | None = None,
    index: str = "faiss:",
    applies: bool = True,
) -> AsyncIterator[House]:
    """A replica over the store in ``place``, following its log, after ``begin``. Open two for two replicas.

    ``applies``: it may take the lease of a shared ``index``.
    """
    log = await sqlite.open_file(place / "log.db")
    jobs = await queues.open_file(place / "jobs.db", Limits(lease_s=1.0))
    opened = plugins.load("services.retriever.indexes", Url.parse(index)).open(Url.parse(index))
    built = House(log, jobs, embedder, openers, opened)
    if begin is not None:
        await begin(built)
    await built.replica.load()
    duties = [built.replica.follow()]
    if built.shared is not None:
        await built.shared.start(log.log_id)
        duties += [built.shared.follow(), *([Applier(log, opened).run()] if applies else [])]
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        yield built
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if built.shared is not None:
            await built.shared.close()
            await opened.close()
        await built.vectors.close()
        await jobs.close()
        await log.close()
        built.workers.close()

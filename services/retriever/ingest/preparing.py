"""From the bytes of a document to chunks with vectors, staged in the log and ready to be published.

    bytes -> told what they are -> known already? -> parsed and cut -> embedded, staged in groups -> ``Prepared``

Embedding goes in groups of ``GROUP_CHUNKS``, and each full group is staged in the log at once: a document
of thousands of chunks is never held in memory with all its vectors, and shows itself whole or not at all.
An embedder that works on this machine's processors is asked for one chunk at a time, and searches go first
in between (``Workers.give_way``).

Errors, of one document: DOCUMENT_UNREADABLE, DOCUMENT_EMPTY, DOCUMENT_TOO_LARGE, and whatever the log or the
embedder says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.retriever.documents import reading
from services.retriever.documents.parsing import Parsers
from services.retriever.ingest.uploads import Item
from services.retriever.ports import Embedder, Log
from services.retriever.segments.segment import indexed_text
from services.retriever.types import Chunk, Collection, Document, Vectors, document_name
from services.retriever.workers import Workers

GROUP_CHUNKS: Final = 32  # embedded and staged together: a transaction of well under 10 ms


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document whose last chunks only want to be published with it; ``batch`` has those before."""

    collection: Collection
    document: Document
    tail: Sequence[Chunk]
    vectors: Vectors
    batch: int | None = None


class Preparer:
    """Prepares documents: reads them in processes of ``parsers``, embeds them on threads of ``workers``."""

    def __init__(self, log: Log, workers: Workers, parsers: Parsers) -> None:
        self._log, self._workers, self._parsers = log, workers, parsers

    async def prepare(
        self, collection: Collection, embedder: Embedder, item: Item, data: bytes, check: Callable[[], None]
    ) -> Prepared | Document:
        """Prepare an uploaded document, or return its record where the collection has the same content already.

        ``check`` is called before each write and raises when nothing may be written any more.
        """
        kind = reading.mime_type(item.source, item.mime_type, data)
        name = document_name(item.source)
        document = Document(name, item.source, item.title, kind, item.sha256, len(data), metadata=item.metadata)
        there = await self._log.get_document(collection, name)
        if there is not None and there.same_content(document):
            return there
        title, chunks = await self._parsers.parse(data, kind, reading.charset(item.mime_type))
        return await self.embed(collection, embedder, replace(document, title=item.title or title), chunks, check)

    async def embed(
        self,
        collection: Collection,
        embedder: Embedder,
        document: Document,
        chunks: Sequence[Chunk],
        check: Callable[[], None],
    ) -> Prepared:
        """Embed a document that is cut, and stage all but its last chunks."""
        batch: int | None = None
        tail = chunks[:GROUP_CHUNKS]
        vectors = await self._vectors(embedder, document, tail)
        for start in range(GROUP_CHUNKS, len(chunks), GROUP_CHUNKS):
            check()
            batch = await self._log.stage(collection, batch, tail, vectors)
            tail = chunks[start : start + GROUP_CHUNKS]
            vectors = await self._vectors(embedder, document, tail)
        return Prepared(collection, replace(document, chunk_count=len(chunks)), tail, vectors, batch)

    async def publish(self, prepared: Prepared, check: Callable[[], None]) -> Document:
        """Make it what searches find; returns the record as it now stands.

        Raises:
            WeftError: COLLECTION_NOT_FOUND when the collection went away meanwhile.
        """
        check()
        return await self._log.publish(
            prepared.collection, prepared.document, prepared.batch, prepared.tail, prepared.vectors
        )

    async def _vectors(self, embedder: Embedder, document: Document, chunks: Sequence[Chunk]) -> Vectors:
        texts = [indexed_text(document.title, piece) for piece in chunks]
        return await self._workers.run(self._embed, embedder, texts)

    def _embed(self, embedder: Embedder, texts: Sequence[str]) -> Vectors:
        if embedder.query_batch > 1:  # its work is done elsewhere
            return embedder.embed(texts)
        rows = np.empty((len(texts), embedder.dimension), np.float32)
        for at, text in enumerate(texts):
            self._workers.give_way()
            rows[at] = embedder.embed([text])[0]
        return rows

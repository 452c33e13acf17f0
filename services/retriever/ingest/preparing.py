"""From the bytes of documents to chunks with vectors, staged in the log and ready to be published.

    bytes -> told what they are -> known already? -> parsed and cut -> embedded, staged in groups -> ``Content``

Embedding goes in groups of ``GROUP_CHUNKS``, and each full group is staged in the log at once: a document
of thousands of chunks is never held in memory with all its vectors, and shows itself whole or not at all.
An embedder that works on this machine's processors is asked for one chunk at a time, and searches go first
in between (``Workers.give_way``).

Small documents come by the group, so that the log is asked once for all of them.

Errors, of one document: DOCUMENT_UNREADABLE, DOCUMENT_EMPTY, DOCUMENT_TOO_LARGE, and whatever the log or the
embedder says, unless it is ``PASSING``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from services.retriever.documents import reading
from services.retriever.documents.parsing import Parsers
from services.retriever.ingest.uploads import Item
from services.retriever.ports import Content, Embedder, Log
from services.retriever.segments.segment import indexed_text
from services.retriever.types import Chunk, Collection, Document, Vectors, document_name
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError

GROUP_CHUNKS: Final = 32  # embedded and staged together: a transaction of well under 10 ms
# Not the document's fault: whoever waits for it tries again when the trouble has passed.
PASSING: Final = frozenset(
    {Reason.DEPENDENCY_UNAVAILABLE, Reason.OVERLOADED, Reason.EMBEDDER_UNAVAILABLE, Reason.SHUTTING_DOWN}
)

Result = Content | Document | WeftError  # to be published; there already; why it can't be taken in


class Preparer:
    """Prepares documents: reads them in processes of ``parsers``, embeds them on threads of ``workers``."""

    def __init__(self, log: Log, workers: Workers, parsers: Parsers) -> None:
        self._log, self._workers, self._parsers = log, workers, parsers

    async def prepare(
        self,
        collection: Collection,
        embedder: Embedder,
        uploads: Sequence[tuple[Item, bytes | WeftError]],
        check: Callable[[], None],
    ) -> list[Result]:
        """Prepare uploaded documents: their bytes, or why these are not to be had.

        ``check`` is called before each write and raises when nothing may be written any more.
        """
        names = [document_name(item.source) for item, _ in uploads]
        there = await self._log.get_documents(collection, names)
        results: list[Result] = []
        for name, (item, data) in zip(names, uploads, strict=True):
            try:
                if isinstance(data, WeftError):
                    raise data
                kind = reading.mime_type(item.source, item.mime_type, data)
                described = (name, item.source, item.title, kind, item.sha256, len(data))
                document = Document(*described, metadata=item.metadata, arrived_s=item.arrived_s)
                if name in there and there[name].same_content(document):
                    results.append(replace(there[name], arrived_s=item.arrived_s))
                    continue
                title, chunks = await self._parsers.parse(data, kind, reading.charset(item.mime_type))
                document = replace(document, title=item.title or title)
                results.append(await self.embed(collection, embedder, document, chunks, check))
            except WeftError as err:
                if err.reason in PASSING:
                    raise
                results.append(err)
        return results

    async def embed(
        self,
        collection: Collection,
        embedder: Embedder,
        document: Document,
        chunks: Sequence[Chunk],
        check: Callable[[], None],
    ) -> Content:
        """Embed a document that is cut, and stage all but its last chunks."""
        batch: int | None = None
        last = chunks[:GROUP_CHUNKS]
        vectors = await self._vectors(embedder, document, last)
        for start in range(GROUP_CHUNKS, len(chunks), GROUP_CHUNKS):
            check()
            batch = await self._log.stage(collection, batch, last, vectors)
            last = chunks[start : start + GROUP_CHUNKS]
            vectors = await self._vectors(embedder, document, last)
        return Content(replace(document, chunk_count=len(chunks)), last, vectors, batch)

    async def publish(
        self, collection: Collection, contents: Sequence[Content], check: Callable[[], None]
    ) -> list[Document | None]:
        """Make them what searches find; returns the records as they now stand, see ``Log.publish``.

        Raises:
            WeftError: COLLECTION_NOT_FOUND when the collection went away meanwhile.
        """
        check()
        return await self._log.publish(collection, contents)

    async def _vectors(self, embedder: Embedder, document: Document, chunks: Sequence[Chunk]) -> Vectors:
        if not embedder.dimension:
            return np.zeros((len(chunks), 0), np.float32)
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

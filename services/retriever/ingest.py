"""Takes documents in, as a stream, and tells what became of each.

    received -> prepared (parsed, cut, embedded, staged) -> published -> told
                     └──────────────> failed ──────────────────────────┘

While one document is published the next is being prepared and the one after received: at most
``_AHEAD`` + 2 documents of a stream are in memory, and a sender that is faster than that waits, by
HTTP/2's own flow control. Results come in the order in which the documents came. A document that can't be
read fails alone. The same source twice in a stream is prepared the second time only after the first was
published, so the last one wins.

Embedding goes in groups of ``GROUP_CHUNKS``, and each full group is staged in the log at once: a document
of thousands of chunks is never held in memory with all its vectors, and shows itself whole or not at all.

Errors for a whole stream: EMBEDDER_UNAVAILABLE when the collection's embedder is not to be had here,
OVERLOADED when too many streams wait; for one document: DOCUMENT_UNREADABLE, DOCUMENT_EMPTY,
DOCUMENT_TOO_LARGE, COLLECTION_NOT_FOUND when the collection was deleted meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.retriever import reading
from services.retriever.parsing import Parsers
from services.retriever.ports import Embedder, Log
from services.retriever.replica import Replica
from services.retriever.segment import indexed_text
from services.retriever.types import (
    Chunk,
    Collection,
    Document,
    Epoch,
    Incoming,
    Outcome,
    Progress,
    Vectors,
    document_name,
)
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

GROUP_CHUNKS: Final = 32  # embedded and staged together: a transaction of well under 10 ms
_AHEAD: Final = 1
MAX_STREAMS: Final = 4  # under way at once; each may hold a few documents in memory
MAX_STREAMS_WAITING: Final = 64
_RETRY_AFTER_S: Final = 2.0

Report = Callable[[Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Summary:
    """An ingest summed up."""

    documents: int
    unchanged: int
    chunks: int
    epoch: Epoch
    failed: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A document on its way from the parser to the log. Exactly one of the last three says how it stands."""

    incoming: Incoming
    name: str
    batch: int | None = None
    tail: Sequence[Chunk] = ()
    vectors: Vectors | None = None
    document: Document | None = None  # to be published
    unchanged: Document | None = None
    failure: WeftError | None = None


class Ingestor:
    """Runs ingest streams."""

    def __init__(self, log: Log, replica: Replica, workers: Workers, parsers: Parsers) -> None:
        self._log, self._replica, self._workers, self._parsers = log, replica, workers, parsers
        self._slots = asyncio.Semaphore(MAX_STREAMS)
        self._waiting = 0

    async def run(
        self, collection: Collection, embedder: Embedder, documents: AsyncIterator[Incoming], report: Report
    ) -> Summary:
        """Take ``documents`` into ``collection``; ``report`` hears of each, in order."""
        if self._waiting >= MAX_STREAMS_WAITING:
            raise error(
                Reason.OVERLOADED,
                f"{self._waiting} ingests wait already; try again in {_RETRY_AFTER_S:.0f} s",
                retry_after_s=_RETRY_AFTER_S,
                waiting=self._waiting,
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            stream = _Stream(self._log, self._replica, self._workers, self._parsers, collection, embedder)
            return await stream.run(documents, report)
        finally:
            self._slots.release()


class _Stream:
    """One ingest under way."""

    def __init__(
        self,
        log: Log,
        replica: Replica,
        workers: Workers,
        parsers: Parsers,
        collection: Collection,
        embedder: Embedder,
    ) -> None:
        self._log, self._replica, self._workers, self._parsers = log, replica, workers, parsers
        self._collection, self._embedder = collection, embedder
        self._sequence = collection.sequence
        self._under_way: dict[str, asyncio.Event] = {}  # by document name, set when it is published

    async def run(self, documents: AsyncIterator[Incoming], report: Report) -> Summary:
        queue: asyncio.Queue[asyncio.Task[_Prepared] | None] = asyncio.Queue(_AHEAD)
        counts = dict.fromkeys(Outcome, 0)
        chunks = size_bytes = 0
        failed: list[Progress] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(documents, queue, tasks))
                while (task := await queue.get()) is not None:
                    prepared = await task
                    size_bytes += prepared.incoming.size_bytes
                    progress = await self._finish(prepared, sum(counts.values()) + 1, size_bytes)
                    counts[progress.outcome] += 1
                    chunks += progress.chunks
                    if progress.outcome is Outcome.FAILED:
                        failed.append(progress)
                    await report(progress)
        except BaseExceptionGroup as group:
            # The first failure is the stream's; the others only followed from it.
            raise group.exceptions[0] from None
        await self._replica.settle(self._sequence)
        return Summary(
            documents=counts[Outcome.INDEXED] + counts[Outcome.UNCHANGED],
            unchanged=counts[Outcome.UNCHANGED],
            chunks=chunks,
            epoch=self._epoch(),
            failed=tuple(failed),
        )

    async def _receive(
        self,
        documents: AsyncIterator[Incoming],
        queue: asyncio.Queue[asyncio.Task[_Prepared] | None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        async for incoming in documents:
            name = document_name(incoming.source)
            if (before := self._under_way.get(name)) is not None:
                await before.wait()
            self._under_way[name] = asyncio.Event()
            await queue.put(tasks.create_task(self._prepare(incoming, name)))
        await queue.put(None)

    async def _prepare(self, incoming: Incoming, name: str) -> _Prepared:
        try:
            if incoming.refused is not None:
                raise incoming.refused
            kind = reading.mime_type(incoming.source, incoming.mime_type, incoming.data)
            sha256 = await self._workers.run(_sha256, incoming.data)
            document = Document(
                name, incoming.source, incoming.title, kind, sha256, len(incoming.data), metadata=incoming.metadata
            )
            there = await self._log.get_document(self._collection, name)
            if there is not None and there.same_content(document):
                return _Prepared(incoming, name, unchanged=there)
            charset = reading.charset(incoming.mime_type)
            title, chunks = await self._parsers.parse(incoming.data, kind, charset)
            incoming = replace(incoming, data=b"")  # let go of before it waits for its turn
            return await self._embed(incoming, replace(document, title=document.title or title), chunks)
        except WeftError as err:
            return _Prepared(incoming, name, failure=err)

    async def _embed(self, incoming: Incoming, document: Document, chunks: Sequence[Chunk]) -> _Prepared:
        batch: int | None = None
        tail, vectors = chunks[:GROUP_CHUNKS], await self._vectors(document, chunks[:GROUP_CHUNKS])
        for start in range(GROUP_CHUNKS, len(chunks), GROUP_CHUNKS):
            batch = await self._log.stage(self._collection, batch, tail, vectors)
            tail = chunks[start : start + GROUP_CHUNKS]
            vectors = await self._vectors(document, tail)
        document = replace(document, chunk_count=len(chunks))
        return _Prepared(incoming, document.name, batch, tail, vectors, document=document)

    async def _vectors(self, document: Document, chunks: Sequence[Chunk]) -> Vectors:
        texts = [indexed_text(document.title, piece) for piece in chunks]
        return await self._workers.run(self._embedder.embed, texts)

    async def _finish(self, prepared: _Prepared, number: int, size_bytes: int) -> Progress:
        source = prepared.incoming.source
        outcome, record, failure = Outcome.FAILED, prepared.unchanged, prepared.failure
        if record is not None:
            outcome = Outcome.UNCHANGED
        elif prepared.document is not None:
            try:
                record = await self._publish(prepared, prepared.document)
                outcome = Outcome.INDEXED
            except WeftError as err:
                failure = err
        self._under_way.pop(prepared.name).set()
        if record is not None:
            self._sequence = max(self._sequence, record.sequence)
        chunks = record.chunk_count if record is not None else 0
        return Progress(source, outcome, chunks, self._epoch(), number, size_bytes, failure)

    async def _publish(self, prepared: _Prepared, document: Document) -> Document:
        vectors = prepared.vectors if prepared.vectors is not None else np.zeros((0, 0), np.float32)
        return await self._log.publish(self._collection, document, prepared.batch, prepared.tail, vectors)

    def _epoch(self) -> Epoch:
        return Epoch(self._log.log_id, self._sequence)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

"""The job "ingest": works off the documents of an upload, in order, from the first that is not settled.

    waiting -> prepared (``preparing``) -> published -> settled, its bytes removed
                     └─────────> failed ──────┘

The job begins with the first document and goes on while others are still being sent; it ends when the upload
is complete and all are settled. While one document is published the next is being prepared: two are in
memory. A document that can't be read fails alone. The same source twice in an upload is prepared the second
time only after the first was published, so the last one wins; and where another ingest brought a later
version in already, the older one leaves it alone.

Whoever takes the job over begins at the first document that is not settled. One that was published but not
settled any more is recognised by its content, so nothing is there twice. A worker that lost its lease
notices before each write (``running.check``), and its settling is refused by the fence.

A sender that goes away before all is sent leaves a job that takes in what has arrived whole, and then fails
with UPLOAD_INCOMPLETE. One that pauses has its job parked, so that it keeps no other from running.

Errors of the job: UPLOAD_INCOMPLETE; EMBEDDER_UNAVAILABLE when the collection's embedder is not to be had
here (another worker may have it). Of one document: DOCUMENT_UNREADABLE, DOCUMENT_EMPTY, DOCUMENT_TOO_LARGE,
COLLECTION_NOT_FOUND when the collection was deleted meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

from mesh.jobs import Job, LeaseLost
from mesh.jobs.worker import Park, Running
from services.retriever.embedding import Embedders
from services.retriever.errors import unknown_collection
from services.retriever.ingest.preparing import Prepared, Preparer
from services.retriever.ingest.uploads import BlobKey, Blobs, Fenced, Intake, Item
from services.retriever.ports import Embedder, Log
from services.retriever.types import Collection, CollectionKey, Document, Epoch, Outcome, Progress, document_name
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
KIND: Final = "ingest"
SILENCE_S: Final = 15.0  # a sender that gave no sign for so long is gone
IDLE_S: Final = 2.0  # without a document to work on, the job lets others go
_AHEAD: Final = 1
_PAGE: Final = 64
MAX_FAILED_KEPT: Final = 1_000  # in the summary; each was told when it failed
# Not the document's fault: the job stops, and goes on when the trouble has passed.
_PASSING: Final = frozenset(
    {Reason.DEPENDENCY_UNAVAILABLE, Reason.OVERLOADED, Reason.EMBEDDER_UNAVAILABLE, Reason.SHUTTING_DOWN}
)


@dataclass(frozen=True, slots=True)
class Summary:
    """An ingest summed up."""

    documents: int
    unchanged: int
    chunks: int
    epoch: Epoch
    failed: tuple[Progress, ...]


@dataclass(slots=True)
class Tally:
    """Counts the settled documents of an ingest, in order."""

    log_id: str
    base: int  # sequence of the log that stands as long as none of them has one
    sequence: int = 0
    documents: int = 0
    unchanged: int = 0
    failed: int = 0
    chunks: int = 0
    size_bytes: int = 0

    @property
    def settled(self) -> int:
        """Documents counted."""
        return self.documents + self.failed

    @property
    def epoch(self) -> Epoch:
        """From which on all of them are found."""
        return Epoch(self.log_id, self.sequence or self.base)

    def add(self, item: Item) -> Progress:
        """Count one that is settled, and tell how far the ingest is."""
        outcome = item.outcome or Outcome.FAILED
        self.failed += outcome is Outcome.FAILED
        self.documents += outcome is not Outcome.FAILED
        self.unchanged += outcome is Outcome.UNCHANGED
        self.chunks += item.chunks
        self.size_bytes += item.size_bytes
        self.sequence = max(self.sequence, item.sequence)
        return Progress(item.source, outcome, item.chunks, self.epoch, self.settled, self.size_bytes, item.error)


def payload(key: CollectionKey) -> bytes:
    """What a job of this kind is given."""
    return json.dumps({"collection": key.name}).encode()


class Ingestor:
    """Runs ingest jobs."""

    def __init__(self, log: Log, embedders: Embedders, preparer: Preparer, intake: Intake, blobs: Blobs) -> None:
        self.log, self.embedders, self.preparer = log, embedders, preparer
        self.intake, self.blobs = intake, blobs

    async def run(self, running: Running) -> Summary:
        """Work a job off."""
        job = running.job
        key = CollectionKey(job.tenant, json.loads(job.payload)["collection"])
        collection = await self.log.get_collection(key)
        embedder = None
        if collection is not None:
            embedder = await self.embedders.get(collection.embedder, collection.dimension)
        try:
            return await _Run(self, running, key, collection, embedder).run()
        except Fenced as exc:
            raise LeaseLost(running.lease) from exc


class _Run:
    """One job under way."""

    def __init__(
        self,
        house: Ingestor,
        running: Running,
        key: CollectionKey,
        collection: Collection | None,
        embedder: Embedder | None,
    ) -> None:
        self._running, self._job, self._key = running, running.job, key
        self._collection, self._embedder = collection, embedder
        self._log, self._embedders, self._preparer = house.log, house.embedders, house.preparer
        self._intake, self._blobs = house.intake, house.blobs
        self._tally = Tally(self._log.log_id, collection.sequence if collection else 0)
        self._failed: list[Progress] = []
        self._under_way: dict[str, asyncio.Event] = {}  # by document name, set when it is settled
        self._total = 0
        self._tasks: asyncio.TaskGroup

    async def run(self) -> Summary:
        queue: asyncio.Queue[tuple[Item, asyncio.Task[Prepared | Document | WeftError]] | None] = asyncio.Queue(_AHEAD)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._receive(queue))
                while (entry := await queue.get()) is not None:
                    item, preparing = entry
                    settled = await self._settle(item, await preparing)
                    self._count(settled)
        except BaseExceptionGroup as group:
            # The first failure is the job's; the others only followed from it.
            raise group.exceptions[0] from None
        tally = self._tally
        return Summary(tally.documents, tally.unchanged, tally.chunks, tally.epoch, tuple(self._failed))

    async def _receive(
        self,
        queue: asyncio.Queue[tuple[Item, asyncio.Task[Prepared | Document | WeftError]] | None],
    ) -> None:
        async for item in self._items():
            if item.outcome is not None:
                await self._passed(item)
                continue
            name = document_name(item.source)
            if (before := self._under_way.get(name)) is not None:
                await before.wait()
            self._under_way[name] = asyncio.Event()
            await queue.put((item, self._tasks.create_task(self._prepare(item))))
        await queue.put(None)

    async def _items(self) -> AsyncIterator[Item]:
        """The documents of the upload, as they come."""
        tenant, job = self._job.tenant, self._job.id
        seen = after = 0
        taken, last_s = False, time.monotonic()
        while True:
            seen = await self._intake.changed(seen, 0.0)
            receipt = await self._intake.receipt(tenant, job)
            if receipt is not None and not taken:
                await self._intake.take(tenant, job, self._running.fence)
                taken = True
            if receipt is not None and receipt.complete:
                self._total = receipt.count
            page = await self._intake.items(tenant, job, after, _PAGE) if receipt is not None else []
            for item in page:
                after = item.number
                yield item
            if page:
                last_s = time.monotonic()
                continue
            idle_s = time.monotonic() - last_s
            if receipt is not None and receipt.complete and after >= receipt.count:
                return
            if (receipt.broken or receipt.silent_s > SILENCE_S) if receipt is not None else idle_s > SILENCE_S:
                await self._all_settled()
                raise _incomplete(self._job, after)
            if receipt is not None and idle_s > IDLE_S and not self._under_way:
                raise Park(IDLE_S)
            await self._intake.changed(seen, 0.5)

    async def _all_settled(self) -> None:
        for event in tuple(self._under_way.values()):
            await event.wait()

    async def _passed(self, item: Item) -> None:
        """Count one that was settled before, in its turn."""
        await self._all_settled()
        self._count(item)

    async def _prepare(self, item: Item) -> Prepared | Document | WeftError:
        try:
            if self._collection is None or self._embedder is None:
                raise unknown_collection(self._key)
            data = b"".join([part async for part in self._blobs.parts(self._blob(item))])
            return await self._preparer.prepare(self._collection, self._embedder, item, data, self._running.check)
        except WeftError as err:
            if err.reason in _PASSING:
                raise
            return err

    async def _settled(self, item: Item, prepared: Prepared | Document | WeftError) -> Item:
        if isinstance(prepared, Prepared):
            return await self._publish(item, prepared)
        if isinstance(prepared, Document):
            return _taken(item, Outcome.UNCHANGED, prepared)
        return replace(item, outcome=Outcome.FAILED, error=prepared)

    async def _settle(self, item: Item, prepared: Prepared | Document | WeftError) -> Item:
        settled = await self._settled(item, prepared)
        await self._intake.settle(self._job.tenant, self._job.id, self._running.fence, settled)
        self._tasks.create_task(self._remove(item))
        self._under_way.pop(document_name(item.source)).set()
        return settled

    async def _remove(self, item: Item) -> None:
        with contextlib.suppress(WeftError):  # the sweep removes it in the end
            await self._blobs.remove(self._blob(item))

    async def _publish(self, item: Item, prepared: Prepared) -> Item:
        try:
            if await self._intake.superseded(self._job.tenant, self._job.id, item.number):
                later = await self._log.get_document(prepared.collection, prepared.document.name)
                return _taken(item, Outcome.UNCHANGED, later or prepared.document)
            return _taken(item, Outcome.INDEXED, await self._preparer.publish(prepared, self._running.check))
        except WeftError as err:
            if err.reason in _PASSING:
                raise
            if err.reason == Reason.COLLECTION_NOT_FOUND and await self._moved(prepared.collection):
                return await self._settled(item, await self._prepare(item))
            return replace(item, outcome=Outcome.FAILED, error=err)

    async def _moved(self, before: Collection) -> bool:
        """Whether a collection was not deleted but moved to another embedder (``reindex``): then go on there."""
        now = await self._log.get_collection(self._key)
        if now is None or now.id == before.id or now.created_s != before.created_s:
            return False
        self._collection, self._embedder = now, await self._embedders.get(now.embedder, now.dimension)
        return True

    def _count(self, item: Item) -> None:
        progress = self._tally.add(item)
        if progress.outcome is Outcome.FAILED and len(self._failed) < MAX_FAILED_KEPT:
            self._failed.append(progress)
        tally = self._tally
        message = f"{tally.chunks} passages of {tally.size_bytes} bytes; {item.source[-80:]}"
        self._running.progress(tally.settled, self._total, "documents", message)

    def _blob(self, item: Item) -> BlobKey:
        return BlobKey(self._job.tenant, self._job.id, item.number, item.sha256)


def _taken(item: Item, outcome: Outcome, record: Document) -> Item:
    return replace(item, outcome=outcome, chunks=record.chunk_count, sequence=record.sequence)


def _incomplete(job: Job, received: int) -> WeftError:
    return error(
        Reason.UPLOAD_INCOMPLETE,
        f"the upload of jobs/{job.id} ended after {received} documents; these are in. Send it again with the same "
        "request_id to go on",
        job=f"jobs/{job.id}",
        received=received,
    )

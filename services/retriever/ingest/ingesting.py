"""The job "ingest": works off the documents of an upload, in order, from the first that is not settled.

    waiting -> prepared (``preparing``) -> published -> settled, its bytes removed
                     └─────────> failed ──────┘

The job begins with the first document and goes on while others are still being sent; it ends when the upload
is complete and all are settled. Small documents that wait go through this by the group: a group is published in
one step and settled in one. While one group is published the next two are being prepared: three are in memory. A
document that can't be read fails alone. The same source twice in an upload is prepared the second time only
after the first was published, so the last one wins. Between ingests the log decides, and between an ingest and a
deletion: what arrived last stands, whenever it is worked off.

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
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mesh.jobs import Job, JobState, LeaseLost
from mesh.jobs.worker import Park, Running
from services.retriever.embedding import Embedders
from services.retriever.errors import unknown_collection
from services.retriever.ingest.preparing import PASSING, Preparer, Result
from services.retriever.ingest.uploads import SMALL_BYTES, BlobKey, Blobs, Fenced, Intake, Item
from services.retriever.ports import Content, Embedder, Log
from services.retriever.types import Collection, CollectionKey, Document, Epoch, Outcome, Progress, document_name
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
KIND: Final = "ingest"
SILENCE_S: Final = 15.0  # a sender that gave no sign for so long is gone
IDLE_S: Final = 2.0  # without a document to work on, the job lets others go
_AHEAD: Final = 1  # groups that wait, beside the one that is published and the one that is to join them
_PAGE: Final = 64
MAX_FAILED_KEPT: Final = 1_000  # in the summary; each was told when it failed
_GROUP: Final = 16  # small documents that are worked on together
_GROUP_BYTES: Final = 256 << 10


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


class _Group(NamedTuple):
    """Documents that are worked on together."""

    items: Sequence[Item]
    preparing: asyncio.Task[tuple[Collection | None, list[Result]]]


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
        queue: asyncio.Queue[_Group | None] = asyncio.Queue(_AHEAD)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._receive(queue))
                while (group := await queue.get()) is not None:
                    await self._settle(group)
        except BaseExceptionGroup as group:
            # The first failure is the job's; the others only followed from it.
            raise group.exceptions[0] from None
        tally = self._tally
        return Summary(tally.documents, tally.unchanged, tally.chunks, tally.epoch, tuple(self._failed))

    async def _receive(self, queue: asyncio.Queue[_Group | None]) -> None:
        async for page in self._pages():
            for items in _grouped(page):
                if items[0].outcome is not None:
                    await self._passed(items)
                    continue
                for item in items:
                    name = document_name(item.source)
                    if (before := self._under_way.get(name)) is not None:
                        await before.wait()
                    self._under_way[name] = asyncio.Event()
                await queue.put(_Group(items, self._tasks.create_task(self._prepare(items))))
        await queue.put(None)

    async def _pages(self) -> AsyncIterator[list[Item]]:
        """The documents of the upload, those together that are there together."""
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
            if page := _without_gaps(page, after):
                after = page[-1].number
                yield page
                last_s = time.monotonic()
                if receipt is None or not receipt.complete or after < receipt.count:
                    continue
            idle_s = time.monotonic() - last_s
            if receipt is not None and receipt.complete and after >= receipt.count:
                return
            if (receipt.broken or receipt.silent_s > SILENCE_S) if receipt is not None else idle_s > SILENCE_S:
                if not self._under_way:
                    raise _incomplete(self._job, after)
                await self._all_settled()  # it may be back by then
                continue
            if receipt is not None and idle_s > IDLE_S and not self._under_way:
                raise Park(IDLE_S)
            await self._intake.changed(seen, 0.5)

    async def _all_settled(self) -> None:
        for event in tuple(self._under_way.values()):
            await event.wait()

    async def _passed(self, items: Sequence[Item]) -> None:
        """Count what was settled before, in its turn."""
        await self._all_settled()
        for item in items:
            self._count(item)

    async def _prepare(self, items: Sequence[Item]) -> tuple[Collection | None, list[Result]]:
        """Prepare documents, and for which collection: it may be moved meanwhile."""
        collection, embedder = self._collection, self._embedder
        if collection is None or embedder is None:
            return None, [unknown_collection(self._key) for _ in items]
        uploads = [*zip(items, await self._bytes(items), strict=True)]
        return collection, await self._preparer.prepare(collection, embedder, uploads, self._running.check)

    async def _bytes(self, items: Sequence[Item]) -> list[bytes | WeftError]:
        if items[0].size_bytes <= SMALL_BYTES:
            return await self._blobs.get([self._blob(item) for item in items])
        try:
            return [b"".join([part async for part in self._blobs.parts(self._blob(items[0]))])]
        except WeftError as err:
            if err.reason in PASSING:
                raise
            return [err]

    async def _settle(self, group: _Group) -> None:
        """See a group through to its end, and count it."""
        settled = await self._settled(group.items, *await group.preparing)
        await self._intake.settle(self._job.tenant, self._job.id, self._running.fence, settled)
        self._tasks.create_task(self._remove(settled))
        for item in settled:
            self._under_way.pop(document_name(item.source)).set()
            self._count(item)

    async def _remove(self, items: Sequence[Item]) -> None:
        with contextlib.suppress(WeftError):  # the sweep removes them in the end
            await self._blobs.remove([self._blob(item) for item in items])

    async def _settled(
        self, items: Sequence[Item], collection: Collection | None, results: Sequence[Result]
    ) -> list[Item]:
        """The documents with what became of them; those that are ready are published."""
        pairs = [*zip(items, results, strict=True)]
        ready = [(item, result) for item, result in pairs if isinstance(result, Content)]
        known = [(item, result) for item, result in pairs if isinstance(result, Document)]
        settled = [_failed(item, result) for item, result in pairs if isinstance(result, WeftError)]
        if collection and ready:
            settled += await self._published(ready, collection)
        if collection and known:
            settled += await self._confirmed(known, collection)
        return sorted(settled, key=lambda item: item.number)

    async def _confirmed(self, known: Sequence[tuple[Item, Document]], collection: Collection) -> list[Item]:
        """What arrived again as it is there. What is another by now is prepared anew."""
        items, documents = zip(*known, strict=True)
        self._running.check()
        stand = await self._log.confirm(collection, documents)
        changed = [item for item, stands in zip(items, stand, strict=True) if not stands]
        if changed:
            await self._moved(collection)
        settled = await self._settled(changed, *await self._prepare(changed)) if changed else []
        pairs = zip(items, documents, stand, strict=True)
        return settled + [_taken(item, Outcome.UNCHANGED, record) for item, record, stands in pairs if stands]

    async def _published(self, ready: Sequence[tuple[Item, Content]], collection: Collection) -> list[Item]:
        items, contents = zip(*ready, strict=True)
        try:
            records = await self._preparer.publish(collection, contents, self._running.check)
            return [_published(item, record) for item, record in zip(items, records, strict=True)]
        except WeftError as err:
            if err.reason in PASSING:
                raise
            if err.reason == Reason.COLLECTION_NOT_FOUND:
                if await self._moved(collection):
                    return await self._settled(items, *await self._prepare(items))
            elif len(items) > 1:  # one of them is to blame
                return [item for pair in ready for item in await self._published([pair], collection)]
            return [_failed(item, err) for item in items]

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
        return BlobKey(self._job.tenant, item.upload, item.number, item.sha256)


def _without_gaps(page: Sequence[Item], after: int) -> list[Item]:
    """Those before the first number that is missing: it was let go, and is still to come again."""
    return [item for number, item in enumerate(page, after + 1) if item.number == number]


def _grouped(page: Sequence[Item]) -> Iterator[list[Item]]:
    """Those that go together, in order: settled ones; small ones, each of another source; else each by itself."""
    group: list[Item] = []
    for item in page:
        first = group[0] if group else item
        together = item.outcome is not None and first.outcome is not None
        if item.outcome is None and first.outcome is None and max(first.size_bytes, item.size_bytes) <= SMALL_BYTES:
            size_bytes = item.size_bytes + sum(one.size_bytes for one in group)
            another = all(one.source != item.source for one in group)
            together = another and len(group) < _GROUP and size_bytes <= _GROUP_BYTES
        if group and not together:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def gave_up(job: Job) -> bool:
    """Whether it ended for want of a sender. One that comes late sets it going again."""
    return job.state is JobState.FAILED and job.error is not None and job.error.reason == Reason.UPLOAD_INCOMPLETE


def _failed(item: Item, failure: WeftError) -> Item:
    return replace(item, outcome=Outcome.FAILED, error=failure)


def _taken(item: Item, outcome: Outcome, record: Document) -> Item:
    return replace(item, outcome=outcome, chunks=record.chunk_count, sequence=record.sequence)


def _published(item: Item, record: Document | None) -> Item:
    """Where something of the same source came after it, and was worked off before it, that stands: nothing changed."""
    if record is None:
        return replace(item, outcome=Outcome.UNCHANGED)
    later = record.arrived_s > item.arrived_s
    return _taken(item, Outcome.UNCHANGED if later else Outcome.INDEXED, record)


def _incomplete(job: Job, received: int) -> WeftError:
    return error(
        Reason.UPLOAD_INCOMPLETE,
        f"the upload of jobs/{job.id} ended after {received} documents; these are in. Send it again with the same "
        "request_id to go on",
        job=f"jobs/{job.id}",
        received=received,
    )

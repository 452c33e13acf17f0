"""The job "reindex": moves a collection to another embedder while it is searched and changed.

    collection ──copy, embedded anew──> ~collection ──catch up──> switched at once
         ^ searches and ingests go on            └─again, where it changed in between

The new collection is made beside the old one, under a name that no caller can say (``aside``). Replicas hold
both meanwhile, so the switch costs them nothing: it gives the name to the new one and deletes the old, and a
replica shows it when it has applied all of it. First all documents are copied: same text, same chunks, other
vectors. Then whatever the log says was put or deleted since is taken over, until nothing is left, and the
switch succeeds only if that is still so. Under changes that never pause it goes on catching up.

Whoever takes the job over finds the half-made collection and goes on: documents with the same content are
there already. A job that is cancelled while it runs removes it, the next job for another embedder does, and else the
sweep when no job is at it any more (``sweeping``).

Errors: COLLECTION_NOT_FOUND; EMBEDDER_UNAVAILABLE (another worker may have it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass, replace
from typing import Final

from mesh.jobs import Job, Jobs, JobState, Submission
from mesh.jobs.worker import Running, traceparent
from services.retriever.embedding import Embedders
from services.retriever.errors import unknown_collection
from services.retriever.ingest.preparing import Preparer
from services.retriever.ports import Embedder, Log
from services.retriever.types import Collection, CollectionKey, Document, Epoch
from weft.errors import Reason, WeftError, error

KIND: Final = "reindex"
_PAGE: Final = 100
_MOST_JOBS: Final = 1_000
_MARK: Final = "~"  # sorts behind every name that a caller can say


def payload(key: CollectionKey, embedder: str) -> bytes:
    """What a job of this kind is given."""
    return json.dumps({"collection": key.name, "embedder": embedder}).encode()


def aside(key: CollectionKey) -> CollectionKey:
    """Where the new collection is made."""
    return CollectionKey(key.tenant, _MARK + key.name)


def is_aside(key: CollectionKey) -> bool:
    """Whether it is one that is being made, and not to be told of."""
    return key.name.startswith(_MARK)


def finished_name(key: CollectionKey) -> CollectionKey:
    """The collection whose place the one ``aside`` will take."""
    return CollectionKey(key.tenant, key.name.removeprefix(_MARK))


async def under_way(jobs: Jobs, key: CollectionKey) -> Job | None:
    """The job that moves the collection ``key``, if one waits or runs; of several, which a moment brings, the first."""
    found: dict[str, Job] = {}
    # In the order of a job's life, and back to its beginning for those that were given back, or one could slip through.
    for state in (JobState.QUEUED, JobState.RUNNING, JobState.QUEUED):
        for job in (await jobs.list_jobs(key.tenant, state=state, limit=_MOST_JOBS))[0]:
            if job.kind == KIND and json.loads(job.payload)["collection"] == key.name:
                found[job.id] = job
    return min(found.values(), key=lambda job: (job.created_s, job.id), default=None)


async def ask(jobs: Jobs, collection: Collection, embedder: str) -> Job:
    """The job that moves ``collection``: the one under way, or a new one.

    Raises:
        WeftError: JOB_ACTIVE when one moves it to another embedder; OVERLOADED.
    """
    wanted = payload(collection.key, embedder)
    job = await under_way(jobs, collection.key)
    if job is not None and job.payload == wanted:
        return job
    if job is not None:
        raise error(
            Reason.JOB_ACTIVE,
            f"jobs/{job.id} moves {collection.key.resource} to {json.loads(job.payload)['embedder']}; wait for its "
            "end, or cancel it",
            job=f"jobs/{job.id}",
            collection=collection.key.resource,
        )
    tenant = collection.key.tenant
    job = await jobs.submit(Submission(tenant, KIND, uuid.uuid4().hex, wanted, traceparent=traceparent()))
    first = await under_way(jobs, collection.key)
    if first is None or first.id == job.id:
        return job
    await jobs.cancel(tenant, job.id)  # somebody else asked in the same moment
    return await ask(jobs, collection, embedder)


@dataclass(frozen=True, slots=True)
class Moved:
    """A collection at its new embedder."""

    collection: Collection
    epoch: Epoch


class Reindexer:
    """Runs reindex jobs."""

    def __init__(self, log: Log, embedders: Embedders, preparer: Preparer) -> None:
        self._log, self._embedders, self._preparer = log, embedders, preparer

    async def run(self, running: Running) -> Moved:
        """Work a job off."""
        wanted = json.loads(running.job.payload)
        key = CollectionKey(running.job.tenant, wanted["collection"])
        try:
            embedder = await self._embedders.get(wanted["embedder"])
            return await self._move(running, key, embedder)
        except WeftError as err:
            if err.reason == Reason.COLLECTION_NOT_FOUND:
                await self._log.delete_collection(aside(key))
            raise
        except asyncio.CancelledError:
            if running.why == "cancel":
                with contextlib.suppress(WeftError):
                    await asyncio.shield(asyncio.ensure_future(self._log.delete_collection(aside(key))))
            raise

    async def _move(self, running: Running, key: CollectionKey, embedder: Embedder) -> Moved:
        while True:
            old = await self._log.get_collection(key)
            if old is None:
                raise unknown_collection(key)
            if old.embedder == embedder.url:
                running.progress(old.document_count, old.document_count, "documents", "moved")
                return Moved(old, Epoch(self._log.log_id, old.sequence))
            new = await self._made(running, key, embedder)
            copy = _Copy(running, self._log, self._preparer, embedder, old, new)
            try:
                await copy.all_documents()
                while not await self._switched(running, copy):
                    pass
            except WeftError as err:
                # The sweep took the new one for a leftover, or somebody deleted the old one: look again.
                if err.reason != Reason.COLLECTION_NOT_FOUND:
                    raise

    async def _switched(self, running: Running, copy: _Copy) -> bool:
        """Catch up and switch; False where something changed before it could be done."""
        while await copy.catch_up():
            pass
        # In this order: what is touched after the look at the records, the switch sees by them.
        old, new = await self._log.get_collection(copy.old.key), await self._log.get_collection(copy.new.key)
        if old is None or new is None or (old.id, new.id) != (copy.old.id, copy.new.id):
            return True  # deleted, or switched by another: look again from the beginning
        if await copy.catch_up():
            return False
        running.check()
        return await self._log.switch(old, new) is not None

    async def _made(self, running: Running, key: CollectionKey, embedder: Embedder) -> Collection:
        """The new collection: the half-made one of an earlier try, or one without documents."""
        there = await self._log.get_collection(aside(key))
        running.check()
        if there is not None and there.embedder != embedder.url:
            await self._log.delete_collection(there.key)
            there = None
        return there or await self._log.create_collection(aside(key), embedder.url, embedder.url, embedder.dimension)


class _Copy:
    """Brings ``new`` up to ``old``."""

    def __init__(
        self, running: Running, log: Log, preparer: Preparer, embedder: Embedder, old: Collection, new: Collection
    ) -> None:
        self._running, self._log, self._preparer, self._embedder = running, log, preparer, embedder
        self.old, self.new = old, new
        self._seen = old.sequence  # of the log: all before is copied, or will be by ``all_documents``
        self._done = 0

    async def all_documents(self) -> None:
        """Copy all there are, and remove what an earlier try copied that is gone since."""
        after = ""
        while page := await self._log.list_documents(self.old, after, _PAGE):
            for document in page:
                there = await self._log.get_document(self.new, document.name)
                if not _is_copy(there, document):
                    await self._one(document.name)
                self._done += 1
                self._tell(document.source)
            after = page[-1].name
        after = ""
        while page := await self._log.list_documents(self.new, after, _PAGE):
            for document in page:
                if await self._log.get_document(self.old, document.name) is None:
                    await self._one(document.name)
            after = page[-1].name

    async def catch_up(self) -> bool:
        """Take over a page of what was touched since; returns whether there was anything."""
        touched = await self._log.touched(self.old, self._seen, _PAGE)
        for name in dict.fromkeys(name for _, name in touched):
            await self._one(name)
        if touched:
            self._seen = touched[-1][0]
        return bool(touched)

    async def _one(self, name: str) -> None:
        """Let a document stand in the new collection as it does in the old."""
        stored = await self._log.get_stored(self.old, name)
        if stored is None:
            self._running.check()
            await self._log.delete_document(self.new, name)
            return
        there = await self._log.get_document(self.new, name)
        if _is_copy(there, stored.document):
            return
        content = await self._preparer.embed(
            self.new, self._embedder, stored.document, stored.chunks, self._running.check
        )
        await self._preparer.publish(self.new, [replace(content, copied=True)], self._running.check)

    def _tell(self, source: str) -> None:
        total = max(self._done, self.old.document_count)
        self._running.progress(self._done, total, "documents", source[-80:])


def _is_copy(there: Document | None, original: Document) -> bool:
    """Whether a document stands as the original does, but for when."""
    return there is not None and original == replace(
        there, sequence=original.sequence, updated_s=original.updated_s, arrived_s=original.arrived_s
    )

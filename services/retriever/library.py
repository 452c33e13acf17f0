"""Collections and documents as records: made, named, listed, deleted.

Reads go to the log itself, so every replica answers them alike and at once; searches alone read the
replica's own state.

Errors: COLLECTION_NOT_FOUND, COLLECTION_EXISTS, DOCUMENT_NOT_FOUND, and of embedders what ``embedding`` says.
"""

from __future__ import annotations

from mesh.jobs import Job, Jobs
from services.retriever.embedding import Embedders
from services.retriever.errors import unknown_collection
from services.retriever.ingest import reindex
from services.retriever.ingest.reindex import aside, is_aside
from services.retriever.ports import Log
from services.retriever.replicas.replica import Replica
from services.retriever.types import Collection, CollectionKey, Document, Epoch
from weft.errors import Reason, WeftError, error


class Library:
    """What there is in the log."""

    def __init__(self, log: Log, replica: Replica, embedders: Embedders, jobs: Jobs) -> None:
        self._log, self._replica, self._embedders, self._jobs = log, replica, embedders, jobs

    def epoch(self, sequence: int) -> Epoch:
        """A position in this library's log."""
        return Epoch(self._log.log_id, sequence)

    async def create_collection(self, key: CollectionKey, embedder_url: str) -> Collection:
        """Make a collection, or return the one that is there if it is of the same kind."""
        there = await self._log.get_collection(key)
        if there is None:
            embedder = await self._embedders.for_new(embedder_url)
            wanted = embedder_url or self._embedders.default_url
            there = await self._log.create_collection(key, embedder.url, wanted, embedder.dimension)
            await self._replica.settle(there.sequence)
        if embedder_url and embedder_url not in (there.embedder, there.wanted_embedder):
            raise error(
                Reason.COLLECTION_EXISTS,
                f"{key.resource} exists with embedder {there.embedder}; take another name, or leave the embedder out",
                collection=key.resource,
                embedder=there.embedder,
                asked=embedder_url,
            )
        return there

    async def open_for_ingest(self, key: CollectionKey) -> Collection:
        """The collection, made if absent, whose embedder is to be had here."""
        collection = await self.create_collection(key, "")
        await self._embedders.get(collection.embedder, collection.dimension)
        return collection

    async def settle(self, epoch: Epoch) -> None:
        """Wait a little until this replica sees what was written, so that its caller does, too."""
        await self._replica.settle(epoch.sequence)

    async def get_collection(self, key: CollectionKey) -> Collection:
        """The collection's record."""
        collection = await self._log.get_collection(key)
        if collection is None:
            raise unknown_collection(key)
        return collection

    async def list_collections(self, tenant: str, after: str, limit: int) -> list[Collection]:
        """A tenant's collections by name, from the first name past ``after``."""
        # Those that are being made sort behind all others.
        return [there for there in await self._log.list_collections(tenant, after, limit) if not is_aside(there.key)]

    async def delete_collection(self, key: CollectionKey) -> Epoch:
        """Delete a collection with all that is in it."""
        sequence = await self._log.delete_collection(key)
        if sequence is None:
            raise unknown_collection(key)
        await self._log.delete_collection(aside(key))
        await self._replica.settle(sequence)
        return self.epoch(sequence)

    async def reindex(self, key: CollectionKey, embedder_url: str) -> Job:
        """Move a collection to another embedder; the job that does it."""
        collection = await self.get_collection(key)
        await self._embedders.get(embedder_url)
        return await reindex.ask(self._jobs, collection, embedder_url)

    async def get_document(self, key: CollectionKey, name: str) -> Document:
        """A document's record."""
        document = await self._log.get_document(await self.get_collection(key), name)
        if document is None:
            raise _unknown_document(key, name)
        return document

    async def list_documents(self, key: CollectionKey, after: str, limit: int) -> list[Document]:
        """Records by name, from the first name past ``after``."""
        return await self._log.list_documents(await self.get_collection(key), after, limit)

    async def delete_document(self, key: CollectionKey, name: str) -> Epoch:
        """Delete a document with its passages."""
        while True:
            collection = await self.get_collection(key)
            try:
                sequence = await self._log.delete_document(collection, name)
                break
            except WeftError as err:  # it was moved in between: then the document is in the new one
                if err.reason != Reason.COLLECTION_NOT_FOUND:
                    raise
        if sequence is None:
            raise _unknown_document(key, name)
        await self._replica.settle(sequence)
        return self.epoch(sequence)


def _unknown_document(key: CollectionKey, name: str) -> Exception:
    return error(
        Reason.DOCUMENT_NOT_FOUND,
        f"there is no {key.resource}/documents/{name}; ListDocuments tells those there are",
        collection=key.resource,
        document=name,
    )

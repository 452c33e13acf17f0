"""RetrieverService on the wire: protobuf in and out, and no decisions.

Checks are in ``door``, conversions in ``messages``; each handler is the call of one domain method.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc import aio
from opentelemetry import trace

from mesh import context as call_context
from mesh import deadline as call_deadline
from mesh.validation import check_page, check_text
from services.retriever import door, messages
from services.retriever.ingest.receiving import Receiver
from services.retriever.library import Library
from services.retriever.search.searching import Searcher
from services.retriever.types import CollectionKey, Epoch, Progress
from weft import names
from weft.errors import WeftError
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

_WRITE_S = 1.0  # a report that was begun is waited for so long before the call ends with an error
_NO_DEADLINE_S = 30.0  # for a call outside of the mesh's server, which always binds one


class RetrieverServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Implements ``weft.retriever.v1.RetrieverService``."""

    def __init__(
        self, library: Library, searcher: Searcher, receiver: Receiver, log_id: str, max_document_bytes: int
    ) -> None:
        self._library, self._searcher, self._receiver = library, searcher, receiver
        self._log_id, self._max_document_bytes = log_id, max_document_bytes

    async def Search(self, request: pb.SearchRequest, context: aio.ServicerContext) -> pb.SearchResponse:
        """Find passages."""
        query = door.query(_tenant(), request)
        deadline = call_deadline.current() or call_deadline.Deadline.after(_NO_DEADLINE_S)
        found = await self._searcher.search(query, deadline)
        _note(query.key, found.epoch)
        span = trace.get_current_span()
        span.set_attribute(names.HITS, len(found.hits))
        if found.lacks:
            span.set_attribute(names.DEGRADED, [lack.stage for lack in found.lacks])
        return messages.found(query.key, found)

    async def IngestDocuments(
        self, request_iterator: AsyncIterator[pb.IngestDocumentsRequest], context: aio.ServicerContext
    ) -> None:
        """Take documents in."""
        requests = aiter(request_iterator)
        start = door.check_start(await anext(requests, None))

        writing: set[asyncio.Future[None]] = set()

        async def tell(progress: Progress) -> None:
            # Seen through even if we are cancelled: while a message is on its way, gRPC can't send why the call failed.
            message = pb.IngestDocumentsResponse(progress=messages.progress(progress))
            write = asyncio.ensure_future(context.write(message))
            writing.add(write)
            write.add_done_callback(writing.discard)
            await asyncio.shield(write)

        documents = door.incoming(requests, self._max_document_bytes)
        try:
            key = door.collection_key(_tenant(), start.collection, field="start.collection")
            collection = await self._library.open_for_ingest(key)
            job = await self._receiver.run(collection, start.request_id, documents, tell, detach=start.detach)
        except Exception as exc:
            if isinstance(exc, WeftError):
                await door.hear_out(requests)
            if writing:
                await asyncio.wait(writing, timeout=_WRITE_S)
            raise
        finished = messages.ingested(job, self._library.epoch(collection.sequence))
        epoch = self._library.epoch(finished.epoch.sequence)
        await self._library.settle(epoch)
        _note(key, epoch)
        await context.write(pb.IngestDocumentsResponse(finished=finished))

    async def GetDocument(self, request: pb.GetDocumentRequest, context: aio.ServicerContext) -> pb.GetDocumentResponse:
        """One document's record."""
        key, name = door.document_key(_tenant(), request.name)
        document = await self._library.get_document(key, name)
        return pb.GetDocumentResponse(document=messages.document(key, document, self._log_id))

    async def ListDocuments(
        self, request: pb.ListDocumentsRequest, context: aio.ServicerContext
    ) -> pb.ListDocumentsResponse:
        """A collection's documents, by name."""
        key = door.collection_key(_tenant(), request.collection)
        size, after = check_page(request.page_size, request.page_token)
        documents = await self._library.list_documents(key, after, size + 1)
        return pb.ListDocumentsResponse(
            documents=[messages.document(key, document, self._log_id) for document in documents[:size]],
            next_page_token=documents[size - 1].name if len(documents) > size else "",
        )

    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, context: aio.ServicerContext
    ) -> pb.DeleteDocumentResponse:
        """Remove a document."""
        key, name = door.document_key(_tenant(), request.name)
        epoch = await self._library.delete_document(key, name)
        _note(key, epoch)
        return pb.DeleteDocumentResponse(epoch=messages.epoch(epoch))

    async def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: aio.ServicerContext
    ) -> pb.CreateCollectionResponse:
        """Make a collection."""
        key = door.collection_key(_tenant(), request.name, field="name", default=False)
        embedder = check_text("embedder", request.embedder, max_chars=2_048, min_chars=0, allow_newlines=False)
        made = await self._library.create_collection(key, embedder)
        return pb.CreateCollectionResponse(collection=messages.collection(made, self._log_id))

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: aio.ServicerContext
    ) -> pb.GetCollectionResponse:
        """One collection."""
        key = door.collection_key(_tenant(), request.name, field="name", default=False)
        there = await self._library.get_collection(key)
        return pb.GetCollectionResponse(collection=messages.collection(there, self._log_id))

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: aio.ServicerContext
    ) -> pb.ListCollectionsResponse:
        """The tenant's collections, by name."""
        size, after = check_page(request.page_size, request.page_token)
        collections = await self._library.list_collections(_tenant(), after, size + 1)
        return pb.ListCollectionsResponse(
            collections=[messages.collection(there, self._log_id) for there in collections[:size]],
            next_page_token=collections[size - 1].key.name if len(collections) > size else "",
        )

    async def ReindexCollection(
        self, request: pb.ReindexCollectionRequest, context: aio.ServicerContext
    ) -> pb.ReindexCollectionResponse:
        """Move a collection to another embedder."""
        key = door.collection_key(_tenant(), request.name, field="name", default=False)
        embedder = check_text("embedder", request.embedder, max_chars=2_048, allow_newlines=False)
        job = await self._library.reindex(key, embedder)
        return pb.ReindexCollectionResponse(job=f"jobs/{job.id}")

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: aio.ServicerContext
    ) -> pb.DeleteCollectionResponse:
        """Remove a collection."""
        key = door.collection_key(_tenant(), request.name, field="name", default=False)
        epoch = await self._library.delete_collection(key)
        _note(key, epoch)
        return pb.DeleteCollectionResponse(epoch=messages.epoch(epoch))


def _tenant() -> str:
    return call_context.current().tenant


def _note(key: CollectionKey, epoch: Epoch) -> None:
    """Leave in the span what was looked at, and how far."""
    span = trace.get_current_span()
    span.set_attribute(names.COLLECTION, key.resource)
    span.set_attribute(names.EPOCH, str(epoch))

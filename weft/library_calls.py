"""``client.collections`` and ``client.documents``: what is in, and taking it out again.

    await c.collections.create("handbook", embedder="minilm:")
    async for document in c.documents.list("handbook"):
        print(document.source, document.chunks)
    await c.documents.delete(document.name)

What this client has deleted its own searches and asks no longer find, whichever replica answers.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from grpc import aio

from weft import checks, convert, wire
from weft.answers import Collection, Epoch, StoredDocument
from weft.connection import Connection
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

_SERVICE: Final = "retriever"
_PAGE: Final = 200

OnChange = Callable[[str, Epoch], None]
"""Called with a collection's name and the epoch of what this client changed in it."""


class _Calls:
    def __init__(self, connection: Connection, timeout_s: float, on_change: OnChange) -> None:
        self._connection, self._timeout_s, self._on_change = connection, timeout_s, on_change

    async def _call(self, method: str, request: Any) -> Any:
        stub = retriever_pb2_grpc.RetrieverServiceStub(self._connection.channel(_SERVICE))
        metadata = self._connection.metadata(uuid.uuid4().hex)
        try:
            return await getattr(stub, method)(request, timeout=self._timeout_s, metadata=metadata)
        except aio.AioRpcError as exc:
            raise self._connection.explain(exc, _SERVICE, self._timeout_s) from exc

    def _changed(self, collection: str, reply: Any) -> None:
        epoch = wire.epoch(reply.epoch)
        if epoch is not None:
            self._on_change(collection, epoch)


class Collections(_Calls):
    """The collections of a client's tenant. A name is ``collections/{c}``, or ``c`` alone."""

    async def list(self) -> AsyncIterator[Collection]:
        """Collections by name."""
        request = pb.ListCollectionsRequest(page_size=_PAGE)
        while True:
            reply = await self._call("ListCollections", request)
            for message in reply.collections:
                yield convert.collection(message)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def get(self, collection: str) -> Collection:
        """One collection.

        Raises:
            NotFound: no such collection.
        """
        reply = await self._call("GetCollection", pb.GetCollectionRequest(name=_collection(collection)))
        return convert.collection(reply.collection)

    async def create(self, collection: str, embedder: str = "") -> Collection:
        """Make a collection, which an ingest would do by itself with the operator's default embedder.

        Args:
            collection: 1 to 63 lower-case letters, digits and hyphens.
            embedder: URL, such as "minilm:" or "none:"; empty: the operator's default.

        Raises:
            AlreadyExists: it is there with another embedder.
            FailedPrecondition: the embedder can't be had.
        """
        request = pb.CreateCollectionRequest(name=_collection(collection), embedder=embedder)
        return convert.collection((await self._call("CreateCollection", request)).collection)

    async def delete(self, collection: str) -> None:
        """Delete a collection with all its documents.

        Raises:
            NotFound: no such collection.
        """
        name = _collection(collection)
        self._changed(name, await self._call("DeleteCollection", pb.DeleteCollectionRequest(name=name)))


class Documents(_Calls):
    """The documents of a client's tenant. A name is ``collections/{c}/documents/{d}``, as ``list`` and hits have it."""

    async def list(self, collection: str = "default") -> AsyncIterator[StoredDocument]:
        """The documents of a collection, by name.

        Raises:
            NotFound: no such collection.
        """
        request = pb.ListDocumentsRequest(collection=_collection(collection), page_size=_PAGE)
        while True:
            reply = await self._call("ListDocuments", request)
            for message in reply.documents:
                yield convert.document(message)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def get(self, document: str) -> StoredDocument:
        """One document's record.

        Raises:
            NotFound: no such document.
        """
        reply = await self._call("GetDocument", pb.GetDocumentRequest(name=checks.text("document", document)))
        return convert.document(reply.document)

    async def delete(self, document: str) -> None:
        """Delete a document with all its passages.

        Raises:
            NotFound: no such document.
        """
        reply = await self._call("DeleteDocument", pb.DeleteDocumentRequest(name=checks.text("document", document)))
        self._changed(document.partition("/documents/")[0], reply)


def _collection(name: str) -> str:
    return checks.resource("collections", name, "collection")

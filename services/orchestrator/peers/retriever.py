"""The Retriever port over RetrieverService."""

from __future__ import annotations

from grpc import aio

from services.orchestrator.peers.leaving import result
from services.orchestrator.types import Found, SearchQuery
from weft import wire
from weft.errors import from_rpc_error
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc


class RetrieverPeer:
    """Searches over a channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = retriever_pb2_grpc.RetrieverServiceStub(channel)

    async def search(self, query: SearchQuery) -> Found:
        """See the port."""
        request = retriever_pb2.SearchRequest(
            collection=query.collection,
            query=query.query,
            top_k=query.top_k,
            filter=query.filter,
            allow_cached=query.allow_cached,
        )
        wire.put_epoch(request.min_epoch, query.min_epoch)
        try:
            response = await result(self._stub.Search(request))
        except aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return Found(
            passages=tuple(wire.passage(hit.passage) for hit in response.hits),
            epoch=wire.epoch(response.epoch),
            degraded=wire.degraded(response.degraded),
        )

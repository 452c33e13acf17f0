"""The document search's port over RetrieverService: the caller's tenant and deadline travel along."""

from __future__ import annotations

from grpc import aio

from services.tools.types import FoundPassage, FoundPassages, Scope
from weft import wire
from weft.errors import from_rpc_error
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc


class RetrieverDocuments:
    """Searches over a channel to the retriever."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = retriever_pb2_grpc.RetrieverServiceStub(channel)

    async def find(self, query: str, *, top_k: int, scope: Scope) -> FoundPassages:
        """See the port."""
        request = retriever_pb2.SearchRequest(
            collection=scope.collection, query=query, top_k=top_k, filter=scope.filter
        )
        wire.put_epoch(request.min_epoch, scope.min_epoch)
        try:
            response = await self._stub.Search(request)
        except aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        epoch = response.epoch
        return FoundPassages(
            passages=tuple(map(_passage, response.hits)),
            epoch=f"{epoch.log_id}:{epoch.sequence}" if epoch.log_id else "",
            degraded=tuple(item.detail or f"{item.stage}: {item.reason}" for item in response.degraded),
        )


def _passage(hit: retriever_pb2.Hit) -> FoundPassage:
    passage = hit.passage
    return FoundPassage(
        passage=passage.name,
        title=passage.title,
        section=passage.section,
        source=passage.source,
        text=passage.text,
        score=hit.score,
    )

"""A real server on port 0 with the services that the SDK calls, playing what a test has written down.

Chat plays one script per call, in order: messages are sent, exceptions end the stream (a ``WeftError``
as a handler would, a status code as a broken connection would), HANG waits until the caller goes away.
A script that was not played fails the test that wrote it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

import weft
from weft.common.v1 import epoch_pb2
from weft.errors import Reason, WeftError, error, status_trailer, to_proto
from weft.mesh.v1 import registry_pb2, routing_pb2, routing_pb2_grpc, status_pb2, status_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2 as chat_pb2
from weft.orchestrator.v1 import orchestrator_pb2_grpc as chat_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc

HANG = "hang"
Step = chat_pb2.ChatResponse | WeftError | grpc.StatusCode | str


def event(sequence: int, **what: Any) -> chat_pb2.ChatResponse:
    return chat_pb2.ChatResponse(sequence=sequence, **what)


def started(sequence: int = 0, *, session: str = "sessions/s1") -> chat_pb2.ChatResponse:
    return event(
        sequence,
        started=chat_pb2.Started(
            session=session, turn=f"{session}/turns/1", trace_id="ab" * 16, versions={"orchestrator": "v1"}
        ),
    )


def delta(sequence: int, text: str) -> chat_pb2.ChatResponse:
    return event(sequence, text_delta=chat_pb2.TextDelta(text=text))


def finished(sequence: int, text: str, **fields: Any) -> chat_pb2.ChatResponse:
    return event(sequence, finished=chat_pb2.Finished(text=text, reason=1, **fields))


async def _fail(context: aio.ServicerContext, failure: WeftError | grpc.StatusCode) -> None:
    if isinstance(failure, WeftError):
        await context.abort(failure.code, failure.message, (status_trailer(failure),))
    else:
        await context.abort(failure, "the connection broke")


class Chat(chat_grpc.OrchestratorServiceServicer):
    def __init__(self) -> None:
        self.scripts: list[Sequence[Step]] = []
        self.requests: list[chat_pb2.ChatRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.completed = 0
        self.cancelled = asyncio.Event()

    async def Chat(self, request: chat_pb2.ChatRequest, context: aio.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        try:
            for step in self.scripts.pop(0):
                if isinstance(step, chat_pb2.ChatResponse):
                    await context.write(step)
                elif step is HANG:
                    await asyncio.sleep(60)
                else:
                    assert not isinstance(step, str)
                    await _fail(context, step)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.completed += 1


class Retriever(retriever_pb2_grpc.RetrieverServiceServicer):
    """Takes in every document but those in ``refused``; may break once after some documents."""

    def __init__(self) -> None:
        self.hits: list[retriever_pb2.Hit] = []
        self.failure: WeftError | grpc.StatusCode | None = None
        self.searches: list[retriever_pb2.SearchRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.documents: dict[str, bytes] = {}
        self.headers: list[retriever_pb2.DocumentHeader] = []
        self.collections: list[str] = []
        self.request_ids: list[str] = []
        self.refused: dict[str, WeftError] = {}
        self.break_after: int | None = None
        self.break_with: WeftError | grpc.StatusCode = grpc.StatusCode.UNAVAILABLE

    def _epoch(self) -> epoch_pb2.Epoch:
        return epoch_pb2.Epoch(log_id="0" * 32, sequence=len(self.documents))

    async def Search(
        self, request: retriever_pb2.SearchRequest, context: aio.ServicerContext
    ) -> retriever_pb2.SearchResponse:
        self.searches.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        if self.failure is not None:
            await _fail(context, self.failure)
        return retriever_pb2.SearchResponse(hits=self.hits, epoch=self._epoch())

    async def IngestDocuments(
        self, requests: AsyncIterator[retriever_pb2.IngestDocumentsRequest], context: aio.ServicerContext
    ) -> None:
        header: retriever_pb2.DocumentHeader | None = None
        content, done = b"", 0
        async for request in requests:
            match request.WhichOneof("part"):
                case "start":
                    self.collections.append(request.start.collection)
                    self.request_ids.append(request.start.request_id)
                case "document":
                    if header is not None:
                        done = await self._take(header, content, context, done)
                    header, content = request.document, b""
                case "data":
                    content += request.data
        if header is not None:
            done = await self._take(header, content, context, done)
        summary = retriever_pb2.IngestFinished(documents=done, epoch=self._epoch())
        await context.write(retriever_pb2.IngestDocumentsResponse(finished=summary))

    async def _take(
        self, header: retriever_pb2.DocumentHeader, content: bytes, context: aio.ServicerContext, done: int
    ) -> int:
        if self.break_after == done:
            self.break_after = None
            await _fail(context, self.break_with)
        self.headers.append(header)
        progress = retriever_pb2.IngestProgress(source=header.source, outcome="INGEST_OUTCOME_INDEXED", chunks=2)
        if (refusal := self.refused.get(header.source)) is not None:
            progress.outcome = retriever_pb2.INGEST_OUTCOME_FAILED
            progress.chunks = 0
            progress.error.CopyFrom(to_proto(refusal))
        else:
            if self.documents.get(header.source) == content:
                progress.outcome = retriever_pb2.INGEST_OUTCOME_UNCHANGED
            self.documents[header.source] = content
            progress.epoch.CopyFrom(self._epoch())
        await context.write(retriever_pb2.IngestDocumentsResponse(progress=progress))
        return done + 1


class Status(status_pb2_grpc.StatusServiceServicer):
    """A mesh with a healthy instance of each service but those in ``missing``."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    async def GetMeshStatus(
        self, request: status_pb2.GetMeshStatusRequest, context: aio.ServicerContext
    ) -> status_pb2.GetMeshStatusResponse:
        found = status_pb2.GetMeshStatusResponse(snapshot_version="1", registry="builtin:", registry_available=True)
        for service in ("retriever", "generator", "tools", "orchestrator"):
            health = status_pb2.HEALTH_NOT_SERVING if service in self.missing else status_pb2.HEALTH_SERVING
            instance = registry_pb2.Instance(service=service, id=f"{service}-1", host="127.0.0.1", port=1, version="v1")
            found.instances.add(instance=instance, health=health)
        return found


class Routing(routing_pb2_grpc.RoutingServiceServicer):
    """Keeps policies and takes every one."""

    def __init__(self) -> None:
        self.policies: dict[str, routing_pb2.RoutePolicy] = {}

    async def SetRoutePolicy(
        self, request: routing_pb2.SetRoutePolicyRequest, context: aio.ServicerContext
    ) -> routing_pb2.SetRoutePolicyResponse:
        self.policies[request.policy.service] = request.policy
        return routing_pb2.SetRoutePolicyResponse(policy=request.policy)

    async def GetRoutePolicy(
        self, request: routing_pb2.GetRoutePolicyRequest, context: aio.ServicerContext
    ) -> routing_pb2.GetRoutePolicyResponse:
        if request.service not in self.policies:
            await _fail(context, error(Reason.POLICY_NOT_FOUND, "none is set"))
        status = routing_pb2.PolicyStatus(policy=self.policies[request.service])
        return routing_pb2.GetRoutePolicyResponse(status=status)

    async def ListRoutePolicies(
        self, request: routing_pb2.ListRoutePoliciesRequest, context: aio.ServicerContext
    ) -> routing_pb2.ListRoutePoliciesResponse:
        found = [routing_pb2.PolicyStatus(policy=policy) for policy in self.policies.values()]
        return routing_pb2.ListRoutePoliciesResponse(policies=found)

    async def DeleteRoutePolicy(
        self, request: routing_pb2.DeleteRoutePolicyRequest, context: aio.ServicerContext
    ) -> routing_pb2.DeleteRoutePolicyResponse:
        self.policies.pop(request.service, None)
        return routing_pb2.DeleteRoutePolicyResponse()


class Server:
    """The services behind one address."""

    def __init__(self) -> None:
        self.chat, self.retriever = Chat(), Retriever()
        self.status, self.routing = Status(), Routing()
        self.port = 0
        self._server: aio.Server | None = None

    async def start(self) -> None:
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        chat_grpc.add_OrchestratorServiceServicer_to_server(self.chat, server)
        retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(self.retriever, server)
        status_pb2_grpc.add_StatusServiceServicer_to_server(self.status, server)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(self.routing, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """End at once: every stream breaks as if the process had been killed."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    def client(self, **options: Any) -> weft.Client:
        """A client that dials this server by its address, without xDS."""
        return weft.Client(target=f"ipv4:127.0.0.1:{self.port}", timeout_s=options.pop("timeout_s", 10), **options)


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
    assert not server.chat.scripts, f"{len(server.chat.scripts)} scripts were not played"


__all__ = ["HANG", "Server", "delta", "event", "finished", "scripted_server", "started"]

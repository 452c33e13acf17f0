"""Orchestrators served on port 0 as processes of the mesh serve them, over scripted peers on real servers.

``Peer`` is retriever, generator and tools in one server whose behaviour a test sets; ``house`` gives one or
more orchestrator replicas over one session store, wired by ``services.orchestrator.wiring`` itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.app import Runtime
from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter
from mesh.server import MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.orchestrator.settings import OrchestratorOptions, Settings
from services.orchestrator.wiring import build
from weft.common.v1 import epoch_pb2, passage_pb2
from weft.errors import WeftError, status_trailer
from weft.generator.v1 import generator_pb2, generator_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.tools.v1 import tools_pb2, tools_pb2_grpc
from weft.tracing import traced

PASSAGE = passage_pb2.Passage(
    name="collections/default/documents/d/chunks/0", text="Threads are woven.", title="Weaving", source="w.md"
)
SPEC = tools_pb2.ToolSpec(
    name="calculator",
    patterns=[
        tools_pb2.ToolPattern(
            regex=r"(?P<expression>\d+ \* \d+)",
            arguments=[tools_pb2.ArgumentExtractor(argument="expression", group="expression")],
        )
    ],
)


class Peer(
    retriever_pb2_grpc.RetrieverServiceServicer,
    generator_pb2_grpc.GeneratorServiceServicer,
    tools_pb2_grpc.ToolsServiceServicer,
):
    """Scripted peers. ``pieces`` are texts, seconds to sleep, events to wait for, or errors to raise."""

    def __init__(self) -> None:
        self.search_error: WeftError | grpc.StatusCode | None = None
        self.pieces: list[str | float | asyncio.Event | WeftError | grpc.StatusCode] = ["It is ", "woven."]
        self.metadata: list[dict[str, Any]] = []
        self.requests: list[Any] = []
        self.can_repeat = True
        self.tool_calls = 0
        self.active = 0
        self.cancelled = 0

    async def Search(self, request: Any, context: grpc.aio.ServicerContext) -> retriever_pb2.SearchResponse:
        self._seen(request, context)
        if self.search_error is not None:
            await _fail(context, self.search_error)
        return retriever_pb2.SearchResponse(
            hits=[retriever_pb2.Hit(passage=PASSAGE, score=1.0)],
            epoch=epoch_pb2.Epoch(log_id="ab" * 16, sequence=3),
        )

    async def Generate(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        self._seen(request, context)
        self.active += 1
        sequence, text = 0, ""
        try:
            for piece in self.pieces:
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                elif isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, str):
                    if not text:
                        started = generator_pb2.GenerateStarted(model="m", can_repeat=self.can_repeat)
                        await context.write(generator_pb2.GenerateResponse(sequence=0, started=started))
                    sequence, text = sequence + 1, text + piece
                    delta = generator_pb2.GenerateDelta(text=piece)
                    await context.write(generator_pb2.GenerateResponse(sequence=sequence, delta=delta))
                else:
                    await _fail(context, piece)
            citation = passage_pb2.Citation(passage=PASSAGE.name, start_char=0, end_char=len(text))
            end = generator_pb2.GenerateFinished(reason=generator_pb2.FINISH_REASON_STOP, citations=[citation])
            await context.write(generator_pb2.GenerateResponse(sequence=sequence + 1, finished=end))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1

    async def ListTools(self, request: Any, context: Any) -> tools_pb2.ListToolsResponse:
        return tools_pb2.ListToolsResponse(tools=[SPEC])

    async def CallTool(self, request: Any, context: grpc.aio.ServicerContext) -> tools_pb2.CallToolResponse:
        self._seen(request, context)
        self.tool_calls += 1
        response = tools_pb2.CallToolResponse(text=f"{request.arguments['expression']} = 42")
        response.result.update({"value": 42})
        return response

    def _seen(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))


async def _fail(context: grpc.aio.ServicerContext, failure: WeftError | grpc.StatusCode) -> None:
    if isinstance(failure, WeftError):
        await context.abort(failure.code, failure.message, (status_trailer(failure),))
    else:  # without details: what a connection that breaks looks like
        await context.abort(failure, "Socket closed")


@dataclass
class _Process:
    """The part of mesh.app's Runtime that wiring uses."""

    instance_id: str
    tracer: trace.Tracer
    targets: dict[str, str]
    service: str = "orchestrator"
    version: str = "v7"
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self, service: str) -> grpc.aio.Channel:
        self.channels.append(traced(grpc.aio.insecure_channel(self.targets[service]), self.tracer, prepare))
        return self.channels[-1]

    async def mesh_up(self) -> None:
        """There is none to wait for."""


@dataclass
class Replica:
    """One orchestrator with a channel to it."""

    server: MeshServer
    stub: orchestrator_pb2_grpc.OrchestratorServiceStub
    stop: AsyncExitStack

    def chat(
        self,
        question: str = "What is it?",
        *,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float = 10,
        **fields: Any,
    ) -> Any:
        """Ask; the call to read from."""
        request = orchestrator_pb2.ChatRequest(question=question, **{"session": "sessions/s", **fields})
        return self.stub.Chat(request, metadata=metadata, timeout=timeout)

    async def ask(self, *args: Any, **fields: Any) -> list[orchestrator_pb2.ChatResponse]:
        """All events of one turn."""
        return [message async for message in self.chat(*args, **fields)]


@dataclass
class House:
    """Replicas over one store, their peers, and all spans."""

    replicas: list[Replica]
    peer: Peer
    spans: InMemorySpanExporter

    @property
    def first(self) -> Replica:
        return self.replicas[0]


@asynccontextmanager
async def house(
    place: Path, *, replicas: int = 1, down: Sequence[str] = (), lease_s: float = 5.0, generator: str = ""
) -> AsyncIterator[House]:
    """``replicas`` orchestrators; peers named in ``down`` are not there, the generator is at ``generator`` if given."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer, peer = provider.get_tracer("test"), Peer()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(_peers(peer))
        targets = dict.fromkeys(("retriever", "generator", "tools"), f"127.0.0.1:{port}")
        targets |= dict.fromkeys(down, "127.0.0.1:1") | ({"generator": generator} if generator else {})
        settings = Settings(
            store=f"sqlite:///{place}", orchestrator=OrchestratorOptions(lease_s=lease_s, stage_timeout_s=5)
        )
        found = [
            await stack.enter_async_context(_replica(settings, _Process(f"orchestrator-{n}", tracer, targets)))
            for n in range(replicas)
        ]
        yield House(found, peer, spans)


@asynccontextmanager
async def _peers(peer: Peer) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(peer, server)
    generator_pb2_grpc.add_GeneratorServiceServicer_to_server(peer, server)
    tools_pb2_grpc.add_ToolsServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def _replica(settings: Settings, process: _Process) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        bindings = await stack.enter_async_context(build(settings, cast(Runtime, process)))
        metrics = Metrics(service="orchestrator", instance_id=process.instance_id, version="v7")
        server = MeshServer(
            tracer=process.tracer,
            metrics=metrics,
            load=LoadMeter(LoadWeights()),
            default_deadline_s=30,
            max_concurrent_calls=1_000,
            max_message_bytes=4 * 1024 * 1024,
        )
        port = await server.start("127.0.0.1", 0, bindings)
        stack.push_async_callback(server.stop, 0)
        channel = traced(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), process.tracer, prepare)
        try:
            yield Replica(server, orchestrator_pb2_grpc.OrchestratorServiceStub(channel), stack)
        finally:
            await channel.close()
            for inner in process.channels:
                await inner.close()

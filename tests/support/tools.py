"""The tool service for tests: its toolbox over documents held in memory, and its real server on port 0."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh import plugins
from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter
from mesh.server import Binding, MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.orchestrator.types import ArgumentExtractor, ToolPattern
from services.orchestrator.types import ExtractorKind as PlannerKind
from services.orchestrator.types import ToolSpec as PlannerSpec
from services.tools.servicer import ToolsServicer
from services.tools.settings import BUILTIN
from services.tools.toolbox import Tool, Toolbox
from services.tools.types import FoundPassage, FoundPassages, Scope, ToolSpec
from services.tools.wiring import open_builtin
from weft.tools.v1 import tools_pb2, tools_pb2_grpc
from weft.tracing import traced


class Shelf:
    """Documents in memory: those that share a word with the query, in their order. ``delay_s`` slows it down;
    ``cancelled`` counts searches that were given up."""

    def __init__(self, texts: Iterable[str] = (), *, delay_s: float = 0.0) -> None:
        self.texts = tuple(texts)
        self.delay_s = delay_s
        self.cancelled = 0

    async def find(self, query: str, *, top_k: int, scope: Scope) -> FoundPassages:
        """See ``DocumentFinder``."""
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        words = set(query.lower().split())
        found = [
            FoundPassage(f"collections/default/documents/d{index}/chunks/0", f"Text {index}", "", "shelf", text, 1.0)
            for index, text in enumerate(self.texts)
            if words & set(text.lower().split())
        ]
        return FoundPassages(tuple(found[:top_k]), "log:1")


SHELF = Shelf(["The retry budget is a tenth of all calls.", "A lease runs out after five seconds."])


def builtin_tools(documents: Shelf = SHELF) -> list[Tool]:
    """Every built-in tool."""
    return open_builtin(plugins.available(BUILTIN), documents)


def planner_spec(spec: ToolSpec) -> PlannerSpec:
    """A tool's spec as a planner gets it."""
    patterns = (
        ToolPattern(
            pattern.regex,
            tuple(
                ArgumentExtractor(e.argument, PlannerKind(e.kind.value), e.group, e.constant, e.optional)
                for e in pattern.arguments
            ),
        )
        for pattern in spec.patterns
    )
    return PlannerSpec(spec.name, spec.description, spec.input_schema, spec.timeout_s, tuple(patterns), spec.hint)


@dataclass(frozen=True, slots=True)
class House:
    """A tool service with a channel to it, and the spans of both."""

    stub: tools_pb2_grpc.ToolsServiceStub
    channel: grpc.aio.Channel
    spans: InMemorySpanExporter
    target: str


@asynccontextmanager
async def tools_house(tools: Iterable[Tool]) -> AsyncIterator[House]:
    """Serve ``tools``."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    metrics = Metrics(service="tools", instance_id="tools-1", version="v1")
    server = MeshServer(tracer=tracer, metrics=metrics, load=LoadMeter(LoadWeights()))
    servicer = ToolsServicer(Toolbox(list(tools)))
    descriptor = tools_pb2.DESCRIPTOR.services_by_name["ToolsService"]
    binding = Binding(descriptor, tools_pb2_grpc.add_ToolsServiceServicer_to_server, servicer)
    port = await server.start("127.0.0.1", 0, [binding])
    target = f"127.0.0.1:{port}"
    channel = traced(grpc.aio.insecure_channel(target), tracer, prepare)
    try:
        yield House(tools_pb2_grpc.ToolsServiceStub(channel), channel, spans, target)
    finally:
        await channel.close()
        await server.stop(0)

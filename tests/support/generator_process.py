"""A generator on port 0, put together from its settings by ``services.generator.wiring`` itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from mesh.app import Runtime
from mesh.load import LoadMeter
from mesh.server import MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.generator.settings import GeneratorOptions, Settings
from services.generator.wiring import build
from tests.support.generator import Answer
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc


class _Process:
    """The part of mesh.app's Runtime that wiring uses."""

    def __init__(self, metrics: Metrics, tracer: Any) -> None:
        self.instance_id, self.service, self.version = "generator-1", "generator", "v1"
        self.registry, self.tracer = metrics.registry, tracer
        self.load = LoadMeter(LoadWeights())
        self.failures: list[BaseException] = []

    def fail(self, failure: BaseException) -> None:
        self.failures.append(failure)


@dataclass
class Replica:
    """A channel to it, and what it tells of itself."""

    stub: pb_grpc.GeneratorServiceStub
    channel: grpc.aio.Channel
    address: str
    load: LoadMeter
    registry: CollectorRegistry
    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    async def ask(self, request: pb.GenerateRequest, tenant: str = "default") -> Answer:
        """Read one stream to its end."""
        call = self.stub.Generate(request, timeout=20, metadata=(("weft-tenant", tenant),))
        return Answer([message async for message in call])

    def metric(self, name: str, **labels: str) -> float:
        """A sample; 0 where there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def metrics(self) -> str:
        """All samples, as /metrics shows them."""
        return generate_latest(self.registry).decode()


@asynccontextmanager
async def replica(models: dict[str, str], **options: Any) -> AsyncIterator[Replica]:
    """A generator with these models and ``WEFT_GENERATOR__…`` options."""
    settings = Settings(generator=GeneratorOptions(models=models, **options))
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    metrics = Metrics(service="generator", instance_id="generator-1", version="v1")
    process = _Process(metrics, provider.get_tracer("test"))
    async with AsyncExitStack() as stack:
        bindings: Sequence[Any] = await stack.enter_async_context(build(settings, cast(Runtime, process)))
        server = MeshServer(tracer=process.tracer, metrics=metrics, load=process.load)
        port = await server.start("127.0.0.1", 0, bindings)
        stack.push_async_callback(server.stop, 0)
        address = f"127.0.0.1:{port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Replica(pb_grpc.GeneratorServiceStub(channel), channel, address, process.load, metrics.registry, spans)

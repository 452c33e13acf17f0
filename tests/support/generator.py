"""A generator served on port 0 as a process of the mesh serves it, with an eye on its models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter
from mesh.plugins import Url, load
from mesh.server import Binding, MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.generator.accounting import Accounts
from services.generator.generation import Generator
from services.generator.ports import Model
from services.generator.prices import Price
from services.generator.servicer import GeneratorServicer
from services.generator.settings import MODELS
from services.generator.templates.library import Templates, open_templates
from services.generator.types import Capabilities, ModelEvent, ModelLoad, Request
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc
from weft.tracing import traced

STARTED: dict[str, Model] = {}
"""Models that take long to start, by URL: whoever puts one here has started it and closes it. Houses share it."""

SERVICE = pb.DESCRIPTOR.services_by_name["GeneratorService"]


class Watched:
    """A model, and whether any of its answers is under way."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._running = 0
        self.calls = 0
        self.idle = asyncio.Event()

    @property
    def capabilities(self) -> Capabilities:
        return self._model.capabilities

    async def start(self) -> None:
        await self._model.start()

    def load(self) -> ModelLoad:
        return self._model.load()

    async def close(self) -> None:
        await self._model.close()

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        self.calls += 1
        self._running += 1
        self.idle.clear()
        try:
            async with aclosing(self._model.generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1
            if not self._running:
                self.idle.set()


@dataclass
class House:
    """A stub of the served generator, its models and the spans of both sides."""

    stub: pb_grpc.GeneratorServiceStub
    models: dict[str, Watched]
    spans: InMemorySpanExporter
    load: LoadMeter
    registry: CollectorRegistry
    channel: grpc.aio.Channel


@dataclass
class Answer:
    """The messages of one stream."""

    messages: list[Any] = field(default_factory=list)

    @property
    def started(self) -> pb.GenerateStarted:
        return self.messages[0].started

    @property
    def finished(self) -> pb.GenerateFinished:
        return self.messages[-1].finished

    @property
    def deltas(self) -> list[pb.GenerateDelta]:
        return [message.delta for message in self.messages if message.HasField("delta")]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]


@asynccontextmanager
async def house(
    templates: Templates | None = None,
    prices: Mapping[str, Price] | None = None,
    record_content: bool = False,
    /,
    **urls: str,
) -> AsyncIterator[House]:
    """Serve the models of these URLs, by name, in this order."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    meter = LoadMeter(LoadWeights())
    metrics = Metrics(service="generator", instance_id="generator-1", version="v1")
    server = MeshServer(tracer=tracer, metrics=metrics, load=meter)
    async with AsyncExitStack() as stack:
        models: dict[str, Watched] = {}
        for name, raw in urls.items():
            if raw in STARTED:
                models[name] = Watched(STARTED[raw])
                continue
            url = Url.parse(raw)
            models[name] = Watched(load(MODELS, url).open(url))
            stack.push_async_callback(models[name].close)
            await models[name].start()
        accounts = Accounts(metrics.registry, prices, record_content=record_content)
        accounted = {name: accounts.around(name, model) for name, model in models.items()}
        servicer = GeneratorServicer(Generator(accounted, templates or open_templates()))
        binding = Binding(SERVICE, pb_grpc.add_GeneratorServiceServicer_to_server, servicer)
        port = await server.start("127.0.0.1", 0, [binding])
        stack.push_async_callback(server.stop, 0)
        channel = traced(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), tracer, prepare)
        stack.push_async_callback(channel.close)
        yield House(pb_grpc.GeneratorServiceStub(channel), models, spans, meter, metrics.registry, channel)


async def ask(h: House, wanted: pb.GenerateRequest, timeout_s: float = 40.0) -> Answer:
    """Read one stream to its end."""
    return Answer([message async for message in h.stub.Generate(wanted, timeout=timeout_s)])

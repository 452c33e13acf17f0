"""A retriever on a real wire: the service's own wiring behind the mesh's own server, in this process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from mesh.load import LoadMeter
from mesh.server import MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.retriever.settings import RetrieverOptions, Settings
from services.retriever.wiring import build
from weft import names
from weft.common.v1 import epoch_pb2
from weft.errors import WeftError, from_rpc_error
from weft.jobs.v1 import jobs_pb2_grpc
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

PART_BYTES = 64 * 1024


@dataclass
class Outcome:
    """What an ingest said, in order."""

    progress: list[pb.IngestProgress] = field(default_factory=list)
    finished: pb.IngestFinished = field(default_factory=pb.IngestFinished)


@dataclass
class Served:
    """A retriever that can be called."""

    stub: Any
    jobs: Any  # stub of its JobService
    spans: InMemorySpanExporter
    failures: list[BaseException]
    target: str  # for ``weft.Client``

    async def ingest(
        self,
        documents: Mapping[str, bytes | str] | Iterable[pb.IngestDocumentsRequest],
        *,
        collection: str = "",
        tenant: str = "default",
        request_id: str | None = None,
        detach: bool = False,
    ) -> Outcome:
        """Send documents by source, or messages as they are."""
        if isinstance(documents, Mapping):
            messages = [start(collection, request_id, detach), *parts(documents)[1:]]
        else:
            messages = list(documents)
        outcome = Outcome()
        call = self.stub.IngestDocuments(iter(messages), timeout=60, metadata=[(names.METADATA_TENANT, tenant)])
        async for message in call:
            assert not outcome.finished.epoch.log_id, "nothing comes after finished"
            if message.WhichOneof("event") == "progress":
                outcome.progress.append(message.progress)
            else:
                outcome.finished = message.finished
        assert outcome.finished.epoch.log_id, "finished comes exactly once"
        return outcome

    async def search(self, query: str, *, tenant: str = "default", **fields: Any) -> pb.SearchResponse:
        """Search."""
        request = pb.SearchRequest(query=query, **fields)
        return await self.stub.Search(request, timeout=10, metadata=[(names.METADATA_TENANT, tenant)])

    async def sources(self, query: str, **fields: Any) -> list[str]:
        """Sources of the hits."""
        return [hit.passage.source for hit in (await self.search(query, **fields)).hits]


def parts(documents: Mapping[str, bytes | str], collection: str = "") -> list[pb.IngestDocumentsRequest]:
    """The messages of an ingest."""
    messages = [start(collection)]
    for source, content in documents.items():
        data = content.encode() if isinstance(content, str) else content
        messages.append(header(source))
        messages += [
            pb.IngestDocumentsRequest(data=data[at : at + PART_BYTES]) for at in range(0, len(data), PART_BYTES)
        ]
    return messages


def start(collection: str = "", request_id: str | None = None, detach: bool = False) -> pb.IngestDocumentsRequest:
    """The first message; without ``request_id``, of an ingest of its own."""
    request_id = uuid.uuid4().hex if request_id is None else request_id
    return pb.IngestDocumentsRequest(start=pb.IngestStart(collection=collection, request_id=request_id, detach=detach))


def header(source: str, metadata: Mapping[str, Any] | None = None, **fields: Any) -> pb.IngestDocumentsRequest:
    """A document's header."""
    struct = None
    if metadata is not None:
        struct = Struct()
        struct.update(metadata)
    return pb.IngestDocumentsRequest(document=pb.DocumentHeader(source=source, metadata=struct, **fields))


def epoch_of(outcome: Outcome) -> epoch_pb2.Epoch:
    """The epoch from which on all of an ingest can be found."""
    return outcome.finished.epoch


async def failure(call: Any) -> WeftError:
    """The error of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as exc:
        return from_rpc_error(exc)
    raise AssertionError("the call did not fail")


class _Runtime:
    """What wiring uses of a process."""

    instance_id = "retriever-1"

    def __init__(self, failures: list[BaseException], tracer: Tracer, registry: CollectorRegistry) -> None:
        self.fail = failures.append
        self.tracer, self.registry = tracer, registry
        self.stopping = asyncio.Event()


@asynccontextmanager
async def served(place: Path, *, store: str = "", **options: Any) -> AsyncIterator[Served]:
    """Serve ``store``, else the one in ``place``. ``options`` are ``RetrieverOptions``; no embedder unless told."""
    settings = Settings(
        store=store or f"sqlite:///{place}",
        data_dir=str(place),
        retriever=RetrieverOptions(**{"embedder": "none:"} | options),
    )
    spans, failures = InMemorySpanExporter(), []
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    metrics = Metrics(service="retriever", instance_id="retriever-1", version="v1")
    runtime = _Runtime(failures, provider.get_tracer("test"), metrics.registry)
    server = MeshServer(tracer=provider.get_tracer("test"), metrics=metrics, load=LoadMeter(LoadWeights()))
    async with build(settings, runtime) as bindings:  # type: ignore[arg-type]
        port = await server.start("127.0.0.1", 0, bindings)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        try:
            jobs = jobs_pb2_grpc.JobServiceStub(channel)
            yield Served(
                retriever_pb2_grpc.RetrieverServiceStub(channel), jobs, spans, failures, f"ipv4:127.0.0.1:{port}"
            )
        finally:
            await channel.close()
            await server.stop(0)

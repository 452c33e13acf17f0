"""Connections of the commands: to the control plane, to the collector, and an SDK client that is traced.

A command's trace begins at the command: its spans go to the collector that the mesh itself names, in the
background, and what hasn't left when the command is done gets one second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

import weft
from weft.channel import Dial, open_address
from weft.connection import CHECK_TIMEOUT_S, has_details, no_mesh
from weft.errors import Reason, error, from_rpc_error
from weft.mesh.v1 import routing_pb2_grpc, status_pb2, status_pb2_grpc, trace_pb2_grpc
from weft_cli.settings import Where

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE_NAME: Final = "cli"
CALL_TIMEOUT_S: Final = 5.0
_FLUSH_S: Final = 1.0
_ADVICE: Final = (
    "start one with `weft up`, or say where yours is: --mesh HOST:PORT or WEFT_MESH for its address, "
    "--data DIR for one that `weft up --data DIR` started"
)


class ControlPlane:
    """The control plane's services, with errors in words."""

    def __init__(self, mesh: tuple[str, ...], channel: aio.Channel) -> None:
        self.mesh = mesh
        self._status = status_pb2_grpc.StatusServiceStub(channel)
        self.routing = routing_pb2_grpc.RoutingServiceStub(channel)

    async def status(self, *, with_load: bool = False) -> status_pb2.GetMeshStatusResponse:
        """What the mesh looks like now."""
        request = status_pb2.GetMeshStatusRequest(with_load=with_load)
        try:
            return await self._status.GetMeshStatus(request, timeout=CALL_TIMEOUT_S if with_load else CHECK_TIMEOUT_S)
        except aio.AioRpcError as exc:
            raise (from_rpc_error(exc) if has_details(exc) else no_mesh(self.mesh, exc, _ADVICE)) from exc

    async def call(self, method: Any, request: Any) -> Any:
        """One call of another of its methods."""
        try:
            return await method(request, timeout=CALL_TIMEOUT_S)
        except aio.AioRpcError as exc:
            raise (from_rpc_error(exc) if has_details(exc) else no_mesh(self.mesh, exc, _ADVICE)) from exc


@asynccontextmanager
async def control_plane(where: Where) -> AsyncIterator[ControlPlane]:
    """The control plane of the chosen mesh."""
    mesh = where.addresses()
    async with open_address(mesh, Dial(mesh=mesh)) as channel:
        yield ControlPlane(mesh, channel)


@asynccontextmanager
async def traces(where: Where) -> AsyncIterator[trace_pb2_grpc.TraceServiceStub]:
    """The collector of the chosen mesh."""
    async with control_plane(where) as control:
        endpoint = (await control.status()).otlp_endpoint
    if not endpoint:
        raise error(
            Reason.DEPENDENCY_UNAVAILABLE,
            "this mesh keeps no traces: it was started without a collector; set OTEL_EXPORTER_OTLP_ENDPOINT, or let "
            "`weft up` start one",
        )
    async with open_address((endpoint.rpartition("/")[2],), Dial()) as channel:
        yield trace_pb2_grpc.TraceServiceStub(channel)


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[weft.Client]:
    """An SDK client of the chosen mesh, whose spans go to that mesh's collector."""
    async with control_plane(where) as control:
        endpoint = (await control.status()).otlp_endpoint
    provider = _tracer_provider(endpoint) if endpoint else None
    try:
        async with weft.Client(control.mesh, tracer_provider=provider) as client:
            yield client
    finally:
        if provider is not None:
            await _flush(provider)


def _tracer_provider(endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource({"service.name": SERVICE_NAME}), shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=_FLUSH_S))
    )
    return provider


async def _flush(provider: TracerProvider) -> None:
    """What the exporter may take its time over: a thread that the process doesn't wait for, and one second."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def flush() -> None:
        provider.force_flush()
        with suppress(RuntimeError):  # the loop is gone: we were too slow
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=flush, name="flush-spans", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_S):
            await done.wait()

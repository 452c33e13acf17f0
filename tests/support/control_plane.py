"""A control plane as a real process, instances announced to it by the real client, and what it tells callers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracer

from mesh import plugins
from mesh.controlplane.ads import METHOD, SERVICE
from mesh.controlplane.resources import ENDPOINT
from mesh.load import LoadMeter
from mesh.plugins import Url
from mesh.registry import Instance, Registration
from mesh.server import MeshServer
from mesh.settings import LoadWeights, ServiceSettings
from mesh.telemetry import Metrics
from tests.support.mesh import Mesh, Process
from weft.errors import WeftError, from_rpc_error
from weft.mesh.v1 import registry_pb2_grpc, routing_pb2, routing_pb2_grpc, status_pb2, status_pb2_grpc
from weft.xds.v1 import discovery_pb2, endpoint_pb2

TTL_S = 2.0
FAST = {"WEFT_CONTROLPLANE__LEASE_TTL_S": str(TTL_S)}


class House:
    """A control plane process, and what talks to it."""

    def __init__(self, mesh: Mesh, process: Process) -> None:
        self.mesh, self.process = mesh, process
        self.channel = grpc.aio.insecure_channel(
            mesh.address,
            options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)],
        )
        self.routing = routing_pb2_grpc.RoutingServiceStub(self.channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(self.channel)
        self._status = status_pb2_grpc.StatusServiceStub(self.channel)
        self.stack = AsyncExitStack()

    async def status(self, *, with_load: bool = False) -> status_pb2.GetMeshStatusResponse:
        request = status_pb2.GetMeshStatusRequest(with_load=with_load)
        return await self._status.GetMeshStatus(request, timeout=3, wait_for_ready=True)

    async def serving(self) -> set[str]:
        """Ids that ``weft status`` calls serving."""
        found = (await self.status()).instances
        return {item.instance.id for item in found if item.health == status_pb2.HEALTH_SERVING}

    async def announce(
        self, name: str, service: str = "retriever", version: str = "v1", host: str = "127.0.0.1"
    ) -> Announced:
        """Serve and register one instance, as if at ``host``; both end with the house."""
        server = MeshServer(
            tracer=NoOpTracer(), metrics=Metrics(service="t", instance_id=name, version="v1"),
            load=LoadMeter(LoadWeights()),
        )  # fmt: skip
        port = await server.start("127.0.0.1", 0, [])
        await server.set_serving(True)
        self.stack.push_async_callback(server.stop, 0)
        settings = ServiceSettings(mesh=(self.mesh.address,))
        url = Url.parse(self.mesh.registry)
        announcer = plugins.load("mesh.registry", url).open(url, settings)
        self.stack.push_async_callback(announcer.close)
        instance = Instance(service=service, id=name, host=host, port=port, version=version)
        return Announced(instance, server, await announcer.register(instance))

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        self.process.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.signal(signal.SIGCONT)

    async def kill(self) -> None:
        await asyncio.to_thread(self.process.kill)

    async def set_route(self, service: str, revision: int = 0, *, force: bool = False, **weights: int) -> Any:
        shares = [routing_pb2.VersionWeight(version=v, weight=w) for v, w in weights.items()]
        policy = routing_pb2.RoutePolicy(service=service, weights=shares, revision=revision)
        request = routing_pb2.SetRoutePolicyRequest(policy=policy, force=force)
        return await self.routing.SetRoutePolicy(request, timeout=5, wait_for_ready=True)

    async def route(self, service: str) -> routing_pb2.PolicyStatus:
        request = routing_pb2.GetRoutePolicyRequest(service=service)
        return (await self.routing.GetRoutePolicy(request, timeout=5, wait_for_ready=True)).status

    @asynccontextmanager
    async def endpoints(self, cluster: str = "retriever") -> AsyncIterator[list[set[int]]]:
        """Subscribe as a gRPC client does; yields what each push said, as sets of ports."""
        seen: list[set[int]] = []
        call = self.channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )(wait_for_ready=True)

        async def read() -> None:
            await call.write(discovery_pb2.DiscoveryRequest(type_url=ENDPOINT, resource_names=[cluster]))
            async for response in call:
                for resource in response.resources:
                    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(resource.value)
                    seen.append({
                        endpoint.endpoint.address.socket_address.port_value
                        for group in assignment.endpoints for endpoint in group.lb_endpoints
                    })  # fmt: skip
                await call.write(
                    discovery_pb2.DiscoveryRequest(
                        type_url=ENDPOINT, resource_names=[cluster],
                        version_info=response.version_info, response_nonce=response.nonce,
                    )
                )  # fmt: skip

        task = asyncio.create_task(read())
        try:
            yield seen
        finally:
            call.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Announced:
    """One instance of the test's."""

    def __init__(self, instance: Instance, server: MeshServer, registration: Registration) -> None:
        self.instance, self.server, self.registration = instance, server, registration

    async def die(self) -> None:
        await self.registration.close()
        await self.server.stop(0)


@asynccontextmanager
async def house(directory: Path, registry: str = "builtin:", **environ: str) -> AsyncIterator[House]:
    mesh = Mesh(directory, registry=registry, environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "", **FAST, **environ})
    made = House(mesh, mesh.spawn("controlplane", "mesh.controlplane"))
    try:
        async with made.stack:
            await eventually(made.status, within_s=40, what="a control plane that answers")
            yield made
    finally:
        await made.channel.close()
        made.process.signal(signal.SIGCONT)
        made.process.kill()


async def eventually(check: Callable[[], Awaitable[Any]], *, within_s: float, what: str) -> Any:
    """Poll until ``check`` returns something true; a failing call counts as not yet."""
    until_s, last = time.monotonic() + within_s, None
    while time.monotonic() < until_s:
        with contextlib.suppress(grpc.aio.AioRpcError):
            last = await check()
            if last:
                return last
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what} (last: {last!r})")


async def shown(house: House, ids: set[str], within_s: float = 30.0) -> None:
    async def check() -> bool:
        return await house.serving() == ids

    await eventually(check, within_s=within_s, what=f"{ids} serving")


async def refusal(call: Awaitable[Any]) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc_error(failed.value)

"""A control plane without a registry, for tests of what it shows, and small servers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from grpc import aio

from mesh.controlplane.ads import AdsServicer
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.policy import HeaderRoute, RoutePolicy, VersionWeight, to_document
from mesh.controlplane.snapshot import State, fold
from mesh.registry import Catalogue, Instance, Method, StoredPolicy
from tests.support.peers import GET, PUT, start_server

METHODS = (Method(GET, True), Method(PUT, False))


class ControlPlane:
    """The pure parts and the ADS server, without a registry."""

    def __init__(self) -> None:
        self.port = 0
        self.cache = SnapshotCache()
        self.ads = AdsServicer(self.cache)
        self.address = ""
        self._state = State()
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self.ads.handler(),))

    async def start(self, port: int = 0) -> None:
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def show(self, *instances: Instance, policy: RoutePolicy | None = None) -> None:
        """Let these be the mesh; whoever was there and isn't any more went by its own wish."""
        policies = (StoredPolicy(policy.service, to_document(policy), 1),) if policy else ()
        deregistered = frozenset(i.id for group in self._state.members.values() for i in group.live)
        catalogue = Catalogue(instances, policies, 1, True, deregistered)
        self._state = fold(self._state, catalogue, 0, ttl_ticks=10)
        assert self._state.snapshot is not None
        self.cache.set(self._state.snapshot)


@asynccontextmanager
async def control_plane() -> AsyncIterator[ControlPlane]:
    """A control plane on a free port, cold."""
    plane = ControlPlane()
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop()


def instance(name: str, port: int, version: str = "v1", zone: str = "") -> Instance:
    return Instance("shop", name, "127.0.0.1", port, version=version, zone=zone, methods=METHODS)


def weights(*headers: HeaderRoute, **shares: int) -> RoutePolicy:
    return RoutePolicy("shop", tuple(VersionWeight(v, w) for v, w in shares.items()), headers)


@asynccontextmanager
async def servers(*names: str, **busy: float) -> AsyncIterator[dict[str, int]]:
    """Servers in this process, by name with their ports; ``busy`` ones report that utilisation."""
    async with AsyncExitStack() as stack:
        ports = {}
        for name in (*names, *busy):
            server, ports[name] = await start_server(name, busy.get(name, 0.5))
            stack.push_async_callback(server.stop, 0)
        yield ports


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds, 20 s at most."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.005)

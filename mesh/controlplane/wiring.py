"""The control plane's constructors, in a straight line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from mesh import plugins
from mesh.app import Runtime
from mesh.controlplane.ads import AdsServicer
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.feed import Feed
from mesh.controlplane.leases import open_leases
from mesh.controlplane.registry_service import RegistryServicer
from mesh.controlplane.routing import Routing
from mesh.controlplane.routing_service import RoutingServicer
from mesh.controlplane.settings import Settings
from mesh.controlplane.status_service import StatusServicer
from mesh.plugins import Url
from mesh.registry import Registry
from mesh.server import Binding


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """Everything that the control plane serves."""
    url = Url.parse(settings.registry)
    async with AsyncExitStack() as stack:
        bindings: list[Binding] = []
        registry: Registry
        if url.scheme == "builtin":  # its other side is this very process
            leases = open_leases(settings.local_dir, settings.controlplane.lease_ttl_s)
            registry = leased = await stack.enter_async_context(leases)
            bindings.append(RegistryServicer(leased).binding())
        else:
            registry = plugins.load("mesh.registry", url).open(url, settings)
            stack.push_async_callback(registry.close)
        cache = SnapshotCache()
        feed = Feed(registry, cache, runtime.registry)
        ads = AdsServicer(cache)
        runtime.generic_handlers.append(ads.handler())
        await stack.enter_async_context(_owned(feed.run, runtime))
        await stack.enter_async_context(_owned(partial(_end_streams, ads, runtime), runtime))
        status = StatusServicer(feed, cache, ads, registry, registry_url=str(url), otlp_endpoint=settings.otlp_endpoint)
        yield [*bindings, RoutingServicer(Routing(registry, feed)).binding(), status.binding()]


async def _end_streams(ads: AdsServicer, runtime: Runtime) -> None:
    """Discovery streams never end by themselves; a drain that waited for them would use up its grace."""
    await runtime.stopping.wait()
    ads.close()


@asynccontextmanager
async def _owned(work: Callable[[], Awaitable[None]], runtime: Runtime) -> AsyncIterator[None]:
    """Run ``work`` beside the block. If it fails, so does the process: the supervisor starts a new one."""

    async def watched() -> None:
        try:
            await work()
        except Exception as exc:
            runtime.fail(exc)

    task = asyncio.create_task(watched())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

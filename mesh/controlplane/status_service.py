"""StatusService: what ``weft status`` shows, from what the control plane holds in memory.

It answers whatever happens to the registry. Loads are asked of the instances themselves, only when
wanted: all at once, and who doesn't answer within half a second has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf import timestamp_pb2
from grpc import aio

from mesh import records
from mesh.controlplane.ads import AdsServicer
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.feed import Feed
from mesh.controlplane.routing_service import state_to_proto
from mesh.load import Load, fetch_load
from mesh.registry import Catalogue, Instance, Registry
from mesh.server import Binding
from weft.channel import Dial, open_address
from weft.mesh.v1 import status_pb2 as pb
from weft.mesh.v1 import status_pb2_grpc

_LOAD_TIMEOUT_S: Final = 0.5
_LOADS_AT_ONCE: Final = 32


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Answers from the feed and the cache.

    Args:
        registry_url: the registry's URL as it may be shown.
        otlp_endpoint: where this mesh's spans go.
    """

    def __init__(
        self,
        feed: Feed,
        cache: SnapshotCache,
        ads: AdsServicer,
        registry: Registry,
        *,
        registry_url: str,
        otlp_endpoint: str,
    ) -> None:
        self._feed, self._cache, self._ads, self._registry = feed, cache, ads, registry
        self._registry_url, self._otlp_endpoint = registry_url, otlp_endpoint

    def binding(self) -> Binding:
        """For the server."""
        descriptor = pb.DESCRIPTOR.services_by_name["StatusService"]
        return Binding(descriptor, status_pb2_grpc.add_StatusServiceServicer_to_server, self, traced=False)

    async def GetMeshStatus(
        self, request: pb.GetMeshStatusRequest, context: aio.ServicerContext
    ) -> pb.GetMeshStatusResponse:
        found = self._instances()
        loads = await _loads([instance for instance, _ in found]) if request.with_load else {}
        snapshot = self._cache.current
        response = pb.GetMeshStatusResponse(
            policies=[state_to_proto(state) for state in snapshot.policies] if snapshot else [],
            snapshot_version=snapshot.version if snapshot else "",
            registry=self._registry_url,
            registry_available=self._registry.available,
            otlp_endpoint=self._otlp_endpoint,
            subscribers=self._ads.subscribers,
        )
        problems = {(refused.service, refused.id): refused.problem for refused in snapshot.refused} if snapshot else {}
        for instance, health in found:
            problem = problems.get((instance.service, instance.id), "")
            status = response.instances.add(instance=records.to_proto(instance), health=health, problem=problem)
            load = loads.get(instance.id)
            if load is not None:
                status.load.CopyFrom(
                    pb.Load(
                        cpu=load.cpu,
                        pending=load.pending,
                        gpu_memory=load.shares.get("gpu_memory", 0.0),
                        rps=load.rps,
                        figures={**load.counts, **load.shares},
                    )
                )
        if snapshot:
            made = timestamp_pb2.Timestamp()
            made.FromMilliseconds(round(self._cache.published_unix_s * 1_000))
            response.snapshot_time.CopyFrom(made)
        return response

    def _instances(self) -> list[tuple[Instance, pb.Health]]:
        """Those that the registry lists and those that are held, by service, version, id."""
        catalogue = self._feed.catalogue or Catalogue((), (), 0, warm=False)
        found: dict[str, tuple[Instance, pb.Health]] = {}
        for instance in catalogue.instances:
            failing = instance.id in catalogue.failing
            found[instance.id] = (instance, pb.HEALTH_NOT_SERVING if failing else pb.HEALTH_SERVING)
        snapshot = self._cache.current
        if snapshot:
            for service in snapshot.services:
                for instance in service.instances():
                    if instance.id in snapshot.held:
                        found[instance.id] = (instance, pb.HEALTH_HELD)
        return sorted(found.values(), key=lambda item: (item[0].service, item[0].version, item[0].id))


async def _loads(instances: Iterable[Instance]) -> Mapping[str, Load]:
    """Each instance's load, of those that answer in time."""
    at_once = asyncio.Semaphore(_LOADS_AT_ONCE)

    async def ask(instance: Instance) -> tuple[str, Load | None]:
        async with at_once, _channel(instance) as channel:
            return instance.id, await fetch_load(channel, timeout_s=_LOAD_TIMEOUT_S)

    answers = await asyncio.gather(*(ask(instance) for instance in instances))
    return {instance_id: load for instance_id, load in answers if load is not None}


def _channel(instance: Instance) -> aio.Channel:
    return open_address((instance.address,), Dial())

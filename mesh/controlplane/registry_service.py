"""RegistryService: the built-in registry on the wire. Protobuf in and out, no decisions."""

from __future__ import annotations

from google.protobuf import duration_pb2
from grpc import aio

from mesh import records
from mesh.controlplane.leases import LeaseRegistry
from mesh.server import Binding
from weft.mesh.v1 import registry_pb2, registry_pb2_grpc


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Answers from a ``LeaseRegistry``."""

    def __init__(self, leases: LeaseRegistry) -> None:
        self._leases = leases

    def binding(self) -> Binding:
        """For the server."""
        descriptor = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
        return Binding(descriptor, registry_pb2_grpc.add_RegistryServiceServicer_to_server, self, traced=False)

    async def Register(
        self, request: registry_pb2.RegisterRequest, context: aio.ServicerContext
    ) -> registry_pb2.RegisterResponse:
        await self._leases.grant(records.from_proto(request.instance))
        return registry_pb2.RegisterResponse(ttl=self._ttl())

    async def Renew(
        self, request: registry_pb2.RenewRequest, context: aio.ServicerContext
    ) -> registry_pb2.RenewResponse:
        self._leases.renew(request.service, request.id)
        return registry_pb2.RenewResponse(ttl=self._ttl())

    async def Deregister(
        self, request: registry_pb2.DeregisterRequest, context: aio.ServicerContext
    ) -> registry_pb2.DeregisterResponse:
        await self._leases.release(request.service, request.id)
        return registry_pb2.DeregisterResponse()

    async def ListInstances(
        self, request: registry_pb2.ListInstancesRequest, context: aio.ServicerContext
    ) -> registry_pb2.ListInstancesResponse:
        found = self._leases.instances(request.service)
        return registry_pb2.ListInstancesResponse(instances=[records.to_proto(instance) for instance in found])

    def _ttl(self) -> duration_pb2.Duration:
        ttl = duration_pb2.Duration()
        ttl.FromMilliseconds(round(self._leases.ttl_s * 1_000))
        return ttl

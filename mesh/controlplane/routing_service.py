"""RoutingService: route policies on the wire. Protobuf in and out, no decisions."""

from __future__ import annotations

from grpc import aio

from mesh import records
from mesh.controlplane.policy import HeaderRoute, RoutePolicy, VersionWeight
from mesh.controlplane.routing import Routing
from mesh.controlplane.snapshot import PolicyState
from mesh.server import Binding
from weft.mesh.v1 import routing_pb2 as pb
from weft.mesh.v1 import routing_pb2_grpc


class RoutingServicer(routing_pb2_grpc.RoutingServiceServicer):
    """Answers from ``Routing``."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    def binding(self) -> Binding:
        """For the server."""
        descriptor = pb.DESCRIPTOR.services_by_name["RoutingService"]
        return Binding(descriptor, routing_pb2_grpc.add_RoutingServiceServicer_to_server, self, traced=False)

    async def SetRoutePolicy(
        self, request: pb.SetRoutePolicyRequest, context: aio.ServicerContext
    ) -> pb.SetRoutePolicyResponse:
        policy, warnings = await self._routing.put(_from_proto(request.policy), force=request.force)
        return pb.SetRoutePolicyResponse(policy=policy_to_proto(policy), warnings=warnings)

    async def GetRoutePolicy(
        self, request: pb.GetRoutePolicyRequest, context: aio.ServicerContext
    ) -> pb.GetRoutePolicyResponse:
        state = await self._routing.get(records.check_service("service", request.service))
        return pb.GetRoutePolicyResponse(status=state_to_proto(state))

    async def ListRoutePolicies(
        self, request: pb.ListRoutePoliciesRequest, context: aio.ServicerContext
    ) -> pb.ListRoutePoliciesResponse:
        return pb.ListRoutePoliciesResponse(policies=[state_to_proto(state) for state in await self._routing.all()])

    async def DeleteRoutePolicy(
        self, request: pb.DeleteRoutePolicyRequest, context: aio.ServicerContext
    ) -> pb.DeleteRoutePolicyResponse:
        await self._routing.delete(records.check_service("service", request.service))
        return pb.DeleteRoutePolicyResponse()


def policy_to_proto(policy: RoutePolicy) -> pb.RoutePolicy:
    """The policy as it travels."""
    return pb.RoutePolicy(
        service=policy.service,
        weights=[pb.VersionWeight(version=w.version, weight=w.weight) for w in policy.weights],
        headers=[pb.HeaderRoute(header=h.header, value=h.value, version=h.version) for h in policy.headers],
        revision=policy.revision,
    )


def state_to_proto(state: PolicyState) -> pb.PolicyStatus:
    """The policy and how it is seen. A document that doesn't parse shows the policy in force instead."""
    policy = policy_to_proto(state.policy) if state.policy else pb.RoutePolicy(service=state.service)
    policy.revision = state.revision
    return pb.PolicyStatus(policy=policy, problem=state.problem, snapshot_version=state.since)


def _from_proto(message: pb.RoutePolicy) -> RoutePolicy:
    return RoutePolicy(
        service=message.service,
        weights=tuple(VersionWeight(w.version, w.weight) for w in message.weights),
        headers=tuple(HeaderRoute(h.header, h.value, h.version) for h in message.headers),
        revision=message.revision,
    )

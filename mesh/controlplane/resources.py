"""Renders a snapshot as xDS resources for a kind of node, and checks that they hang together.

    kind     listeners            routes                  clusters and endpoints
    grpc     one per service      one per service         service, service@version …
    envoy    none (its own are    ``weft-ingress``, all   the same, with HTTP/2 and Envoy's own
             static)              services by path        balancing and ejection

A version's cluster holds the version's instances at priority 0 and the other versions' below: those that
take a share of the calls first, then the rest. A retry stays in the cluster that the split picked, so this
is what keeps a canary that dies from costing calls. Priorities have no gap (clients refuse one): where a
version has no instance, the next ones move up.

Endpoints are grouped by zone. gRPC weighs instances by the load that they report out of band, over all zones
alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

from mesh.controlplane.routes import cluster_of, envoy_routes, grpc_routes
from mesh.controlplane.snapshot import Service, Snapshot, Version
from mesh.registry import Instance
from weft.xds.v1 import cluster_pb2, core_pb2, discovery_pb2, endpoint_pb2, listener_pb2, route_pb2

_URL: Final = "type.googleapis.com/"
LISTENER: Final = f"{_URL}envoy.config.listener.v3.Listener"
ROUTE: Final = f"{_URL}envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = f"{_URL}envoy.config.cluster.v3.Cluster"
ENDPOINT: Final = f"{_URL}envoy.config.endpoint.v3.ClusterLoadAssignment"
# What is referred to is sent before what refers to it.
SEND_ORDER: Final = (CLUSTER, ENDPOINT, LISTENER, ROUTE)

_EXTENSIONS: Final = f"{_URL}envoy.extensions."
_MANAGER: Final = f"{_EXTENSIONS}filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = f"{_EXTENSIONS}filters.http.router.v3.Router"
_POLICIES: Final = f"{_EXTENSIONS}load_balancing_policies."
_WEIGHTED: Final = f"{_POLICIES}client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"
_ROUND_ROBIN: Final = f"{_POLICIES}round_robin.v3.RoundRobin"
_HTTP_OPTIONS_NAME: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP_OPTIONS: Final = _URL + _HTTP_OPTIONS_NAME

_NO_LIMIT: Final = 1_000_000  # both data planes stop at 1024 calls under way unless told otherwise
_DIGEST_BYTES: Final = 8


class Kind(StrEnum):
    """Who reads the resources."""

    GRPC = "grpc"
    ENVOY = "envoy"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it travels. Equal digests, equal content."""

    name: str
    body: any_pb2.Any
    digest: bytes


@dataclass(frozen=True, slots=True)
class Resources:
    """All resources of a snapshot for one kind of node, by type URL and name."""

    version: str
    by_type: Mapping[str, Mapping[str, Resource]]


class Inconsistent(Exception):
    """The resources refer to something that isn't there, or a client would refuse them: a defect."""


def render(snapshot: Snapshot, kind: Kind) -> Resources:
    """The snapshot's resources for ``kind``. The same snapshot gives the same bytes."""
    listeners: list[tuple[str, Message]] = []
    routes: list[tuple[str, Message]] = []
    clusters: list[tuple[str, Message]] = []
    endpoints: list[tuple[str, Message]] = []
    for service in snapshot.services:
        for name, tiers in _clusters(service):
            clusters.append((name, _grpc_cluster(name) if kind is Kind.GRPC else _envoy_cluster(name)))
            endpoints.append((name, _assignment(name, tiers)))
        if kind is Kind.GRPC:
            listeners.append((service.name, _listener(service.name)))
            routes.append((service.name, grpc_routes(service)))
    if kind is Kind.ENVOY:
        ingress = envoy_routes(snapshot.services)
        routes.append((ingress.name, ingress))
    by_type = {LISTENER: listeners, ROUTE: routes, CLUSTER: clusters, ENDPOINT: endpoints}
    return Resources(
        version=snapshot.version,
        by_type={url: {name: _resource(url, name, body) for name, body in bodies} for url, bodies in by_type.items()},
    )


def _resource(type_url: str, name: str, body: Message) -> Resource:
    packed = _any(type_url, body)
    return Resource(name, packed, hashlib.blake2b(packed.value, digest_size=_DIGEST_BYTES).digest())


def _any(type_url: str, body: Message) -> any_pb2.Any:
    return any_pb2.Any(type_url=type_url, value=body.SerializeToString(deterministic=True))


def _clusters(service: Service) -> Iterable[tuple[str, list[list[Instance]]]]:
    """Each cluster's name and its instances by priority, without empty ones."""
    yield cluster_of(service.name), _without_empty([list(service.instances())])
    for version in service.versions:
        others = [other for other in service.versions if other.label != version.label]
        weighted = service.policy.weighted_versions() if service.policy else frozenset()
        sharing = _instances(other for other in others if other.label in weighted)
        resting = _instances(other for other in others if other.label not in weighted)
        yield cluster_of(service.name, version.label), _without_empty([list(version.instances), sharing, resting])


def _instances(versions: Iterable[Version]) -> list[Instance]:
    return [instance for version in versions for instance in version.instances]


def _without_empty(tiers: list[list[Instance]]) -> list[list[Instance]]:
    return [tier for tier in tiers if tier]


def _assignment(name: str, tiers: Sequence[Sequence[Instance]]) -> endpoint_pb2.ClusterLoadAssignment:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for priority, tier in enumerate(tiers):
        zones: dict[str, list[Instance]] = {}
        for instance in tier:
            zones.setdefault(instance.zone, []).append(instance)
        for zone, instances in sorted(zones.items()):
            place = assignment.endpoints.add(
                locality=discovery_pb2.Locality(zone=zone),
                load_balancing_weight=_uint(len(instances)),
                priority=priority,
            )
            for instance in instances:
                address = core_pb2.SocketAddress(address=instance.host, port_value=instance.port)
                place.lb_endpoints.add(endpoint=endpoint_pb2.Endpoint(address=core_pb2.Address(socket_address=address)))
    return assignment


def _listener(name: str) -> listener_pb2.Listener:
    manager = listener_pb2.HttpConnectionManager(
        rds=listener_pb2.Rds(config_source=_same_stream(), route_config_name=name),
        http_filters=[listener_pb2.HttpFilter(name="router", typed_config=_any(_ROUTER, listener_pb2.Router()))],
    )
    return listener_pb2.Listener(name=name, api_listener=listener_pb2.ApiListener(api_listener=_any(_MANAGER, manager)))


def _cluster(name: str) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.DISCOVERY_TYPE_EDS,
        eds_cluster_config=cluster_pb2.EdsClusterConfig(eds_config=_same_stream()),
        connect_timeout=_seconds(1),
        circuit_breakers=cluster_pb2.CircuitBreakers(
            thresholds=[
                cluster_pb2.Thresholds(
                    max_connections=_uint(_NO_LIMIT),
                    max_pending_requests=_uint(_NO_LIMIT),
                    max_requests=_uint(_NO_LIMIT),
                    max_retries=_uint(_NO_LIMIT),
                )
            ]
        ),
    )


def _grpc_cluster(name: str) -> cluster_pb2.Cluster:
    cluster = _cluster(name)
    weighted = cluster_pb2.ClientSideWeightedRoundRobin(
        enable_oob_load_report=wrappers_pb2.BoolValue(value=True),
        oob_reporting_period=_seconds(1),
        blackout_period=_seconds(2),
        weight_expiration_period=_seconds(15),
        weight_update_period=_seconds(1),
    )
    for policy in (_any(_WEIGHTED, weighted), _any(_ROUND_ROBIN, cluster_pb2.RoundRobin())):
        cluster.load_balancing_policy.policies.add().typed_extension_config.typed_config.CopyFrom(policy)
    # Every status but OK counts as a failure, the caller's own mistakes too: so only an instance that
    # fails nearly everything, while others are there to compare, is left out, and never all of them.
    cluster.outlier_detection.CopyFrom(
        cluster_pb2.OutlierDetection(
            interval=_seconds(5),
            base_ejection_time=_seconds(10),
            max_ejection_percent=_uint(33),  # 1 of 2, 1 of 3, 2 of 4
            enforcing_success_rate=_uint(0),
            failure_percentage_threshold=_uint(90),
            enforcing_failure_percentage=_uint(100),
            failure_percentage_minimum_hosts=_uint(2),
            failure_percentage_request_volume=_uint(10),
        )
    )
    return cluster


def _envoy_cluster(name: str) -> cluster_pb2.Cluster:
    cluster = _cluster(name)
    cluster.lb_policy = cluster_pb2.Cluster.LB_POLICY_LEAST_REQUEST
    cluster.outlier_detection.CopyFrom(
        cluster_pb2.OutlierDetection(
            consecutive_5xx=_uint(2),
            interval=_seconds(1),
            base_ejection_time=_seconds(30),
            max_ejection_percent=_uint(100),  # a lone canary too: the next priority takes over
            enforcing_success_rate=_uint(0),
        )
    )
    http2 = cluster_pb2.Http2ProtocolOptions(
        connection_keepalive=cluster_pb2.KeepaliveSettings(interval=_seconds(20), timeout=_seconds(5))
    )
    options = cluster_pb2.HttpProtocolOptions(
        explicit_http_config=cluster_pb2.ExplicitHttpConfig(http2_protocol_options=http2)
    )
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS_NAME].CopyFrom(_any(_HTTP_OPTIONS, options))
    return cluster


def _same_stream() -> core_pb2.ConfigSource:
    return core_pb2.ConfigSource(ads=core_pb2.AggregatedConfigSource(), resource_api_version=core_pb2.API_VERSION_V3)


def _uint(value: int) -> wrappers_pb2.UInt32Value:
    return wrappers_pb2.UInt32Value(value=value)


def _seconds(value: int) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=value)


def check(resources: Resources) -> None:
    """Verify that what is referred to is there, and that no client would refuse a part.

    Raises:
        Inconsistent: naming the resource at fault.
    """
    clusters, endpoints = resources.by_type[CLUSTER], resources.by_type[ENDPOINT]
    if clusters.keys() != endpoints.keys():
        raise Inconsistent(f"clusters and endpoints differ: {sorted(clusters.keys() ^ endpoints.keys())}")
    for name, resource in endpoints.items():
        _check_assignment(name, endpoint_pb2.ClusterLoadAssignment.FromString(resource.body.value))
    routes = resources.by_type[ROUTE]
    for name in resources.by_type[LISTENER]:
        if name not in routes:
            raise Inconsistent(f"listener {name} leads to no routes")
    for name, resource in routes.items():
        for cluster in _clusters_of(route_pb2.RouteConfiguration.FromString(resource.body.value)):
            if cluster not in clusters:
                raise Inconsistent(f"routes {name} lead to cluster {cluster}, which isn't there")


def _clusters_of(routes: route_pb2.RouteConfiguration) -> Iterable[str]:
    for host in routes.virtual_hosts:
        for route in host.routes:
            if route.route.WhichOneof("cluster_specifier") == "cluster":
                yield route.route.cluster
            else:
                yield from (share.name for share in route.route.weighted_clusters.clusters)


def _check_assignment(name: str, assignment: endpoint_pb2.ClusterLoadAssignment) -> None:
    priorities = {place.priority for place in assignment.endpoints}
    if priorities != set(range(len(priorities))):
        raise Inconsistent(f"cluster {name} has a gap in its priorities {sorted(priorities)}")
    addresses = [
        (endpoint.endpoint.address.socket_address.address, endpoint.endpoint.address.socket_address.port_value)
        for place in assignment.endpoints
        for endpoint in place.lb_endpoints
    ]
    if len(addresses) != len(set(addresses)):
        raise Inconsistent(f"cluster {name} lists an address twice")

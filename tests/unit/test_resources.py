"""A snapshot as xDS resources: consistent for every snapshot that there can be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh.controlplane.policy import HeaderRoute, RoutePolicy, VersionWeight, to_document
from mesh.controlplane.resources import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    Inconsistent,
    Kind,
    Resource,
    Resources,
    check,
    render,
)
from mesh.controlplane.routes import INGRESS, bucket_ranges
from mesh.controlplane.snapshot import Snapshot, State, fold
from mesh.registry import Catalogue, Instance, Method, StoredPolicy
from weft.xds.v1 import cluster_pb2, endpoint_pb2, listener_pb2, route_pb2

GET, PUT = Method("/shop.v1.Shop/Get", True), Method("/shop.v1.Shop/Put", False)
HEALTH = Method("/grpc.health.v1.Health/Check", True)


def instance(
    id_: str,
    version: str,
    port: int,
    *,
    service: str = "shop",
    zone: str = "",
    methods: tuple[Method, ...] = (GET, PUT),
) -> Instance:
    return Instance(service, id_, "10.0.0.1", port, version=version, zone=zone, methods=methods)


def snapshot(*instances: Instance, policy: RoutePolicy | None = None) -> Snapshot:
    policies = (StoredPolicy(policy.service, to_document(policy), 1),) if policy else ()
    state = fold(State(), Catalogue(instances, policies, 1, True), 0, ttl_ticks=10)
    assert state.snapshot is not None
    return state.snapshot


def weighted(**shares: int) -> RoutePolicy:
    return RoutePolicy("shop", tuple(VersionWeight(v, w) for v, w in shares.items()))


def tiers(resources: Resources, cluster: str) -> list[set[int]]:
    """The ports of a cluster by priority."""
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(resources.by_type[ENDPOINT][cluster].body.value)
    found: dict[int, set[int]] = {}
    for place in assignment.endpoints:
        ports = {e.endpoint.address.socket_address.port_value for e in place.lb_endpoints}
        found.setdefault(place.priority, set()).update(ports)
        assert place.load_balancing_weight.value == len(ports)
    assert sorted(found) == list(range(len(found)))
    return [found[priority] for priority in sorted(found)]


def routes(resources: Resources, name: str = "shop") -> list[route_pb2.Route]:
    (host,) = route_pb2.RouteConfiguration.FromString(resources.by_type[ROUTE][name].body.value).virtual_hosts
    return list(host.routes)


def decide(table: list[route_pb2.Route], path: str, metadata: dict[str, str]) -> route_pb2.RouteAction | None:
    """What a client does with a route table: the first match wins."""
    for route in table:
        match = route.match
        at_path = match.path == path if match.WhichOneof("path_specifier") == "path" else path.startswith(match.prefix)
        if at_path and all(_matches(header, metadata.get(header.name)) for header in match.headers):
            return route.route
    return None


def _matches(header: route_pb2.HeaderMatcher, value: str | None) -> bool:
    if value is None:
        return False
    if header.WhichOneof("header_match_specifier") == "string_match":
        return value == header.string_match.exact
    return value.isdigit() and header.range_match.start <= int(value) < header.range_match.end


def cluster_of(action: route_pb2.RouteAction | None) -> str | dict[str, int]:
    assert action is not None
    if action.WhichOneof("cluster_specifier") == "cluster":
        return action.cluster
    return {share.name: share.weight.value for share in action.weighted_clusters.clusters}


V1, V2 = instance("a", "v1", 1), instance("b", "v2", 2)


def test_without_a_policy_calls_spread_over_all_instances():
    resources = render(snapshot(V1, V2), Kind.GRPC)
    assert cluster_of(decide(routes(resources), PUT.path, {})) == "shop"
    assert tiers(resources, "shop") == [{1, 2}]


def test_a_bucket_decides_where_there_is_one_and_chance_where_there_is_none():
    table = routes(render(snapshot(V1, V2, policy=weighted(v1=90, v2=10)), Kind.GRPC))
    by_bucket = [cluster_of(decide(table, PUT.path, {"weft-bucket": str(n)})) for n in range(100)]
    assert by_bucket == ["shop@v1"] * 90 + ["shop@v2"] * 10
    for nonsense in ({}, {"weft-bucket": "100"}, {"weft-bucket": "x"}):
        assert cluster_of(decide(table, PUT.path, nonsense)) == {"shop@v1": 90, "shop@v2": 10}


def test_a_header_route_comes_before_the_weights_and_the_first_of_them_wins():
    policy = dataclasses.replace(
        weighted(v1=100, v2=0),
        headers=(HeaderRoute("weft-route-canary", "yes", "v2"), HeaderRoute("weft-tenant", "acme", "v3")),
    )
    table = routes(render(snapshot(V1, V2, policy=policy), Kind.GRPC))
    canary = {"weft-route-canary": "yes", "weft-bucket": "5"}
    assert cluster_of(decide(table, GET.path, canary)) == "shop@v2"
    assert cluster_of(decide(table, GET.path, {**canary, "weft-tenant": "acme"})) == "shop@v2"
    assert cluster_of(decide(table, GET.path, {"weft-tenant": "acme"})) == "shop@v3"
    assert cluster_of(decide(table, GET.path, {"weft-route-canary": "Yes"})) == "shop@v1"


@pytest.mark.parametrize(("kind", "name"), [(Kind.GRPC, "shop"), (Kind.ENVOY, INGRESS)])
def test_idempotent_methods_alone_are_retried_by_the_table_that_instances_register(kind: Kind, name: str):
    policy = dataclasses.replace(weighted(v1=90, v2=10), headers=(HeaderRoute("x", "y", "v2"),))
    table = routes(render(snapshot(V1, V2, policy=policy), kind), name)
    for metadata in ({}, {"weft-bucket": "95"}, {"x": "y"}):
        for method in (GET, PUT):
            action = decide(table, method.path, metadata)
            assert action is not None
            assert action.HasField("retry_policy") == method.idempotent
            assert action.retry_policy.num_retries.value == (3 if method.idempotent else 0)


@pytest.mark.parametrize("kind", list(Kind))
def test_no_route_has_a_time_limit_of_its_own(kind: Kind):
    name = INGRESS if kind is Kind.ENVOY else "shop"
    for route in routes(render(snapshot(V1, V2, policy=weighted(v1=90, v2=10)), kind), name):
        assert route.route.HasField("timeout")
        assert route.route.timeout.ToNanoseconds() == 0


def test_a_versions_cluster_falls_back_on_those_that_share_the_calls_then_on_the_rest():
    third = instance("c", "v3", 3)
    resources = render(snapshot(V1, V2, third, policy=weighted(v1=90, v2=10, v3=0)), Kind.GRPC)
    assert tiers(resources, "shop@v1") == [{1}, {2}, {3}]
    assert tiers(resources, "shop@v2") == [{2}, {1}, {3}]
    assert tiers(resources, "shop@v3") == [{3}, {1, 2}]


def test_a_version_that_does_not_exist_costs_no_call():
    resources = render(snapshot(V1, policy=weighted(v1=50, v9=50)), Kind.GRPC)
    assert tiers(resources, "shop@v9") == [{1}]


def test_instances_are_grouped_by_zone_within_a_priority():
    resources = render(snapshot(instance("a", "v1", 1, zone="z1"), instance("b", "v1", 2, zone="z2")), Kind.GRPC)
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(resources.by_type[ENDPOINT]["shop"].body.value)
    assert [(p.locality.zone, p.priority) for p in assignment.endpoints] == [("z1", 0), ("z2", 0)]


def test_a_listener_leads_to_the_routes_of_its_service():
    resources = render(snapshot(V1), Kind.GRPC)
    listener = listener_pb2.Listener.FromString(resources.by_type[LISTENER]["shop"].body.value)
    manager = listener_pb2.HttpConnectionManager.FromString(listener.api_listener.api_listener.value)
    assert manager.rds.route_config_name in resources.by_type[ROUTE]


def test_envoy_gets_http2_clusters_and_routes_by_path_but_no_listener():
    other = instance("t", "v1", 3, service="tools", methods=(Method("/tools.v1.Tools/Run", False), HEALTH))
    shop = instance("a", "v1", 1, methods=(GET, PUT, HEALTH))
    resources = render(snapshot(shop, other), Kind.ENVOY)
    assert not resources.by_type[LISTENER]
    assert list(resources.by_type[ROUTE]) == [INGRESS]
    table = routes(resources, INGRESS)
    assert cluster_of(decide(table, "/shop.v1.Shop/New", {})) == "shop"
    assert cluster_of(decide(table, "/tools.v1.Tools/Run", {})) == "tools"
    assert decide(table, HEALTH.path, {}) is None  # several serve it: nobody's
    assert decide(table, "/shop.v1.ShopAdmin/Get", {}) is None
    cluster = cluster_pb2.Cluster.FromString(resources.by_type[CLUSTER]["shop"].body.value)
    assert "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" in cluster.typed_extension_protocol_options
    assert cluster.outlier_detection.consecutive_5xx.value == 2


def broken(resources: Resources, type_url: str, name: str, body: bytes | None) -> Resources:
    of_type = dict(resources.by_type[type_url])
    if body is None:
        del of_type[name]
    else:
        of_type[name] = Resource(name, any_pb2.Any(type_url=type_url, value=body), b"")
    return dataclasses.replace(resources, by_type={**resources.by_type, type_url: of_type})


def test_resources_that_do_not_hang_together_are_refused():
    good = render(snapshot(V1, V2, policy=weighted(v1=90, v2=10)), Kind.GRPC)
    check(good)
    gap = endpoint_pb2.ClusterLoadAssignment(endpoints=[endpoint_pb2.LocalityLbEndpoints(priority=1)])
    twice = endpoint_pb2.ClusterLoadAssignment(
        endpoints=[endpoint_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint_pb2.LbEndpoint()] * 2)]
    )
    lost = broken(broken(good, CLUSTER, "shop@v2", None), ENDPOINT, "shop@v2", None)
    for bad, says in (
        (lost, "lead to cluster shop@v2"),
        (broken(good, ENDPOINT, "shop", None), r"clusters and endpoints differ: \['shop'\]"),
        (broken(good, ROUTE, "shop", None), "listener shop leads to no routes"),
        (broken(good, ENDPOINT, "shop", gap.SerializeToString()), r"gap in its priorities \[1\]"),
        (broken(good, ENDPOINT, "shop", twice.SerializeToString()), "an address twice"),
    ):
        with pytest.raises(Inconsistent, match=says):
            check(bad)


# -- properties -------------------------------------------------------------------------------------

LABELS = ("v1", "v2", "v3", "v9")


@st.composite
def policies(draw: st.DrawFn) -> RoutePolicy:
    labels = draw(st.lists(st.sampled_from(LABELS), unique=True, max_size=4))
    cuts = (
        sorted(draw(st.lists(st.integers(0, 100), min_size=len(labels) - 1, max_size=len(labels) - 1)))
        if labels
        else []
    )
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)] if labels else []
    headers = draw(st.lists(st.sampled_from(LABELS), unique=True, max_size=2))
    return RoutePolicy(
        "shop",
        tuple(VersionWeight(v, w) for v, w in zip(labels, shares, strict=True)),
        tuple(HeaderRoute("x", version, version) for version in headers),
    )


groups = st.lists(st.tuples(st.sampled_from(LABELS[:3]), st.sampled_from(["", "z1"])), max_size=6).map(
    lambda rows: tuple(instance(f"i{n}", v, 100 + n, zone=z) for n, (v, z) in enumerate(rows))
)
snapshots = st.builds(lambda group, policy: snapshot(*group, policy=policy), groups, st.none() | policies())


def each(resources: Resources) -> Iterator[Resource]:
    for of_type in resources.by_type.values():
        yield from of_type.values()


@given(policies())
def test_the_weights_cover_each_bucket_exactly_once(policy: RoutePolicy):
    owners = [r.version for r in bucket_ranges(policy.weights) for _ in range(r.start, r.end)]
    starts = [n for r in bucket_ranges(policy.weights) for n in range(r.start, r.end)]
    assert starts == (list(range(100)) if policy.weights else [])
    for share in policy.weights:
        assert owners.count(share.version) == share.weight


@given(snapshots)
def test_every_snapshot_renders_consistently_and_to_the_same_bytes(shown: Snapshot):
    for kind in Kind:
        resources = render(shown, kind)
        check(resources)
        assert [r.digest for r in each(resources)] == [r.digest for r in each(render(shown, kind))]


@given(snapshots)
def test_every_cluster_of_a_service_lists_all_its_instances_its_own_first(shown: Snapshot):
    resources = render(shown, Kind.GRPC)
    for service in shown.services:
        everyone = {i.port for i in service.instances()}
        for version in service.versions:
            levels = tiers(resources, f"{service.name}@{version.label}")
            assert set().union(*levels) == everyone
            own = {i.port for i in version.instances}
            assert not own or levels[0] == own


@given(snapshots, st.integers(-5, 105), st.sampled_from([None, *LABELS]), st.sampled_from([GET, PUT]))
def test_every_call_finds_a_cluster(shown: Snapshot, bucket: int, header: str | None, method: Method):
    metadata = {"weft-bucket": str(bucket), **({"x": header} if header else {})}
    for service in shown.services:
        for kind, name in ((Kind.GRPC, service.name), (Kind.ENVOY, INGRESS)):
            assert decide(routes(render(shown, kind), name), method.path, metadata) is not None

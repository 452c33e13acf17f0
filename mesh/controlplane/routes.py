"""Compiles a service's route policy and method table into routes.

Each call is decided twice over, so the routes are a product, first match wins:

    which method     an idempotent method's own path, with a retry policy; then whatever else, with none
    which version    header routes in the policy's order; then ``weft-bucket`` in a version's range, which
                     keeps a session on its version; then, for callers without a bucket, weights at random

The weights cut 0 to 99 into one range per version, by label, without gap or overlap. Which methods may be
retried is what their protos declare: the instances' method tables say so, no name is written here.

A version's cluster is ``service@version``; the cluster of all instances is ``service``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf import any_pb2, duration_pb2, wrappers_pb2

from mesh.controlplane.policy import RoutePolicy, VersionWeight
from mesh.controlplane.snapshot import Service
from weft import names
from weft.xds.v1 import route_pb2 as pb

INGRESS: Final = "weft-ingress"
PREVIOUS_HOSTS: Final = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_RETRIES: Final = 3
_RETRY_FIRST_PAUSE_MS: Final = 25
_RETRY_LONGEST_PAUSE_MS: Final = 250
# gRPC counts a broken connection as UNAVAILABLE or CANCELLED; what a handler itself raises carries a
# pushback that stops the retry. Envoy knows no pushback, so it is given the transport's failures only.
_GRPC_RETRY_ON: Final = "unavailable,cancelled"
_ENVOY_RETRY_ON: Final = "connect-failure,refused-stream,reset"


@dataclass(frozen=True, slots=True)
class BucketRange:
    """Buckets ``start`` to ``end - 1`` go to ``version``."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Case:
    """One row of the version decision: metadata that must match, and where such calls go."""

    headers: tuple[pb.HeaderMatcher, ...]
    shares: tuple[tuple[str, int], ...]  # cluster, weight


def cluster_of(service: str, version: str = "") -> str:
    """Name of a version's cluster, or of the cluster of all instances."""
    return f"{service}@{version}" if version else service


def bucket_ranges(weights: Sequence[VersionWeight]) -> tuple[BucketRange, ...]:
    """Cut 0 to 99 into one range per version with a weight, in the order of the labels."""
    ranges, start = [], 0
    for share in sorted(weights, key=lambda w: w.version):
        if share.weight > 0:
            ranges.append(BucketRange(share.version, start, start + share.weight))
            start += share.weight
    return tuple(ranges)


def grpc_routes(service: Service) -> pb.RouteConfiguration:
    """The routes of one service, for clients that dial it by name."""
    retry = _retry_policy(_GRPC_RETRY_ON)
    host = pb.VirtualHost(name=service.name, domains=["*"])
    cases = _cases(service)
    for method in service.methods:
        if method.idempotent:
            host.routes.extend(_routes(pb.RouteMatch(path=method.path), cases, retry))
    host.routes.extend(_routes(pb.RouteMatch(prefix=""), cases, None))
    return pb.RouteConfiguration(name=service.name, virtual_hosts=[host])


def envoy_routes(services: Sequence[Service]) -> pb.RouteConfiguration:
    """The routes of all services behind one listener, told apart by the path's ``/package.Service/``.

    A gRPC service that several of ours serve (health, say) has no single owner and gets no route.
    """
    retry = _retry_policy(_ENVOY_RETRY_ON)
    predicate = retry.retry_host_predicate.add(name="previous-hosts")
    predicate.typed_config.CopyFrom(any_pb2.Any(type_url=PREVIOUS_HOSTS))
    retry.host_selection_retry_max_attempts = _RETRIES
    # gRPC says by itself what it sends again; a tool that changes something isn't run again.
    host = pb.VirtualHost(name=INGRESS, domains=["*"], include_request_attempt_count=True)
    owners = _owners(services)
    for service in services:
        cases = _cases(service)
        mine = sorted(prefix for prefix, owner in owners.items() if owner == service.name)
        for method in service.methods:
            if method.idempotent and owners[_prefix(method.path)] == service.name:
                host.routes.extend(_routes(pb.RouteMatch(path=method.path), cases, retry))
        for prefix in mine:
            host.routes.extend(_routes(pb.RouteMatch(prefix=prefix), cases, None))
    return pb.RouteConfiguration(name=INGRESS, virtual_hosts=[host])


def _prefix(path: str) -> str:
    return path[: path.rindex("/") + 1]


def _owners(services: Sequence[Service]) -> dict[str, str]:
    """Each path prefix with the one service that serves it, empty where several do."""
    owners: dict[str, str] = {}
    for service in services:
        for prefix in {_prefix(method.path) for method in service.methods}:
            owners[prefix] = service.name if prefix not in owners else ""
    return owners


def _routes(match: pb.RouteMatch, cases: Sequence[_Case], retry: pb.RetryPolicy | None) -> Iterator[pb.Route]:
    for case in cases:
        route = pb.Route(match=match, route=_action(case.shares))
        route.match.headers.extend(case.headers)
        if retry is not None:
            route.route.retry_policy.CopyFrom(retry)
        yield route


def _action(shares: Sequence[tuple[str, int]]) -> pb.RouteAction:
    no_limit = duration_pb2.Duration()  # the caller's deadline rules; unset would be Envoy's 15 s
    if len(shares) == 1:
        return pb.RouteAction(cluster=shares[0][0], timeout=no_limit)
    clusters = [
        pb.ClusterWeight(name=cluster, weight=wrappers_pb2.UInt32Value(value=weight)) for cluster, weight in shares
    ]
    return pb.RouteAction(weighted_clusters=pb.WeightedCluster(clusters=clusters), timeout=no_limit)


def _cases(service: Service) -> tuple[_Case, ...]:
    policy = service.policy or RoutePolicy(service.name)
    cases = [
        _Case(
            (pb.HeaderMatcher(name=route.header, string_match=pb.StringMatcher(exact=route.value)),),
            ((cluster_of(service.name, route.version), 1),),
        )
        for route in policy.headers
    ]
    ranges = bucket_ranges(policy.weights)
    if len(ranges) > 1:  # with a single version the last case says the same
        cases += [
            _Case(
                (
                    pb.HeaderMatcher(
                        name=names.METADATA_BUCKET, range_match=pb.Int64Range(start=part.start, end=part.end)
                    ),
                ),
                ((cluster_of(service.name, part.version), 1),),
            )
            for part in ranges
        ]
    shares = tuple((cluster_of(service.name, part.version), part.end - part.start) for part in ranges)
    cases.append(_Case((), shares or ((cluster_of(service.name), 1),)))
    return tuple(cases)


def _retry_policy(retry_on: str) -> pb.RetryPolicy:
    pause, longest = duration_pb2.Duration(), duration_pb2.Duration()
    pause.FromMilliseconds(_RETRY_FIRST_PAUSE_MS)
    longest.FromMilliseconds(_RETRY_LONGEST_PAUSE_MS)
    return pb.RetryPolicy(
        retry_on=retry_on,
        num_retries=wrappers_pb2.UInt32Value(value=_RETRIES),
        retry_back_off=pb.RetryBackOff(base_interval=pause, max_interval=longest),
    )

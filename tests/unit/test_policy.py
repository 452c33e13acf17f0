"""What an operator may want of a service, and what is said when he wants something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.controlplane.policy import (
    HeaderRoute,
    RoutePolicy,
    VersionWeight,
    parse,
    read,
    to_document,
    validate,
)
from mesh.registry import StoredPolicy
from weft.errors import InvalidArgument


def stored(document: str, service: str = "retriever", revision: int = 3) -> StoredPolicy:
    return StoredPolicy(service, document, revision)


def weights(**shares: int) -> RoutePolicy:
    return RoutePolicy("retriever", tuple(VersionWeight(v, w) for v, w in shares.items()))


def test_a_document_becomes_a_policy_with_the_stores_revision():
    policy = parse(
        stored(
            '{"weights": {"v2": 10, "v1": 90}, '
            '"headers": [{"header": "weft-route-canary", "value": "yes", "version": "v2"}]}'
        )
    )
    assert policy == RoutePolicy(
        "retriever",
        (VersionWeight("v1", 90), VersionWeight("v2", 10)),
        (HeaderRoute("weft-route-canary", "yes", "v2"),),
        revision=3,
    )


def test_an_empty_document_is_an_even_spread():
    assert parse(stored("{}")) == RoutePolicy("retriever", revision=3)


def test_a_version_may_weigh_nothing_and_is_still_named():
    policy = validate(weights(v1=100, v2=0))
    assert policy.versions() == {"v1", "v2"}
    assert policy.weighted_versions() == {"v1"}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is a list, it must be an object"),
        ("null", "is nothing"),
        ('{"weight": {"v1": 100}}', "unknown name 'weight'; allowed are headers, weights"),
        ('{"weights": {"v1": 90, "v1": 10}}', "the name 'v1' comes twice"),
        ('{"weights": [90, 10]}', "weights holds a list"),
        ('{"weights": {"v1": "90"}}', "the weight of version 'v1' is '90', it must be a whole percent"),
        ('{"weights": {"v1": 99.5, "v2": 0.5}}', "is '99.5', it must be a whole percent"),
        ('{"weights": {"v1": true}}', "is 'true', it must be a whole percent"),
        ('{"weights": {"v1": NaN}}', "must be a whole percent"),
        ('{"weights": {"v1": 90, "v2": 9}}', "v1=90, v2=9 add up to 99, they must add up to 100"),
        ('{"weights": {"v1": 110, "v2": -10}}', "weight 110 of version v1 is not between 0 and 100"),
        ('{"weights": {"v 1": 100}}', "version 'v 1' is not a version label"),
        ('{"weights": {"": 100}}', "version '' is not a version label"),
        ('{"headers": {}}', "headers is an object, it must be a list"),
        ('{"headers": ["x"]}', "headers holds 'x' where an object must be"),
        ('{"headers": [{"header": "a", "value": "b"}]}', "a header route's version is nothing, it must be text"),
        ('{"headers": [{"header": "a", "value": "b", "version": "v1", "weight": 1}]}', "unknown name 'weight'"),
    ],
)
def test_a_bad_document_is_a_problem_in_words_not_a_policy(document: str, says: str):
    policy, problem = read(stored(document))
    assert policy is None
    assert says in problem
    assert problem.startswith("route policy of 'retriever': ")


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (HeaderRoute("Canary", "yes", "v1"), "header 'Canary' can't be routed by: 1 to 64 of a-z"),
        (HeaderRoute("key-bin", "yes", "v1"), "binary metadata"),
        (HeaderRoute("grpc-timeout", "1S", "v1"), "gRPC keeps it for itself; use weft-route-"),
        (HeaderRoute("weft-bucket", "5", "v1"), "the weights decide by it"),
        (HeaderRoute("canary", "", "v1"), "1 to 256 printable ASCII"),
        (HeaderRoute("canary", " yes", "v1"), "no space at either end"),
        (HeaderRoute("canary", "ja\n", "v1"), "printable ASCII"),
        (HeaderRoute("canary", "是", "v1"), "printable ASCII"),
        (HeaderRoute("canary", "x" * 257, "v1"), "1 to 256"),
        (HeaderRoute("canary", "yes", "v/1"), "version 'v/1' is not a version label"),
    ],
)
def test_a_header_route_that_no_proxy_can_match_is_refused(route: HeaderRoute, says: str):
    with pytest.raises(InvalidArgument, match="POLICY_INVALID") as caught:
        validate(RoutePolicy("retriever", headers=(route,)))
    assert says in caught.value.message
    assert caught.value.field == "policy.headers"
    assert caught.value.metadata["service"] == "retriever"


def test_a_second_route_for_the_same_value_would_never_match_and_is_refused():
    routes = (HeaderRoute("canary", "yes", "v1"), HeaderRoute("canary", "yes", "v2"))
    with pytest.raises(InvalidArgument, match="the first match wins"):
        validate(RoutePolicy("retriever", headers=routes))


def test_a_seventeenth_header_route_is_refused():
    routes = tuple(HeaderRoute("canary", str(n), "v1") for n in range(17))
    validate(RoutePolicy("retriever", headers=routes[:16]))
    with pytest.raises(InvalidArgument, match="17 header routes, at most 16"):
        validate(RoutePolicy("retriever", headers=routes))


def test_a_version_with_two_weights_is_refused():
    shares = (VersionWeight("v1", 50), VersionWeight("v1", 50))
    with pytest.raises(InvalidArgument, match="version v1 has two weights"):
        validate(RoutePolicy("retriever", shares))


def test_a_service_that_cannot_be_dialled_is_refused():
    with pytest.raises(InvalidArgument, match="'Retriever/1' is not a service name"):
        validate(RoutePolicy("Retriever/1"))


versions = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@st.composite
def policies(draw: st.DrawFn) -> RoutePolicy:
    labels = draw(st.lists(versions, unique=True, max_size=6))
    cuts = (
        sorted(draw(st.lists(st.integers(0, 100), min_size=len(labels) - 1, max_size=len(labels) - 1)))
        if labels
        else []
    )
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)] if labels else []
    routes = draw(
        st.lists(
            st.builds(
                HeaderRoute, st.sampled_from(["weft-route-a", "x"]), st.sampled_from(["1", "a b", "z"]), versions
            ),
            unique_by=lambda route: (route.header, route.value),
            max_size=5,
        )
    )
    pairs = tuple(VersionWeight(v, w) for v, w in zip(labels, shares, strict=True))
    return RoutePolicy("retriever", pairs, tuple(routes), draw(st.integers(0, 10**9)))


@given(policies())
def test_a_policy_survives_the_store(policy: RoutePolicy):
    policy = validate(policy)
    assert parse(stored(to_document(policy), revision=policy.revision)) == policy


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["weights", "headers", "v1"]), x),
    ).map(json.dumps)
)
def test_whatever_is_in_the_store_is_a_policy_or_a_problem(document: str):
    policy, problem = read(stored(document))
    assert (policy is None) == bool(problem)

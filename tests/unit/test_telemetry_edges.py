"""The helper that judges traces sees what is wrong with them."""

from __future__ import annotations

import pytest

from tests.support.traces import assert_edges, edges
from weft.mesh.v1 import trace_pb2

TABLE = {
    "-> cli:client:ToolService/Call": 1,
    "cli:client:ToolService/Call -> tools:server:ToolService/Call": 1,
    "tools:server:ToolService/Call -> tools:internal:run": 2,
}


def good() -> list[trace_pb2.Span]:
    def span(number: int, parent: int, service: str, kind: str, name: str) -> trace_pb2.Span:
        return trace_pb2.Span(
            span_id=f"{number:016x}",
            parent_span_id=f"{parent:016x}" if parent else "",
            service=service,
            instance=f"{service}-1",
            kind=kind,
            name=name,
            start_unix_ns=10**18 + number * 10**7,
            end_unix_ns=10**18 + 10**9,
        )

    call = "weft.tools.v1.ToolService/Call"
    return [
        span(1, 0, "cli", "client", call),
        span(2, 1, "tools", "server", call),
        span(3, 2, "tools", "internal", "run"),
        span(4, 2, "tools", "internal", "run"),
    ]


def test_a_good_trace_passes_in_any_order() -> None:
    assert_edges(good(), TABLE)
    assert_edges(good()[::-1], TABLE)
    assert edges(good()) == TABLE


def test_an_edge_too_few_too_many_or_unexpected_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"2 expected, 1 found: tools:server:ToolService/Call -> tools:internal:run"
    ):
        assert_edges(good()[:3], TABLE)
    with pytest.raises(AssertionError, match=r"0 expected, 2 found: tools:server"):
        assert_edges(good(), list(TABLE)[:2])


@pytest.mark.parametrize(
    ("index", "change", "complaint"),
    [
        (2, {"parent_span_id": "f" * 16}, "whose parent is not in the trace"),
        (2, {"parent_span_id": ""}, "has one root"),
        (0, {"kind": "internal"}, "no client"),
        (1, {"parent_span_id": f"{3:016x}"}, "before its parent"),
        (2, {"parent_span_id": f"{1:016x}"}, "parent in another process"),
        (1, {"start_unix_ns": 5}, "before its parent"),
        (3, {"end_unix_ns": 7}, "ends before it begins"),
        (3, {"span_id": f"{2:016x}"}, "ids repeat"),
    ],
)
def test_a_broken_tree_is_refused(index: int, change: dict[str, object], complaint: str) -> None:
    spans = good()
    for name, value in change.items():
        setattr(spans[index], name, value)
    with pytest.raises(AssertionError, match=complaint):
        assert_edges(spans, TABLE)

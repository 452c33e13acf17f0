"""A trace as a table of edges, to be compared with the table that was expected.

    edge      "orchestrator:client:RetrieverService/Search -> retriever:server:RetrieverService/Search"
    root      "-> sdk:client:OrchestratorService/Chat"

Names of RPC spans lose their package. The table is exact: an edge that came twice, or not at all, or
once too often fails, and the failure shows the whole trace as a tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from weft.mesh.v1 import trace_pb2

_CLOCK_SLACK_NS = 1_000_000  # processes of one machine share a clock; reading it isn't atomic


def label(span: trace_pb2.Span) -> str:
    """``service:kind:name`` of a span."""
    package, slash, method = span.name.rpartition("/")
    name = f"{package.rpartition('.')[2]}/{method}" if slash else span.name
    return f"{span.service}:{span.kind}:{name}"


def edges(spans: Iterable[trace_pb2.Span]) -> Counter[str]:
    """Every edge, parent to child, and how often it occurs; a span without its parent gets ``-> span``."""
    by_id = {span.span_id: span for span in spans}
    return Counter(
        f"{label(by_id[span.parent_span_id])} -> {label(span)}" if span.parent_span_id in by_id else f"-> {label(span)}"
        for span in by_id.values()
    )


def assert_edges(spans: Sequence[trace_pb2.Span], expected: Mapping[str, int] | Iterable[str]) -> None:
    """Check that the trace is one tree, is causal, and has exactly the ``expected`` edges.

    Args:
        expected: edges with their counts, or edges that occur once each (repeat one to count it again).
    """
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), f"span ids repeat\n{draw(spans)}"
    orphans = [label(s) for s in spans if s.parent_span_id and s.parent_span_id not in by_id]
    assert not orphans, f"spans whose parent is not in the trace: {orphans}\n{draw(spans)}"
    roots = [label(s) for s in spans if not s.parent_span_id]
    assert len(roots) == 1, f"a trace has one root, this one has {roots}\n{draw(spans)}"
    for span in spans:
        assert span.end_unix_ns >= span.start_unix_ns > 0, f"{label(span)} ends before it begins\n{draw(spans)}"
        parent = by_id.get(span.parent_span_id)
        if parent is None:
            continue
        early_ns = parent.start_unix_ns - span.start_unix_ns
        assert early_ns <= _CLOCK_SLACK_NS, f"{label(span)} begins {early_ns} ns before its parent\n{draw(spans)}"
        if span.kind == "server":
            assert parent.kind == "client", f"{label(span)} was called by {label(parent)}, no client\n{draw(spans)}"
        else:
            assert parent.instance == span.instance, f"{label(span)} has its parent in another process\n{draw(spans)}"
    found, wanted = edges(spans), Counter(expected)
    differences = [
        f"  {wanted[edge]} expected, {found[edge]} found: {edge}"
        for edge in sorted(found.keys() | wanted.keys())
        if found[edge] != wanted[edge]
    ]
    assert not differences, "edges differ:\n" + "\n".join(differences) + f"\n{draw(spans)}"


def draw(spans: Iterable[trace_pb2.Span]) -> str:
    """The trace as an indented tree, children by start."""
    ordered = sorted(spans, key=lambda span: span.start_unix_ns)
    ids = {span.span_id for span in ordered}
    children: dict[str, list[trace_pb2.Span]] = {}
    for span in ordered:
        children.setdefault(span.parent_span_id if span.parent_span_id in ids else "", []).append(span)
    lines: list[str] = []
    drawn: set[int] = set()  # a broken trace may hold cycles and ids that repeat

    def walk(siblings: Iterable[trace_pb2.Span], depth: int) -> None:
        for span in siblings:
            if id(span) not in drawn:
                drawn.add(id(span))
                milliseconds = (span.end_unix_ns - span.start_unix_ns) / 1e6
                lines.append(f"{'  ' * depth}{label(span)} {span.status} {milliseconds:.1f} ms")
                walk(children.get(span.span_id, []), depth + 1)

    walk(children.get("", []), 1)
    walk(ordered, 1)  # what hangs on nothing
    return "\n".join(lines)

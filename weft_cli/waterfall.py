"""A trace as a waterfall: the tree of its spans, each with the piece of time that it took.

    ask                                  cli           ━━━━━━━━━━━━━━━━━━━━━━━━━━━━   41.2 ms
      OrchestratorService/Chat           cli            ━━━━━━━━━━━━━━━━━━━━━━━━━━    40.1 ms
        OrchestratorService/Chat         orchestrator    ━━━━━━━━━━━━━━━━━━━━━━━━━    38.9 ms

Spans whose parent is missing (it hasn't arrived, or the ring let it go) stand at the left with a ``?``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from weft.mesh.v1 import trace_pb2
from weft_cli.output import draw_bar, say, width

_MIN_BAR_CHARS: Final = 10
_MAX_BAR_CHARS: Final = 60


def complete(spans: Iterable[trace_pb2.Span]) -> bool:
    """Whether every span's parent has arrived, and a root."""
    found = list(spans)
    ids = {span.span_id for span in found}
    roots = [span for span in found if not span.parent_span_id]
    return len(roots) == 1 and all(not s.parent_span_id or s.parent_span_id in ids for s in found)


def answered(spans: Iterable[trace_pb2.Span]) -> bool:
    """Whether for every call that went well the span of the side that served it has arrived."""
    found = list(spans)
    parents = {span.parent_span_id for span in found}
    return all(s.span_id in parents for s in found if s.kind == "client" and s.status != "error")


def print_waterfall(trace_id: str, spans: Iterable[trace_pb2.Span]) -> None:
    """Draw a trace."""
    found = sorted(spans, key=lambda span: (span.start_unix_ns, span.end_unix_ns))
    first_ns = min(span.start_unix_ns for span in found)
    whole_ns = max(1, max(span.end_unix_ns for span in found) - first_ns)
    rows = [("  " * depth + mark + _short(span.name), span.service, span) for depth, mark, span in _tree(found)]
    names, services = (max(len(row[n]) for row in rows) for n in (0, 1))  # type: ignore[arg-type]
    bar = min(_MAX_BAR_CHARS, max(_MIN_BAR_CHARS, width() - names - services - 17))
    say(f"trace {trace_id} · {len(found)} spans · {whole_ns / 1e6:.1f} ms", bold=True)
    for name, service, span in rows:
        start, end = (span.start_unix_ns - first_ns) / whole_ns, (span.end_unix_ns - first_ns) / whole_ns
        took_ms = (span.end_unix_ns - span.start_unix_ns) / 1e6
        line = f"{name:<{names}}  {service:<{services}}  {draw_bar(start, end, bar)} {took_ms:8.1f} ms"
        failed = span.status == "error"
        say(line + (f"  {_failure(span)}" if failed else ""), colour="red" if failed else None)


def _failure(span: trace_pb2.Span) -> str:
    fields = span.attributes.fields
    kind = fields["error.type"].string_value if "error.type" in fields else "error"
    return f"{kind} {span.status_message}".strip()


def _short(name: str) -> str:
    """An RPC's name without its package."""
    package, slash, method = name.rpartition("/")
    return f"{package.rpartition('.')[2]}/{method}" if slash else name


def _tree(spans: list[trace_pb2.Span]) -> Iterator[tuple[int, str, trace_pb2.Span]]:
    ids = {span.span_id for span in spans}
    children: dict[str, list[trace_pb2.Span]] = {}
    for span in spans:
        parent = span.parent_span_id
        children.setdefault(parent if parent in ids and parent != span.span_id else "", []).append(span)
    waiting = [(0, span) for span in reversed(children.get("", []))]
    while waiting:  # no recursion: a trace may be deeper than Python's stack
        depth, span = waiting.pop()
        orphan = span.parent_span_id and span.parent_span_id not in ids
        yield depth, "? " if orphan else "", span
        waiting.extend((depth + 1, child) for child in reversed(children.get(span.span_id, [])))

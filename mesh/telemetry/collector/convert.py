"""Stored OTLP spans to the messages of ``weft.mesh.v1``.

A span that came twice (an exporter that repeated its call) counts once. Attributes become JSON values:
what JSON's numbers can't hold (integers beyond 2**53, NaN, infinities) and bytes become text.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from mesh.telemetry.collector.ring import StoredTrace
from weft.mesh.v1 import trace_pb2

_KINDS: Final = ("internal", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
_ERROR: Final = 2
_MAX_EXACT_INT: Final = 2**53
_MAX_DEPTH: Final = 8


def to_spans(trace: StoredTrace) -> list[trace_pb2.Span]:
    """All spans of a trace, by start."""
    spans = {span.span_id: _to_span(service, instance, span) for service, instance, span in _decode(trace)}
    return sorted(spans.values(), key=lambda span: (span.start_unix_ns, -span.end_unix_ns))


def to_summary(trace: StoredTrace) -> trace_pb2.TraceSummary:
    """A trace's line in the list."""
    spans = {span.span_id: (service, span) for service, _, span in _decode(trace)}
    decoded = [span for _, span in spans.values()]
    start_ns = min(span.start_time_unix_nano for span in decoded)
    end_ns = max(span.end_time_unix_nano for span in decoded)
    # The root if it has come, else the earliest.
    first = min(decoded, key=lambda span: (bool(span.parent_span_id), span.start_time_unix_nano))
    return trace_pb2.TraceSummary(
        trace_id=trace.trace_id,
        name=first.name,
        services=sorted({service for service, _ in spans.values()}),
        span_count=len(spans),
        start_unix_ns=start_ns,
        duration_ns=max(0, end_ns - start_ns),
        error=any(span.status.code == _ERROR for span in decoded),
    )


def _decode(trace: StoredTrace) -> Iterable[tuple[str, str, OtlpSpan]]:
    return ((span.service, span.instance, OtlpSpan.FromString(span.data)) for span in trace.spans)


def _to_span(service: str, instance: str, span: OtlpSpan) -> trace_pb2.Span:
    message = trace_pb2.Span(
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS[span.kind] if span.kind < len(_KINDS) else "internal",
        service=service,
        instance=instance,
        start_unix_ns=span.start_time_unix_nano,
        end_unix_ns=span.end_time_unix_nano,
        status=_STATUSES[span.status.code] if span.status.code < len(_STATUSES) else "unset",
        status_message=span.status.message,
    )
    if span.attributes:
        message.attributes.update(_to_dict(span.attributes))
    for event in sorted(span.events, key=lambda event: event.time_unix_nano):
        added = message.events.add(name=event.name, time_unix_ns=event.time_unix_nano)
        if event.attributes:
            added.attributes.update(_to_dict(event.attributes))
    return message


def _to_dict(pairs: Iterable[KeyValue], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _to_value(pair.value, depth) for pair in pairs}


def _to_value(value: AnyValue, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth > _MAX_DEPTH:
        return None
    if kind == "array_value":
        return [_to_value(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _to_dict(value.kvlist_value.values, depth + 1)
    plain = getattr(value, kind)
    if isinstance(plain, bytes):
        return plain.hex()
    if (kind == "int_value" and abs(plain) > _MAX_EXACT_INT) or (kind == "double_value" and not isfinite(plain)):
        return str(plain)
    return plain

"""Spans to OTLP messages, at a quarter of the stock encoder's cost.

Most attributes of a service's spans repeat (method names, codes, tenants), so their messages are made
once and kept, within a bound; what is each span's own (session, request id) would only push those out. Spans
are encoded a few dozen at a time with a real pause in between: encoding holds the interpreter's lock, and
the event loop wants it.

``tests/unit/test_telemetry_otlp.py`` compares the result with the stock encoder's, span by span.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusMessage
from opentelemetry.trace import StatusCode

from mesh.telemetry.recording import FinishedSpan
from weft import names

_MAX_KEPT: Final = 2_048
_MAX_KEPT_CHARS: Final = 64
_NEVER_KEPT: Final = frozenset({names.SESSION, names.REQUEST_ID, names.GENAI_TOOL_CALL_ID})
_SLICE_SPANS: Final = 64
_PAUSE_S: Final = 0.000_2
_HAS_IS_REMOTE: Final = 0x100  # of Span.flags: the next bit is meaningful
_IS_REMOTE: Final = 0x200
_STATUS_CODES: Final = {
    StatusCode.UNSET: StatusMessage.STATUS_CODE_UNSET,
    StatusCode.OK: StatusMessage.STATUS_CODE_OK,
    StatusCode.ERROR: StatusMessage.STATUS_CODE_ERROR,
}


class SpanEncoder:
    """Makes OTLP requests; keeps the messages of attributes that repeat. For one thread."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, type, Any], KeyValue] = {}

    def encode(self, spans: Sequence[FinishedSpan]) -> ExportTraceServiceRequest:
        """One request with all ``spans``, grouped by resource and scope."""
        request = ExportTraceServiceRequest()
        groups: dict[tuple[int, int], ScopeSpans] = {}
        resources: dict[int, ResourceSpans] = {}
        for index, span in enumerate(spans, 1):
            key = (id(span.resource), id(span.instrumentation_scope))
            group = groups.get(key)
            if group is None:
                group = groups[key] = self._group(request, resources, span)
            self._add(group, span)
            if index % _SLICE_SPANS == 0:
                time.sleep(_PAUSE_S)
        return request

    def _group(
        self, request: ExportTraceServiceRequest, resources: dict[int, ResourceSpans], span: FinishedSpan
    ) -> ScopeSpans:
        of_resource = resources.get(id(span.resource))
        if of_resource is None:
            of_resource = resources[id(span.resource)] = request.resource_spans.add(
                resource=Resource(attributes=self._attributes(span.resource.attributes)),
                schema_url=span.resource.schema_url,
            )
        scope = span.instrumentation_scope
        if scope is None:
            return of_resource.scope_spans.add()
        return of_resource.scope_spans.add(
            scope=InstrumentationScope(
                name=scope.name, version=scope.version or "", attributes=self._attributes(scope.attributes)
            ),
            schema_url=scope.schema_url or "",
        )

    def _add(self, group: ScopeSpans, span: FinishedSpan) -> None:
        context, parent, status = span.context, span.parent, span.status
        message = group.spans.add(
            trace_id=context.trace_id.to_bytes(16, "big"),
            span_id=context.span_id.to_bytes(8, "big"),
            parent_span_id=parent.span_id.to_bytes(8, "big") if parent else None,
            name=span.name,
            kind=span.kind.value + 1,  # OTLP counts from UNSPECIFIED
            start_time_unix_nano=span.start_time,
            end_time_unix_nano=span.end_time,
            attributes=self._attributes(span.attributes),
            dropped_attributes_count=span.dropped_attributes,
            flags=_HAS_IS_REMOTE | (_IS_REMOTE if parent is not None and parent.is_remote else 0),
        )
        message.status.code = _STATUS_CODES[status.status_code]
        if status.description:
            message.status.message = status.description
        if context.trace_state:
            message.trace_state = ",".join(f"{key}={value}" for key, value in context.trace_state.items())
        if span.events:
            self._add_events(message, span)
        if span.links:
            self._add_links(message, span)

    def _add_events(self, message: SpanMessage, span: FinishedSpan) -> None:
        message.dropped_events_count = span.dropped_events
        for event in span.events:
            message.events.add(
                name=event.name, time_unix_nano=event.timestamp, attributes=self._attributes(event.attributes)
            )

    def _add_links(self, message: SpanMessage, span: FinishedSpan) -> None:
        message.dropped_links_count = span.dropped_links
        for link in span.links:
            message.links.add(
                trace_id=link.context.trace_id.to_bytes(16, "big"),
                span_id=link.context.span_id.to_bytes(8, "big"),
                attributes=self._attributes(link.attributes),
                flags=_HAS_IS_REMOTE | (_IS_REMOTE if link.context.is_remote else 0),
            )

    def _attributes(self, attributes: Mapping[str, Any] | None) -> list[KeyValue]:
        return [self._pair(key, value) for key, value in attributes.items()] if attributes else []

    def _pair(self, key: str, value: Any) -> KeyValue:
        kind = type(value)
        if key in _NEVER_KEPT or (kind is not bool and (kind is not str or len(value) > _MAX_KEPT_CHARS)):
            return KeyValue(key=key, value=_any_value(value))  # numbers seldom repeat
        known = (key, kind, value)
        pair = self._kept.get(known)
        if pair is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            pair = self._kept[known] = KeyValue(key=key, value=_any_value(value))
        return pair


def _any_value(value: Any) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, Mapping):
        pairs = [KeyValue(key=key, value=_any_value(item)) for key, item in value.items()]
        return AnyValue(kvlist_value=KeyValueList(values=pairs))
    if isinstance(value, Sequence):
        return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))
    return AnyValue(string_value=str(value))

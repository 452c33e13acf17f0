"""Spans for the hot path: what the SDK records, at about a quarter of its cost.

A turn has a dozen spans, each around something that takes about a tenth of a millisecond, so what recording
costs is felt. The SDK's span allocates three locks and three bounded collections, asks a sampler and counts
itself; ours is used on one event loop, records always, and makes a list when there is something to put in.
Everything else stays the SDK's: ids, resource, scope, and the pipeline behind ``end``. Where the operator asked for
a sampler (``OTEL_TRACES_SAMPLER``), and below a parent that wasn't sampled, the SDK's own tracer is used.

Limits: 128 attributes, events and links a span, and ``max_chars`` characters a text; more is dropped and counted as the
SDK counts it. ``tests/unit/test_telemetry_recording.py`` holds both tracers against each other.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer, TraceState

MAX_ATTRIBUTES: Final = 128
MAX_EVENTS: Final = 128
MAX_LINKS: Final = 128
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_NO_STATE: Final = TraceState()

Attributes: TypeAlias = Mapping[str, Any] | None


class FinishedSpan(Protocol):
    """What is read of a span when it is over: the SDK's ``ReadableSpan`` has it, too."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> SpanContext: ...
    @property
    def parent(self) -> SpanContext | None: ...
    @property
    def kind(self) -> SpanKind: ...
    @property
    def start_time(self) -> int | None: ...
    @property
    def end_time(self) -> int | None: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def events(self) -> Sequence[Event]: ...
    @property
    def links(self) -> Sequence[Link]: ...
    @property
    def status(self) -> Status: ...
    @property
    def resource(self) -> Resource: ...
    @property
    def instrumentation_scope(self) -> InstrumentationScope | None: ...
    @property
    def dropped_attributes(self) -> int: ...
    @property
    def dropped_events(self) -> int: ...
    @property
    def dropped_links(self) -> int: ...


class RecordingTracer(Tracer):
    """Makes ``RecordedSpan``s and hands each to ``ended`` when it is over."""

    def __init__(
        self,
        stock: Tracer,
        resource: Resource,
        scope: InstrumentationScope,
        ended: Callable[[FinishedSpan], None],
        max_chars: int,
    ) -> None:
        self._stock, self._ids = stock, RandomIdGenerator()
        self.resource, self.instrumentation_scope, self.ended, self.max_chars = resource, scope, ended, max_chars

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Begin a span below the one in ``context``, or below the current one."""
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is None or not parent.is_valid:
            parent = None
            own = SpanContext(self._ids.generate_trace_id(), self._ids.generate_span_id(), False, _SAMPLED, _NO_STATE)
        elif parent.trace_flags & TraceFlags.SAMPLED:
            own = SpanContext(parent.trace_id, self._ids.generate_span_id(), False, _SAMPLED, parent.trace_state)
        else:
            return self._stock.start_span(
                name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
            )
        span = RecordedSpan(self, name, own, parent, kind, start_time or time.time_ns())
        if attributes:
            span.set_attributes(attributes)
        for link in links or ():
            span.add_link(link.context, link.attributes)
        return span

    def start_as_current_span(  # type: ignore[override] # the API's context manager is a decorator, too
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> _Current:
        """A context manager: within it the span is the current one."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        return _Current(span, record_exception, set_status_on_exception, end_on_exit)


class _Current:
    """A span made current for a block."""

    __slots__ = ("_ends", "_marks", "_records", "_span", "_token")

    def __init__(self, span: Span, records: bool, marks: bool, ends: bool) -> None:
        self._span, self._records, self._marks, self._ends = span, records, marks, ends

    def __enter__(self) -> Span:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        otel_context.detach(self._token)
        if isinstance(exc, Exception):  # what merely cancels is no error
            if self._records:
                self._span.record_exception(exc)
            if self._marks:
                self._span.set_status(Status(StatusCode.ERROR, f"{type(exc).__name__}: {exc}"))
        if self._ends:
            self._span.end()


class RecordedSpan(Span):
    """One span. For one thread at a time; when it is over, nothing changes it any more."""

    __slots__ = (
        "_tracer",
        "attributes",
        "context",
        "dropped_attributes",
        "dropped_events",
        "dropped_links",
        "end_time",
        "events",
        "kind",
        "links",
        "name",
        "parent",
        "start_time",
        "status",
    )

    def __init__(
        self,
        tracer: RecordingTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start_time: int,
    ) -> None:
        self._tracer, self.name, self.context, self.parent, self.kind = tracer, name, context, parent, kind
        self.start_time, self.end_time = start_time, 0
        self.attributes: dict[str, Any] = {}
        self.events: tuple[Event, ...] = ()
        self.links: tuple[Link, ...] = ()
        self.status = _UNSET
        self.dropped_attributes = self.dropped_events = self.dropped_links = 0

    @property
    def resource(self) -> Resource:
        """What was traced."""
        return self._tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Which part of it."""
        return self._tracer.instrumentation_scope

    def get_span_context(self) -> SpanContext:
        """The span's identity."""
        return self.context

    def is_recording(self) -> bool:
        """Whether it still goes on."""
        return not self.end_time

    def set_attribute(self, key: str, value: Any) -> None:
        """Note something of it."""
        if not self.end_time:
            self._put(self.attributes, key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Note several things of it."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Note that something happened."""
        if self.end_time:
            return
        if len(self.events) >= MAX_EVENTS:
            self.dropped_events += 1
            self.events = self.events[1:]  # the newest stay, as with the SDK
        self.events = (*self.events, Event(name, self._clean(attributes), timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Note that another span has to do with it."""
        if self.end_time or not (context.is_valid or attributes or context.trace_state):
            return
        if len(self.links) >= MAX_LINKS:
            self.dropped_links += 1
            self.links = self.links[1:]
        self.links = (*self.links, Link(context, self._clean(attributes)))

    def update_name(self, name: str) -> None:
        """Give it another name."""
        if not self.end_time:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say how it went: OK is final, and UNSET changes nothing."""
        given = status if isinstance(status, Status) else Status(status, description)
        if not (self.end_time or self.status.status_code is StatusCode.OK or given.status_code is StatusCode.UNSET):
            self.status = given

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Note an exception as an event, by OpenTelemetry's names."""
        kind = type(exception)
        known = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        noted = {
            "exception.type": known,
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**noted, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """It is over."""
        if not self.end_time:
            self.end_time = end_time or time.time_ns()
            self._tracer.ended(self)

    def _clean(self, attributes: Attributes) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        for key, value in (attributes or {}).items():
            self._put(clean, key, value)
        return clean

    def _put(self, into: dict[str, Any], key: str, value: Any) -> None:
        if type(value) is str:
            if len(value) > self._tracer.max_chars:
                value = value[: self._tracer.max_chars]
        elif isinstance(value, list | tuple):
            value = tuple(v[: self._tracer.max_chars] if isinstance(v, str) else v for v in value)
        if len(into) >= MAX_ATTRIBUTES and key not in into:
            if into is self.attributes:
                self.dropped_attributes += 1
            return
        into[key] = value

"""Our spans say what the SDK's spans say, whatever is done to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from mesh.telemetry import setup
from mesh.telemetry.otlp import SpanEncoder
from mesh.telemetry.recording import FinishedSpan, RecordedSpan, RecordingTracer

MAX_CHARS = 16
RESOURCE = Resource({"service.name": "x"})
REMOTE = SpanContext(3**70, 3**30, is_remote=True, trace_flags=TraceFlags(1))
UNSAMPLED = SpanContext(3**70, 3**30, is_remote=True, trace_flags=TraceFlags(0))
Script = Callable[[Tracer], object]


def both(script: Script) -> tuple[list[Any], list[Any]]:
    """What each tracer records of a script, as OTLP without what chance and clock put in."""
    exporter, ours = InMemorySpanExporter(), list[FinishedSpan]()
    provider = TracerProvider(
        resource=RESOURCE, span_limits=SpanLimits(max_attribute_length=MAX_CHARS), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stock = provider.get_tracer("scope")
    script(stock)
    theirs = list(exporter.get_finished_spans())
    exporter.clear()
    script(RecordingTracer(stock, RESOURCE, InstrumentationScope("scope"), ours.append, MAX_CHARS))
    ours += exporter.get_finished_spans()
    return _told(ours), _told(theirs)


def _told(spans: list[Any]) -> list[Any]:
    (resource_spans,) = SpanEncoder().encode(spans).resource_spans or (None,)
    if resource_spans is None:
        return []
    (scope_spans,) = resource_spans.scope_spans
    number = {span.span_id: index for index, span in enumerate(scope_spans.spans)}
    told = []
    for span in scope_spans.spans:
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        parent = number.get(span.parent_span_id, span.parent_span_id)
        for event in span.events:
            event.time_unix_nano = 0
            for pair in event.attributes:
                if pair.key == "exception.stacktrace":
                    pair.value.string_value = pair.value.string_value.splitlines()[0][:MAX_CHARS]
        span.span_id = span.parent_span_id = b""
        span.start_time_unix_nano = span.end_time_unix_nano = 0
        if span.trace_id != REMOTE.trace_id.to_bytes(16, "big"):
            span.trace_id = b""
        told.append((parent, str(span)))
    return told


def everything(tracer: Tracer) -> None:
    context = trace.set_span_in_context(NonRecordingSpan(REMOTE))
    for kind in SpanKind:
        links = [Link(REMOTE, {"l": 1})]
        span = tracer.start_span("s", context=context, kind=kind, attributes={"a": "值" * 40}, links=links)
        span.set_attribute("many", ["a", "b" * 40])
        span.set_attributes({"n": 1, "f": 1.5, "yes": True})
        span.add_event("seen", {"n": 1.5, "text": "t" * 40})
        span.update_name("another")
        span.set_status(StatusCode.ERROR, "it failed")
        span.set_status(StatusCode.UNSET)
        span.end()
        span.set_attribute("late", 1)
        span.add_event("late")
        span.set_status(StatusCode.OK)
        span.end()


def nested(tracer: Tracer) -> None:
    with tracer.start_as_current_span("outer") as outer:
        assert trace.get_current_span() is outer
        with tracer.start_as_current_span("inner", kind=SpanKind.CLIENT):
            tracer.start_span("innermost").end()
    assert not trace.get_current_span().get_span_context().is_valid


def failing(tracer: Tracer) -> None:
    for options in ({}, {"record_exception": False}, {"set_status_on_exception": False}):
        for failure in (ValueError("wrong"), asyncio.CancelledError()):
            with pytest.raises(type(failure)), tracer.start_as_current_span("s", **options):  # type: ignore[arg-type]
                raise failure


def settled(tracer: Tracer) -> None:
    span = tracer.start_span("s")
    span.set_status(Status(StatusCode.OK))
    span.set_status(Status(StatusCode.ERROR, "too late"))
    span.end()


def too_much(tracer: Tracer) -> None:
    span = tracer.start_span("s")
    for index in range(200):
        span.add_event(f"e{index}")
        span.add_link(REMOTE, {"n": index})
    span.end()


def below_an_unsampled_parent(tracer: Tracer) -> None:
    context = trace.set_span_in_context(NonRecordingSpan(UNSAMPLED))
    span = tracer.start_span("s", context=context)
    assert not span.is_recording()
    assert span.get_span_context().trace_id == UNSAMPLED.trace_id
    span.end()


@pytest.mark.parametrize("script", [everything, nested, failing, settled, too_much, below_an_unsampled_parent])
def test_a_span_is_recorded_as_the_sdk_records_it(script: Script) -> None:
    ours, theirs = both(script)
    assert ours == theirs


VALUES = st.one_of(st.text(max_size=40), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), VALUES), max_size=12))
def test_attributes_are_recorded_as_the_sdk_records_them(values: list[tuple[str, Any]]) -> None:
    def script(tracer: Tracer) -> None:
        span = tracer.start_span("s", attributes=dict(values[:4]))
        for key, value in values[4:]:
            span.set_attribute(key, value)
        span.end()

    ours, theirs = both(script)
    assert [(parent, sorted(text.splitlines())) for parent, text in ours] == [
        (parent, sorted(text.splitlines())) for parent, text in theirs
    ]


def test_attributes_are_bounded_and_what_is_dropped_is_counted() -> None:
    ended: list[FinishedSpan] = []
    tracer = RecordingTracer(trace.NoOpTracer(), RESOURCE, InstrumentationScope("s"), ended.append, MAX_CHARS)
    span = tracer.start_span("s")
    for index in range(200):
        span.set_attribute(str(index), index)
    span.end()
    assert (len(ended[0].attributes or {}), ended[0].dropped_attributes) == (128, 72)


async def test_a_sampler_that_the_operator_asked_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = setup(service="s", instance_id="s-1", version="v1")
    assert isinstance(usual.tracer("t").start_span("s"), RecordedSpan)
    await usual.shutdown(1.0)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    telemetry = setup(service="s", instance_id="s-1", version="v1")
    assert not telemetry.tracer("t").start_span("s").is_recording()
    await telemetry.shutdown(1.0)

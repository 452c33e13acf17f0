"""Our encoder says what the stock encoder says, span by span."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from mesh.telemetry.otlp import SpanEncoder


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def provider(kept: Kept) -> TracerProvider:
    provider = TracerProvider(resource=Resource({"service.name": "x", "n": 1}), shutdown_on_exit=False)
    provider.add_span_processor(kept)
    return provider


def same(spans: list[ReadableSpan], encoder: SpanEncoder | None = None) -> None:
    ours, stock = (encoder or SpanEncoder()).encode(spans), encode_spans(spans)
    assert ours == stock, f"\n{ours}\n{stock}"


def test_every_part_of_a_span_is_encoded_as_the_stock_encoder_does(provider: TracerProvider, kept: Kept) -> None:
    remote = SpanContext(3**70, 3**30, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")]))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    tracer = provider.get_tracer("scope", "1.2", schema_url="https://example.org/schema", attributes={"s": "t"})
    for kind in SpanKind:
        span = tracer.start_span(f"of {kind.name}", context=context, kind=kind, links=[Link(remote, {"l": 1})])
        span.set_attribute("text", "值")
        span.set_attribute("many", ["a", "b"])
        span.add_event("seen", {"n": 1.5, "yes": True})
        span.record_exception(ValueError("wrong"))
        span.set_status(Status(StatusCode.ERROR, "it failed"))
        span.end()
    provider.get_tracer("other scope").start_span("root").end()
    same(kept.spans)


def test_more_spans_than_a_slice_keep_their_order(provider: TracerProvider, kept: Kept) -> None:
    tracer = provider.get_tracer("scope")
    for index in range(200):
        tracer.start_span("s", attributes={"index": index, "method": "m", "even": index % 2 == 0}).end()
    same(kept.spans)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.one_of(
                st.text(max_size=80), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
            ),
        ),
        max_size=8,
    )
)
def test_kept_messages_never_mix_up_values_that_compare_equal(attributes: list[dict[str, Any]]) -> None:
    kept, encoder = Kept(), SpanEncoder()  # True == 1 == 1.0: a cache must not take one for the other
    provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("scope")
    for values in attributes:
        tracer.start_span("s", attributes=values).end()
    same(kept.spans, encoder)
    same(kept.spans, encoder)  # now from what was kept


def test_the_encoder_keeps_a_bounded_number_of_messages(provider: TracerProvider, kept: Kept) -> None:
    encoder, tracer = SpanEncoder(), provider.get_tracer("scope")
    for index in range(5_000):
        tracer.start_span("s", attributes={"unique": str(index)}).end()
    encoder.encode(kept.spans)
    assert len(encoder._kept) <= 2_048

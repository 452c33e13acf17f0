"""Puts the collector together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from mesh.app import Runtime
from mesh.server import Binding
from mesh.telemetry import Metrics
from mesh.telemetry.collector.intake import otlp_handler
from mesh.telemetry.collector.ring import TraceRing
from mesh.telemetry.collector.servicer import TraceServicer
from mesh.telemetry.collector.settings import Settings
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """The ring, OTLP as a generic handler (spans about spans help nobody), and TraceService."""
    options = settings.collector
    ring = TraceRing(
        max_traces=options.max_traces,
        max_spans_per_trace=options.max_spans_per_trace,
        max_trace_bytes=options.max_trace_bytes,
        max_bytes=options.max_bytes,
    )
    _show(ring, runtime.telemetry.metrics)
    runtime.generic_handlers.append(otlp_handler(ring))
    yield [
        Binding(
            trace_pb2.DESCRIPTOR.services_by_name["TraceService"],
            trace_pb2_grpc.add_TraceServiceServicer_to_server,
            TraceServicer(ring),
        )
    ]


def _show(ring: TraceRing, metrics: Metrics) -> None:
    for name, documentation, read in (
        ("weft_collector_traces", "Traces kept", lambda: len(ring)),
        ("weft_collector_bytes", "Bytes kept", lambda: ring.bytes),
    ):
        Gauge(name, documentation, registry=metrics.registry).set_function(read)
    metrics.count_from("weft_collector_spans", "Spans kept, ever", lambda: ring.added)
    metrics.count_from("weft_collector_spans_dropped", "Spans of traces that were full or gone", lambda: ring.dropped)
    metrics.count_from("weft_collector_traces_evicted", "Traces that made room", lambda: ring.evicted)

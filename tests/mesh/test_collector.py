"""The collector as the process that it is: real exporter in, TraceService out, bounded whatever comes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import psutil
import pytest
from grpc import aio
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from mesh.telemetry.spans import SpanSender
from tests.support.http import get
from tests.support.traces import assert_edges
from weft.errors import from_rpc_error
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass
class Collector:
    process: asyncio.subprocess.Process
    channel: aio.Channel
    port: int
    metrics_port: int

    @property
    def traces(self) -> trace_pb2_grpc.TraceServiceStub:
        return trace_pb2_grpc.TraceServiceStub(self.channel)

    async def export(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        call = self.channel.unary_unary(
            _EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        return await call(request, timeout=20)


@asynccontextmanager
async def running(**options: int) -> AsyncIterator[Collector]:
    """A collector on free ports; it must end cleanly on SIGTERM."""
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "OTEL_"))},
        **{f"WEFT_COLLECTOR__{name}".upper(): str(value) for name, value in options.items()},
        "WEFT_PORT": "0",
        "WEFT_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",  # for others: it must not send to itself
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh.telemetry.collector", stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert process.stdout is not None
    try:
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        words = line["event"].replace(",", "").split()
        assert words[:2] == ["serving", "on"]
        port, metrics_port = (int(address.rpartition(":")[2]) for address in (words[2], words[5]))
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Collector(process, channel, port, metrics_port)
        process.send_signal(signal.SIGTERM)
        rest, _ = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
        assert b'"error"' not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Services:
    """Two services in this process, each with its own provider and the real sender."""

    def __init__(self, port: int) -> None:
        self._senders: list[SpanSender] = []
        self.client, self.server = self._tracer(port, "client"), self._tracer(port, "server")

    def _tracer(self, port: int, service: str) -> Tracer:
        resource = Resource.create({"service.name": service, "service.instance.id": f"{service}-1"})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._senders.append(SpanSender(f"http://127.0.0.1:{port}"))
        provider.add_span_processor(self._senders[-1])
        return provider.get_tracer("test")

    async def stop(self) -> None:
        for sender in self._senders:
            await sender.stop(5)


def request_of(*spans: tuple[bytes, bytes, int]) -> ExportTraceServiceRequest:
    """Spans as (trace id, span id, bytes of payload)."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for trace_id, span_id, size in spans:
        span = scope.spans.add(trace_id=trace_id, span_id=span_id, name="flood", start_time_unix_nano=time.time_ns())
        span.end_time_unix_nano = span.start_time_unix_nano
        if size:
            span.attributes.add(key="payload").value.string_value = "x" * size
    return request


async def test_a_trace_of_two_services_arrives_whole_with_its_parents() -> None:
    async with running() as collector:
        services = Services(collector.port)
        with services.client.start_as_current_span("ask") as root:
            for _ in range(2):
                with (
                    services.client.start_as_current_span("weft.tools.v1.ToolService/Call", kind=SpanKind.CLIENT),
                    services.server.start_as_current_span("weft.tools.v1.ToolService/Call", kind=SpanKind.SERVER) as s,
                ):
                    s.set_attributes({"weft.hits": 3, "names": ["a", "b"], "big": 2**60})
                    s.add_event("tried", {"attempt": 1})
                    s.set_status(Status(StatusCode.ERROR, "it broke"))
        await services.stop()
        trace_id = trace.format_trace_id(root.get_span_context().trace_id)
        found = await collector.traces.GetTrace(trace_pb2.GetTraceRequest(trace_id=trace_id), timeout=5)
        assert_edges(
            found.spans,
            {
                "-> client:internal:ask": 1,
                "client:internal:ask -> client:client:ToolService/Call": 2,
                "client:client:ToolService/Call -> server:server:ToolService/Call": 2,
            },
        )
        assert [span.start_unix_ns for span in found.spans] == sorted(span.start_unix_ns for span in found.spans)
        served = next(span for span in found.spans if span.kind == "server")
        assert (served.status, served.status_message) == ("error", "it broke")
        assert (served.service, served.instance) == ("server", "server-1")
        assert dict(served.attributes) == {"weft.hits": 3, "names": served.attributes["names"], "big": str(2**60)}
        assert list(served.attributes["names"]) == ["a", "b"]
        assert served.events[0].name == "tried"
        (summary,) = (await collector.traces.ListTraces(trace_pb2.ListTracesRequest(), timeout=5)).traces
        assert (summary.trace_id, summary.name, summary.span_count) == (trace_id, "ask", 5)
        assert list(summary.services) == ["client", "server"]
        assert summary.error
        assert summary.duration_ns == found.spans[0].end_unix_ns - found.spans[0].start_unix_ns


async def test_the_ring_evicts_pages_and_finds_by_prefix() -> None:
    async with running(max_traces=20) as collector:
        ids = [bytes([number]) * 16 for number in range(1, 31)]
        for trace_id in ids:
            await collector.export(request_of((trace_id, secrets.token_bytes(8), 0)))
        listed: list[str] = []
        token = ""
        while not listed or token:
            page = await collector.traces.ListTraces(
                trace_pb2.ListTracesRequest(page_size=7, page_token=token), timeout=5
            )
            assert len(page.traces) <= 7
            assert page.total == 20
            listed += [summary.trace_id for summary in page.traces]
            token = page.next_page_token
        assert listed == [trace_id.hex() for trace_id in reversed(ids[10:])]

        found = await collector.traces.GetTrace(trace_pb2.GetTraceRequest(trace_id="1E1e"), timeout=5)
        assert found.trace_id == "1e" * 16
        again = await collector.export(request_of((ids[0], secrets.token_bytes(8), 0), (b"short", b"", 0)))
        assert again.partial_success.rejected_spans == 2

        await collector.export(request_of((b"\x1e\x1e" + b"\x00" * 14, secrets.token_bytes(8), 0)))
        for trace_id, reason in (
            ("1e1e", "INVALID_FIELD"),  # now two
            (ids[0].hex(), "TRACE_NOT_FOUND"),
            ("123", "INVALID_FIELD"),
            ("not hex", "INVALID_FIELD"),
            ("", "INVALID_FIELD"),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                await collector.traces.GetTrace(trace_pb2.GetTraceRequest(trace_id=trace_id), timeout=5)
            assert from_rpc_error(raised.value).reason == reason, trace_id
        for request in (trace_pb2.ListTracesRequest(page_size=1_001), trace_pb2.ListTracesRequest(page_token="x")):
            with pytest.raises(grpc.RpcError) as raised:
                await collector.traces.ListTraces(request, timeout=5)
            assert from_rpc_error(raised.value).reason == "INVALID_FIELD"


async def test_a_span_that_comes_late_or_twice_is_shown_once_in_its_trace() -> None:
    async with running() as collector:
        trace_id, other = b"\xaa" * 16, b"\xbb" * 16
        early, late = secrets.token_bytes(8), secrets.token_bytes(8)
        for request in (request_of((trace_id, early, 0)), request_of((other, early, 0))):
            await collector.export(request)
        for _ in range(2):
            await collector.export(request_of((trace_id, late, 0)))
        found = await collector.traces.GetTrace(trace_pb2.GetTraceRequest(trace_id="aaaa"), timeout=5)
        assert [span.span_id for span in found.spans] == [early.hex(), late.hex()]
        listed = await collector.traces.ListTraces(trace_pb2.ListTracesRequest(), timeout=5)
        assert [(t.trace_id, t.span_count) for t in listed.traces] == [(other.hex(), 1), (trace_id.hex(), 2)]


async def test_a_flood_stays_within_bounds_and_the_collector_still_answers() -> None:
    """About 200 MB, in new traces and in one that never ends; 8 MiB are kept."""
    async with running(max_bytes=8 * 1024 * 1024, max_traces=50_000) as collector:
        process = psutil.Process(collector.process.pid)
        endless = b"\xee" * 16

        async def flood() -> None:
            for _ in range(25):
                spans = [(secrets.token_bytes(16), secrets.token_bytes(8), 1_000) for _ in range(500)]
                spans += [(endless, secrets.token_bytes(8), 1_000) for _ in range(500)]
                await collector.export(request_of(*spans))

        await flood()  # what the process needs for one flood at a time
        before, peak = process.memory_info().rss, 0
        floods = [asyncio.create_task(flood()) for _ in range(7)]
        answers = 0
        while not all(task.done() for task in floods):
            await collector.traces.ListTraces(trace_pb2.ListTracesRequest(page_size=50), timeout=5)
            answers += 1
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.05)
        await asyncio.gather(*floods)
        assert answers > 3
        assert peak - before < 100 * 1024 * 1024
        values = {
            line.split()[0]: float(line.split()[1])
            for line in (await get(collector.metrics_port, "/metrics"))[2].splitlines()
            if line.startswith("weft_collector")
        }
        assert 7 * 1024 * 1024 < values["weft_collector_bytes"] <= 8 * 1024 * 1024
        assert values["weft_collector_traces_evicted_total"] > 50_000
        assert values["weft_collector_spans_dropped_total"] > 50_000
        found = await collector.traces.ListTraces(trace_pb2.ListTracesRequest(page_size=1_000), timeout=10)
        assert len(found.traces) == 1_000


async def test_the_collector_shows_its_own_health_and_numbers() -> None:
    async with running() as collector:
        assert (await get(collector.metrics_port, "/healthz"))[0] == 200
        text = (await get(collector.metrics_port, "/metrics"))[2]
        assert 'service="collector"' in text
        assert "weft_spans_sent" not in text  # it has an endpoint in its environment, and leaves it alone

"""Spans reach a collector; a collector that is away, silent or back again costs the service nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from grpc import aio
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from mesh.telemetry import spans
from mesh.telemetry.collector.intake import otlp_handler
from mesh.telemetry.collector.ring import TraceRing
from mesh.telemetry.spans import SpanSender


@asynccontextmanager
async def collector(ring: TraceRing, port: int = 0) -> AsyncIterator[int]:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((otlp_handler(ring),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


@pytest.fixture
def ring() -> TraceRing:
    return TraceRing(max_traces=10_000, max_spans_per_trace=1_000, max_trace_bytes=10**6, max_bytes=10**8)


def tracer(sender: SpanSender) -> Tracer:
    provider = TracerProvider(resource=Resource.create({"service.name": "s"}), shutdown_on_exit=False)
    provider.add_span_processor(sender)
    return provider.get_tracer("t")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.02)


async def test_spans_arrive_within_a_second_and_the_last_at_the_stop(ring: TraceRing) -> None:
    async with collector(ring) as port:
        sender = SpanSender(f"http://127.0.0.1:{port}")
        made = tracer(sender)
        made.start_span("first").end()
        started_s = time.monotonic()
        await until(lambda: len(ring) == 1)
        assert time.monotonic() - started_s < 8
        for _ in range(1_500):
            made.start_span("more").end()
        await sender.stop(5)
        assert len(ring) == 1_501
        assert (sender.sent, sender.dropped) == (1_501, 0)
        made.start_span("after the stop").end()
        assert sender.dropped == 1


async def test_a_dead_collector_costs_one_warning_and_no_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "_PAUSES_S", (60.0,))
    sender = SpanSender(f"127.0.0.1:{free_port()}")
    made = tracer(sender)
    with caplog.at_level(logging.DEBUG):
        made.start_span("s").end()
        await until(lambda: sender.dropped == 1)
        before_s = time.thread_time()
        for _ in range(10_000):
            made.start_span("s").end()
        cost_s = (time.thread_time() - before_s) / 10_000
        assert sender.dropped == 10_001
        assert not sender._queue
    assert cost_s < 100e-6  # measured: 12 µs, what a span costs by itself
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "UNAVAILABLE" in warnings[0].getMessage()
    started_s = time.monotonic()
    await sender.stop(30)
    assert time.monotonic() - started_s < 10


async def test_a_collector_that_never_answers_holds_up_neither_loop_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_CALL_TIMEOUT_S", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = SpanSender(f"127.0.0.1:{silent.getsockname()[1]}")
        made = tracer(sender)
        for _ in range(6_000):
            made.start_span("s").end()
        worst_s = 0.0
        for _ in range(100):
            before_s = time.perf_counter()
            await asyncio.sleep(0.01)
            worst_s = max(worst_s, time.perf_counter() - before_s)
        assert worst_s < 0.25
        assert sender.dropped >= 6_000 - 4_096 - 512  # the queue is bounded
        started_s = time.monotonic()
        await sender.stop(0.5)
        assert time.monotonic() - started_s < 5
        await until(lambda: not sender._thread.is_alive(), 30)


async def test_a_collector_that_comes_back_gets_spans_again(
    ring: TraceRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spans, "_PAUSES_S", (0.2,))
    port = free_port()
    sender = SpanSender(f"127.0.0.1:{port}")
    made = tracer(sender)
    with caplog.at_level(logging.INFO, logger="mesh.telemetry.spans"):
        made.start_span("lost").end()
        await until(lambda: sender.dropped == 1)
        async with collector(ring, port):

            def arrived() -> bool:
                made.start_span("s").end()
                return sender.sent > 0

            await until(arrived, 15)
            await sender.stop(2)
    assert len(ring) == sender.sent
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


async def test_force_flush_waits_until_all_has_been_sent(ring: TraceRing) -> None:
    async with collector(ring) as port:
        sender = SpanSender(f"127.0.0.1:{port}")
        made = tracer(sender)
        for _ in range(100):
            made.start_span("s").end()
        assert await asyncio.to_thread(sender.force_flush, 5_000)
        assert len(ring) == 100
        await sender.stop(1)

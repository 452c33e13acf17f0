"""Client spans: one per call, ended once, with the call's own status, whatever becomes of the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc import aio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from weft import names
from weft.tracing import Metadata, traced

SERVICE = "weft.test.v1.EchoService"
SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Echo(grpc.GenericRpcHandler):
    """One method per RPC shape; the request says how it ends: "ok", "fail" or "hang"."""

    def __init__(self) -> None:
        self.traceparents: list[str | None] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        metadata = dict(handler_call_details.invocation_metadata)
        self.traceparents.append(metadata.get(names.METADATA_TRACEPARENT))
        shape = handler_call_details.method.rpartition("/")[2]
        make = getattr(grpc, f"{shape}_rpc_method_handler")
        return make(getattr(self, f"_{shape}"))

    async def _behave(self, how: bytes, context: aio.ServicerContext) -> bytes:
        if how == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if how == b"hang":
            await asyncio.sleep(30)
        return how

    async def _unary_unary(self, request: bytes, context: aio.ServicerContext) -> bytes:
        return await self._behave(request, context)

    async def _unary_stream(self, request: bytes, context: aio.ServicerContext) -> None:
        await context.write(b"first")
        await context.write(await self._behave(request, context))

    async def _stream_unary(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        return await self._behave([r async for r in requests][-1], context)

    async def _stream_stream(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> None:
        async for request in requests:
            await context.write(b"first")
            await context.write(await self._behave(request, context))


class Started(SpanProcessor):
    count = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.count += 1


@dataclass
class Bench:
    address: str
    channel: aio.Channel
    echo: Echo
    exporter: InMemorySpanExporter
    started: Started
    tracer: trace.Tracer

    def call(self, shape: str, how: bytes, timeout_s: float = 5) -> aio.Call:
        multicallable = getattr(self.channel, shape)(f"/{SERVICE}/{shape}")
        return multicallable(one(how) if shape.startswith("stream") else how, timeout=timeout_s)

    async def consume(self, shape: str, how: bytes, timeout_s: float = 5) -> list[bytes]:
        call = self.call(shape, how, timeout_s)
        return [m async for m in call] if shape.endswith("stream") else [await call]

    async def spans(self) -> list[ReadableSpan]:
        for _ in range(100):
            if finished := self.exporter.get_finished_spans():
                return list(finished)
            await asyncio.sleep(0.02)
        return []


async def one(message: bytes) -> AsyncIterator[bytes]:
    yield message


@asynccontextmanager
async def running_bench() -> AsyncIterator[Bench]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(started := Started())
    tracer = provider.get_tracer("test")
    echo, server = Echo(), aio.server()
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with traced(aio.insecure_channel(f"127.0.0.1:{port}"), tracer) as channel:
        yield Bench(f"127.0.0.1:{port}", channel, echo, exporter, started, tracer)
    await server.stop(None)
    provider.shutdown()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running_bench() as running:
        yield running


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_succeeds_leaves_one_client_span(bench: Bench, shape: str) -> None:
    with bench.tracer.start_as_current_span("caller") as caller:
        await bench.consume(shape, b"ok")
        (span,) = await bench.spans()
    assert span.name == f"{SERVICE}/{shape}"
    assert span.kind is SpanKind.CLIENT
    assert span.attributes == {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: span.name, names.RPC_STATUS: "OK"}
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is not None
    assert span.parent.span_id == caller.get_span_context().span_id


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_server_is_told_the_span_that_calls_it(bench: Bench, shape: str) -> None:
    await bench.consume(shape, b"ok")
    (span,) = await bench.spans()
    context = span.get_span_context()
    (traceparent,) = bench.echo.traceparents
    assert traceparent is not None
    assert traceparent.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_failure_is_an_error_with_the_status_of_the_call(bench: Bench, shape: str) -> None:
    with pytest.raises(aio.AioRpcError):
        await bench.consume(shape, b"fail")
    (span,) = await bench.spans()
    assert (span.attributes or {})[names.RPC_STATUS] == "NOT_FOUND"
    assert (span.attributes or {})[names.ERROR_TYPE] == "NOT_FOUND"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "no such thing"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_deadline_that_passes_ends_the_span(bench: Bench, shape: str) -> None:
    with pytest.raises(aio.AioRpcError):
        await bench.consume(shape, b"hang", timeout_s=0.2)
    (span,) = await bench.spans()
    assert (span.attributes or {})[names.RPC_STATUS] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("shape", SHAPES)
async def test_cancelling_the_caller_cancels_the_call_and_ends_the_span(bench: Bench, shape: str) -> None:
    caller = asyncio.create_task(bench.consume(shape, b"hang"))
    await asyncio.sleep(0.2)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    (span,) = await bench.spans()
    assert (span.attributes or {})[names.RPC_STATUS] == "CANCELLED"
    assert span.status.status_code is StatusCode.ERROR


async def test_cancelling_before_the_call_began_leaves_no_span_open(bench: Bench) -> None:
    call = bench.call("unary_unary", b"hang")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.05)
    assert len(bench.exporter.get_finished_spans()) == bench.started.count


async def test_cancelling_a_stream_in_the_middle_ends_the_span(bench: Bench) -> None:
    call = bench.call("unary_stream", b"hang")
    async for _ in call:
        call.cancel()
        break
    (span,) = await bench.spans()
    assert (span.attributes or {})[names.RPC_STATUS] == "CANCELLED"


async def test_metadata_of_the_caller_is_kept(bench: Bench) -> None:
    seen: list[tuple[str, str]] = []
    bench.echo.service = lambda details: (  # type: ignore[method-assign]
        seen.extend(details.invocation_metadata),
        grpc.unary_unary_rpc_method_handler(bench.echo._unary_unary),
    )[1]
    call = bench.channel.unary_unary(f"/{SERVICE}/unary_unary")
    await call(b"ok", metadata=((names.METADATA_TENANT, "acme"),), timeout=5)
    assert ("weft-tenant", "acme") in {tuple(pair) for pair in seen}
    assert names.METADATA_TRACEPARENT in {key for key, _ in seen}


async def test_a_hook_may_add_metadata_and_shorten_the_timeout(bench: Bench) -> None:
    def prepare(metadata: Metadata, timeout_s: float | None) -> tuple[Metadata, float | None]:
        return (*metadata, ("weft-tenant", "hooked")), 0.2

    seen: list[tuple[str, str]] = []

    async def hang(request: bytes, context: aio.ServicerContext) -> bytes:
        seen.extend(tuple(pair) for pair in context.invocation_metadata())
        await asyncio.sleep(30)
        return request

    bench.echo._unary_unary = hang  # type: ignore[method-assign]
    async with traced(aio.insecure_channel(bench.address), bench.tracer, prepare) as channel:
        with pytest.raises(aio.AioRpcError) as failure:
            await channel.unary_unary(f"/{SERVICE}/unary_unary")(b"ok", timeout=30)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ("weft-tenant", "hooked") in seen


async def test_without_a_provider_an_incoming_context_travels_on_and_no_span_is_made() -> None:
    echo, server = Echo(), aio.server()
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tracer = trace.NoOpTracerProvider().get_tracer("none")
    async with traced(aio.insecure_channel(f"127.0.0.1:{port}"), tracer) as channel:
        method = channel.unary_unary(f"/{SERVICE}/unary_unary")
        await method(b"ok", timeout=5)
        incoming = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1)))
        with trace.use_span(incoming):
            await method(b"ok", timeout=5)
    await server.stop(None)
    assert echo.traceparents == [None, f"00-{0xABC:032x}-{0xDEF:016x}-01"]

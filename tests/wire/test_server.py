"""The server's rules on a real wire: errors, deadlines, companions, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh import context, deadline
from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter, fetch_load
from mesh.server import Binding, MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from weft.errors import Aborted, Internal, InvalidArgument, Reason, WeftError, error, from_rpc_error
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc
from weft.tracing import traced

SERVICE = trace_pb2.DESCRIPTOR.services_by_name["TraceService"]


class Scripted(trace_pb2_grpc.TraceServiceServicer):
    """Answers by running what the test gave it."""

    def __init__(self, behaviour: Any) -> None:
        self.behaviour = behaviour

    async def GetTrace(self, request: trace_pb2.GetTraceRequest, _context: grpc.aio.ServicerContext) -> Any:
        return await self.behaviour(request)


class House:
    """A server with a channel to it, and the spans of both."""

    def __init__(self, server: MeshServer, stub: Any, spans: InMemorySpanExporter, channel: grpc.aio.Channel) -> None:
        self.server, self.stub, self.spans, self.channel = server, stub, spans, channel


@asynccontextmanager
async def house(behaviour: Any, **limits: Any) -> AsyncIterator[House]:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    metrics = Metrics(service="test", instance_id="test-1", version="v1")
    server = MeshServer(tracer=tracer, metrics=metrics, load=LoadMeter(LoadWeights()), **limits)
    binding = Binding(SERVICE, trace_pb2_grpc.add_TraceServiceServicer_to_server, Scripted(behaviour))
    port = await server.start("127.0.0.1", 0, [binding])
    await server.set_serving(True)
    channel = traced(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), tracer, prepare)
    try:
        yield House(server, trace_pb2_grpc.TraceServiceStub(channel), spans, channel)
    finally:
        await channel.close()
        await server.stop(0)


async def failure(call: Any) -> tuple[WeftError, grpc.aio.AioRpcError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value), caught.value


async def test_an_error_keeps_its_reason_metadata_and_field_across_the_wire() -> None:
    async def refuse(_request: Any) -> Any:
        raise error(Reason.INVALID_FIELD, "trace_id: is 'x'", field="trace_id", value="x")

    async with house(refuse) as h:
        err, _ = await failure(h.stub.GetTrace(trace_pb2.GetTraceRequest()))
    assert isinstance(err, InvalidArgument)
    assert err.reason == "INVALID_FIELD"
    assert err.field == "trace_id"
    assert err.metadata["value"] == "x"


async def test_retry_info_says_when_to_come_back() -> None:
    async def busy(_request: Any) -> Any:
        raise error(Reason.SESSION_BUSY, "busy", retry_after_s=1.5)

    async with house(busy) as h:
        err, _ = await failure(h.stub.GetTrace(trace_pb2.GetTraceRequest()))
    assert isinstance(err, Aborted)
    assert err.retry_after_s == 1.5


async def test_an_unexpected_exception_is_internal_with_the_trace_to_look_at() -> None:
    async def crash(_request: Any) -> Any:
        raise KeyError("secret detail")

    async with house(crash) as h:
        err, _ = await failure(h.stub.GetTrace(trace_pb2.GetTraceRequest()))
        async with asyncio.timeout(10):  # the caller may hear of it before the span has ended
            while not (ended := [s for s in h.spans.get_finished_spans() if s.kind.name == "SERVER"]):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert isinstance(err, Internal)
    assert "secret detail" not in err.message
    assert err.trace_id == f"{ended[0].context.trace_id:032x}"


@pytest.mark.parametrize(("reason", "pushed_back"), [("DEPENDENCY_UNAVAILABLE", True), ("SHUTTING_DOWN", False)])
async def test_unavailable_from_a_handler_is_pushed_back_unless_it_may_be_retried(
    reason: str, pushed_back: bool
) -> None:
    async def unavailable(_request: Any) -> Any:
        raise error(Reason(reason), "away")

    async with house(unavailable) as h:
        _, rpc_error = await failure(h.stub.GetTrace(trace_pb2.GetTraceRequest()))
    trailers = dict(rpc_error.trailing_metadata() or ())
    assert (trailers.get("grpc-retry-pushback-ms") == "-1") is pushed_back


async def test_the_handler_sees_the_callers_companions_and_a_shaved_deadline() -> None:
    seen: list[Any] = []

    async def look(_request: Any) -> Any:
        seen.extend([context.current(), deadline.current()])
        context.add_trailer("weft-test", "ok")
        return trace_pb2.GetTraceResponse()

    async with house(look) as h:
        companions = context.CallContext("acme", "r-1", 42, (("weft-route-canary", "yes"),))
        with context.bind(companions), deadline.bind(deadline.Deadline.after(5)):
            call = h.stub.GetTrace(trace_pb2.GetTraceRequest())
            await call
            trailers = dict(await call.trailing_metadata())
    assert seen[0] == companions
    assert 3 < seen[1].remaining_s() < 5
    assert trailers["weft-test"] == "ok"


async def test_a_handler_that_overruns_is_stopped_with_the_time_it_had() -> None:
    stopped = asyncio.Event()

    async def dawdle(_request: Any) -> Any:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    async with house(dawdle, default_deadline_s=0.5) as h:
        # a caller without a deadline of its own, so that only the server's can pass
        async with grpc.aio.insecure_channel(f"127.0.0.1:{h.server.port}") as plain:
            err, _ = await failure(trace_pb2_grpc.TraceServiceStub(plain).GetTrace(trace_pb2.GetTraceRequest()))
        await asyncio.wait_for(stopped.wait(), 10)
    assert err.reason == "DEADLINE_EXCEEDED"
    assert err.metadata["given_s"] == "0.500"


async def test_a_call_that_is_cancelled_stops_its_handler_and_ends_both_spans() -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_request: Any) -> Any:
        running.set()
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    async with house(wait) as h:
        call = h.stub.GetTrace(trace_pb2.GetTraceRequest())
        pending = asyncio.ensure_future(call.code())
        await asyncio.wait_for(running.wait(), 10)
        call.cancel()
        await asyncio.wait_for(stopped.wait(), 10)
        await pending
        for _ in range(100):
            spans = {s.kind.name: s for s in h.spans.get_finished_spans()}
            if len(spans) == 2:
                break
            await asyncio.sleep(0.01)
    assert spans["SERVER"].attributes["rpc.response.status_code"] == "CANCELLED"
    assert spans["CLIENT"].attributes["rpc.response.status_code"] == "CANCELLED"
    assert spans["SERVER"].parent.span_id == spans["CLIENT"].context.span_id


async def test_a_full_replica_refuses_at_once_and_still_answers_its_load() -> None:
    release = asyncio.Event()

    async def hold(_request: Any) -> Any:
        await release.wait()
        return trace_pb2.GetTraceResponse()

    async with house(hold, max_concurrent_calls=2) as h:
        held = [asyncio.ensure_future(h.stub.GetTrace(trace_pb2.GetTraceRequest()).code()) for _ in range(2)]
        while h.server.load.pending < 2:  # noqa: ASYNC110 (a counter, not an event)
            await asyncio.sleep(0.01)
        err, _ = await failure(h.stub.GetTrace(trace_pb2.GetTraceRequest()))
        load = await fetch_load(h.channel, timeout_s=10)
        release.set()
        await asyncio.gather(*held)
    assert err.reason == "OVERLOADED"
    assert err.retry_after_s is not None
    assert load is not None
    assert load.pending == 2


@pytest.mark.parametrize("tenant", ["", "Acme", "a" * 64, "../other"])
async def test_a_malformed_tenant_is_refused(tenant: str) -> None:
    async def answer(_request: Any) -> Any:
        return trace_pb2.GetTraceResponse()

    async with house(answer) as h:
        call = h.stub.GetTrace(trace_pb2.GetTraceRequest(), metadata=(("weft-tenant", tenant),))
        err, _ = await failure(call)
    assert err.reason == "TENANT_INVALID"


async def test_a_taken_port_is_named() -> None:
    async def answer(_request: Any) -> Any:
        return trace_pb2.GetTraceResponse()

    async with house(answer) as h:
        other = MeshServer(tracer=None, metrics=Metrics(service="t", instance_id="2", version="v1"), load=h.server.load)
        with pytest.raises(WeftError, match=f"127.0.0.1:{h.server.port}"):
            await other.start("127.0.0.1", h.server.port, [])


async def test_an_open_load_report_does_not_hold_up_the_stop() -> None:
    async def answer(_request: Any) -> Any:
        return trace_pb2.GetTraceResponse()

    async with house(answer) as h:
        call = h.channel.unary_stream("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics")(b"")
        await call.read()
        begin_s = asyncio.get_running_loop().time()
        await h.server.stop(60)
        assert asyncio.get_running_loop().time() - begin_s < 15


async def test_a_message_that_cannot_be_decoded_is_the_callers_fault_and_named() -> None:
    async def answer(_request: Any) -> Any:
        return trace_pb2.GetTraceResponse()

    async with house(answer) as h:
        method = h.channel.unary_unary("/weft.mesh.v1.TraceService/GetTrace")  # bytes as they are
        for garbage in (b"\xff\xff\xff", b"\x0a\x02a\xff"):  # no protobuf; a string that isn't UTF-8
            err, _ = await failure(method(garbage))
            assert isinstance(err, InvalidArgument)
            assert err.reason == "INVALID_FIELD"
            assert "weft.mesh.v1.GetTraceRequest" in err.message
        await h.stub.GetTrace(trace_pb2.GetTraceRequest())
    for kind in ("CLIENT", "SERVER"):
        ended = [dict(span.attributes or {}) for span in h.spans.get_finished_spans() if span.kind.name == kind]
        assert [attributes["rpc.response.status_code"] for attributes in ended].count("INVALID_ARGUMENT") == 2

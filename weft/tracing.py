"""A CLIENT span around every outgoing gRPC call, and the trace context in its metadata.

Four interceptors, one for each shape of RPC, because ``grpc.aio`` sorts them by class and an object
that is several counts only as the first. SDK, command line and services use the same four.

The rule that keeps cancellation working: an interceptor never awaits the call. It starts the span,
lets the call begin, hands it back untouched and ends the span in the call's done callback. That
callback comes exactly once, with the final status, whether the call ended well, failed, ran out of
time or was cancelled, and also when the caller left a stream behind.

A span is named after the method (``weft.retriever.v1.RetrieverService/Search``) and carries
``rpc.system.name``, ``rpc.method``, ``rpc.response.status_code`` and, when the status is not OK,
``error.type`` and an ERROR status. Only the OpenTelemetry API is needed: where the application has
set up no provider, there is no span, and an incoming trace context still travels on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import grpc
from grpc import aio
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from weft import names

_CLOSED_EARLY: Final = "the call object went away before its status was known"


Prepare = Callable[[aio.ClientCallDetails], aio.ClientCallDetails]


def client_interceptors(tracer: Tracer, prepare: Prepare | None = None) -> list[aio.ClientInterceptor]:
    """The four interceptors for one channel, to be passed to the channel's constructor.

    ``prepare`` completes each call's details (metadata, timeout) before its span begins. It is a hook
    and not a second set of interceptors, because each set costs a call another layer of ``grpc.aio``.
    """
    return [shape(tracer, prepare) for shape in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


class _Traced:
    """What the four shapes share: begin a span, begin the call, end the span with the call."""

    def __init__(self, tracer: Tracer, prepare: Prepare | None) -> None:
        self._tracer = tracer
        self._prepare = prepare

    async def _intercept(self, continuation: Callable[..., Any], details: aio.ClientCallDetails, request: Any) -> Any:
        if self._prepare is not None:
            details = self._prepare(details)
        name, attributes = _describe(details.method)
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        if not span.get_span_context().is_valid:  # no provider and no incoming context: nothing to carry
            return await continuation(details, request)
        try:
            call = await continuation(_with_trace_context(details, span), request)
        except BaseException as error:
            # Not the call's failure (that comes by the callback) but that of the next interceptor,
            # or a cancellation before the call began.
            _fail(span, type(error).__name__, str(error))
            span.end()
            raise
        if span.is_recording():
            call.add_done_callback(partial(_end, span))
        return call


class _UnaryUnary(_Traced, aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _UnaryStream(_Traced, aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request)


class _StreamUnary(_Traced, aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


class _StreamStream(_Traced, aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator)


@lru_cache(maxsize=256)  # a process calls a few dozen methods; the cache saves the decoding per call
def _describe(method: bytes | str) -> tuple[str, dict[str, str]]:
    path = method.decode() if isinstance(method, bytes) else method
    name = path.removeprefix("/")
    return name, {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: name}


def _with_trace_context(details: aio.ClientCallDetails, span: Span) -> aio.ClientCallDetails:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    metadata: Sequence[tuple[str, Any]] = tuple(details.metadata or ())
    return details._replace(metadata=aio.Metadata(*metadata, *carrier.items()))


def _end(span: Span, call: aio.Call) -> None:
    code = _code_of(call)
    if code is None:
        _fail(span, "unknown", _CLOSED_EARLY)
    else:
        span.set_attribute(names.RPC_STATUS, code.name)
        if code is not grpc.StatusCode.OK:
            _fail(span, code.name, _details_of(call))
    span.end()


def _fail(span: Span, kind: str, description: str) -> None:
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, description))


def _code_of(call: aio.Call) -> grpc.StatusCode | None:
    return _finished(call.code())


def _details_of(call: aio.Call) -> str:
    return _finished(call.details()) or ""


def _finished(awaitable: Any) -> Any:
    """The value of a coroutine that has nothing left to wait for: None if it would wait after all.

    A done callback is a plain function, yet ``code()`` and ``details()`` are coroutines. In the callback the status is
    there, so their first step is also their last.
    """
    try:
        awaitable.send(None)
    except StopIteration as done:
        return done.value
    awaitable.close()
    return None

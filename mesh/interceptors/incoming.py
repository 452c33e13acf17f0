"""The one interceptor of the server side: what happens around every handler, for all four shapes.

    admit -> span -> context -> deadline -> handler -> trailers, status, metrics

It watches over Weft's own methods only; health, reflection, ORCA and ADS pass untouched, so that a
full replica still answers its checks. A handler raises ``WeftError`` and returns plain replies; this
file alone aborts, writes trailers and decides what gRPC may retry: UNAVAILABLE from a handler would be
retried like a dead connection, so it carries pushback -1 unless its reason is marked retryable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc._cython import cygrpc  # the only place where ExecuteBatchError can be had
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mesh import context as call_context
from mesh import deadline as call_deadline
from mesh.load import LoadMeter
from mesh.telemetry import Metrics
from weft import names
from weft.errors import Reason, WeftError, error, from_rpc_error, status_trailer

_log = logging.getLogger(__name__)
_OVERLOADED_RETRY_S: Final = 0.25
_RETRIED_CODES: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
# OpenTelemetry: for a server, these codes are its own fault and mark the span; others are the caller's.
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
Metadata = Iterable[tuple[str, Any]]
Handler = Callable[[Any, aio.ServicerContext], Awaitable[Any]]


class IncomingCalls(aio.ServerInterceptor):
    """Wraps the handlers of ``methods`` (path -> whether its calls are traced); everything else passes."""

    def __init__(
        self,
        methods: Mapping[str, bool],
        *,
        tracer: Tracer,
        metrics: Metrics,
        load: LoadMeter,
        default_deadline_s: float,
        max_concurrent_calls: int,
    ) -> None:
        self._methods = methods
        self._tracer = tracer
        self._metrics = metrics
        self._load = load
        self._default_deadline_s = default_deadline_s
        self._max_concurrent_calls = max_concurrent_calls
        self._propagator = TraceContextTextMapPropagator()
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the method's handler, wrapped once and kept."""
        path = details.method
        if path not in self._methods:
            return await continuation(details)
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            wrapped = self._wrapped[path] = self._wrap(path, await continuation(details))
        return wrapped

    def _wrap(self, path: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        shapes = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        }
        inner, make = shapes[handler.request_streaming, handler.response_streaming]
        return make(
            self._around(path, inner),
            request_deserializer=(
                handler.request_deserializer if handler.request_streaming else _forgiving(handler.request_deserializer)
            ),
            response_serializer=handler.response_serializer,
        )

    def _around(self, path: str, inner: Handler) -> Handler:
        metrics = self._metrics.method(path)
        start_span = self._span if self._methods[path] else _no_span
        attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: path[1:]}

        async def handle(request: Any, context: aio.ServicerContext) -> Any:
            started_s = time.perf_counter()
            metrics.started()
            metadata = context.invocation_metadata() or ()  # made anew at each call
            span, code = start_span(path, metadata, attributes), "OK"
            token = otel_context.attach(trace.set_span_in_context(span))
            self._load.pending += 1
            try:
                return await self._run(inner, request, context, metadata, span)
            except WeftError as err:
                code = err.code.name
                _mark(span, err)
                await _abort(context, err, span)
            except (asyncio.CancelledError, GeneratorExit, cygrpc.ExecuteBatchError):
                code = "CANCELLED"  # the caller went away; there is nobody to tell
                raise
            except BaseException:
                code = "INTERNAL"
                raise
            finally:
                self._load.pending -= 1
                self._load.finished += 1
                span.set_attribute(names.RPC_STATUS, code)
                if code in _SERVER_FAULTS:
                    span.set_status(Status(StatusCode.ERROR))
                span.end()
                otel_context.detach(token)
                metrics.ended(code, time.perf_counter() - started_s)

        return handle

    async def _run(
        self, inner: Handler, request: Any, context: aio.ServicerContext, metadata: Metadata, span: Span
    ) -> Any:
        if self._load.pending > self._max_concurrent_calls:
            raise error(
                Reason.OVERLOADED,
                f"this replica has {self._max_concurrent_calls} calls under way and takes no more; try again",
                retry_after_s=_OVERLOADED_RETRY_S,
                limit=self._max_concurrent_calls,
            )
        companions = call_context.from_metadata(metadata)
        remaining_s = context.time_remaining()
        deadline = call_deadline.Deadline.on_entry(self._default_deadline_s if remaining_s is None else remaining_s)
        span.set_attribute(names.TENANT, companions.tenant)
        span.set_attribute(names.REQUEST_ID, companions.request_id)
        with call_context.bind(companions), call_deadline.bind(deadline):
            try:
                if isinstance(request, DecodeError):
                    raise request
                async with asyncio.timeout(deadline.remaining_s()) as scope:
                    response = await inner(request, context)
            except WeftError:
                raise
            except DecodeError as exc:
                raise error(
                    Reason.INVALID_FIELD,
                    f"the request can't be read: {exc}; send a message of the contract, its texts in UTF-8",
                ) from exc
            except TimeoutError as exc:
                if scope.expired():
                    raise call_deadline.exceeded("handling the call", deadline.given_s) from exc
                raise _internal(exc, span) from exc
            except aio.AioRpcError as exc:  # a peer's failure that the domain didn't translate
                raise from_rpc_error(exc) from exc
            except cygrpc.ExecuteBatchError:
                raise
            except Exception as exc:
                raise _internal(exc, span) from exc
            if companions.trailers:
                context.set_trailing_metadata(tuple(companions.trailers))
            return response

    def _span(self, path: str, metadata: Metadata, attributes: Mapping[str, str]) -> Span:
        carrier = {key: value for key, value in metadata if key == names.METADATA_TRACEPARENT}
        parent = self._propagator.extract(carrier)
        return self._tracer.start_span(path[1:], context=parent, kind=SpanKind.SERVER, attributes=attributes)


def _no_span(_path: str, _metadata: Metadata, _attributes: Mapping[str, str]) -> Span:
    return trace.INVALID_SPAN


def _forgiving(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Hands what can't be decoded to the handler as the exception: raised here, gRPC would call it UNKNOWN."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as exc:
            return exc

    return read


def _internal(exc: Exception, span: Span) -> WeftError:
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    _log.error("a handler failed unexpectedly", exc_info=exc)
    return error(
        Reason.INTERNAL,
        f"internal error ({type(exc).__name__}); the log of this instance and trace {trace_id} tell more",
        error=type(exc).__name__,
        trace_id=trace_id,
    )


def _mark(span: Span, err: WeftError) -> None:
    span.set_attribute(names.ERROR_REASON, err.reason)
    span.set_attribute(names.ERROR_TYPE, err.code.name)


async def _abort(context: aio.ServicerContext, err: WeftError, span: Span) -> None:
    span_context = span.get_span_context()
    if span_context.is_valid:
        err.metadata.setdefault("trace_id", trace.format_trace_id(span_context.trace_id))
    trailers: list[tuple[str, str | bytes]] = [status_trailer(err)]
    if err.code in _RETRIED_CODES and not err.retryable:
        trailers.append((names.METADATA_PUSHBACK, "-1"))
    try:
        await context.abort(err.code, err.message[:1_000], tuple(trailers))
    except cygrpc.ExecuteBatchError as exc:
        # The caller is gone, or a write that the deadline cut off is still on its way: nothing can be told any more.
        raise asyncio.CancelledError from exc

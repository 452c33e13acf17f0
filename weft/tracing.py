"""A CLIENT span around every outgoing gRPC call, and the trace context in its metadata.

``traced`` wraps a channel. It is no interceptor: ``grpc.aio`` runs those in a task of their own and hands out a
proxy of the call, which costs each call about 85 µs and changes how it is cancelled. Here the call is begun at
once, handed back as it is, and its span ends in the call's done callback. That callback comes exactly once,
with the final status, whether the call ended well, failed, ran out of time or was cancelled, and also when the
caller left a stream behind.

A span is named after the method (``weft.retriever.v1.RetrieverService/Search``) and carries
``rpc.system.name``, ``rpc.method``, ``rpc.response.status_code`` and, when the status is not OK,
``error.type`` and an ERROR status. Only the OpenTelemetry API is needed: where the application has
set up no provider, there is no span, and an incoming trace context still travels on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self, TypeAlias

import grpc
from grpc import aio
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from weft import names

_CLOSED_EARLY: Final = "the call object went away before its status was known"

Metadata: TypeAlias = Sequence[tuple[str, Any]]
Prepare: TypeAlias = Callable[[Metadata, float | None], tuple[Metadata, float | None]]


def traced(channel: aio.Channel, tracer: Tracer, prepare: Prepare | None = None) -> aio.Channel:
    """The same channel, with a span around each call made through it.

    ``prepare`` completes a call's metadata and timeout (seconds, None for none) before its span begins.
    """
    return _TracedChannel(channel, tracer, prepare)


class _TracedChannel(aio.Channel):
    """A channel whose methods are ``_TracedMethod``; all else is the inner channel's."""

    def __init__(self, channel: aio.Channel, tracer: Tracer, prepare: Prepare | None) -> None:
        self._channel, self._tracer, self._prepare = channel, tracer, prepare

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._channel.__aexit__(*raised)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.unary_unary, method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.unary_stream, method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.stream_unary, method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(self._channel.stream_stream, method, args, kwargs)

    def _method(self, shape: Callable[..., Any], path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _TracedMethod(shape(path, *args, **kwargs), path.removeprefix("/"), self._tracer, self._prepare)


class _TracedMethod:
    """One method of a channel: called with a request (or an iterator of them), it begins a call."""

    def __init__(self, begin: Callable[..., Any], name: str, tracer: Tracer, prepare: Prepare | None) -> None:
        self._begin, self._name, self._tracer, self._prepare = begin, name, tracer, prepare
        self._attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: name}

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Metadata | None = None, **options: Any
    ) -> Any:
        metadata = tuple(metadata or ())
        if self._prepare is not None:
            metadata, timeout = self._prepare(metadata, timeout)
        span = self._tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
        if not span.get_span_context().is_valid:  # no provider and no incoming context: nothing to carry
            return self._begin(request, timeout=timeout, metadata=metadata, **options)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        try:
            call = self._begin(request, timeout=timeout, metadata=(*metadata, *carrier.items()), **options)
        except (
            BaseException
        ) as error:  # the call never began: the channel is closed, or the metadata are not to be sent
            _fail(span, type(error).__name__, str(error))
            span.end()
            raise
        if span.is_recording():
            call.add_done_callback(partial(_end, span))
        return call


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

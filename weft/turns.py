"""One turn as a stream of events, which goes on when its connection breaks.

    open ──event…──> finished                       the usual way
      └──event…──> broken ──back-off──> open {turn, after_sequence} ──event…──> finished

Every event of a turn has a sequence without gaps, the same on every replica, and the request carries
an id of its own. So when a replica dies, a connection is reset or a stream ends without `finished`,
the same request is sent again, naming the last event that arrived: another replica takes the turn
over where it stood. The reader sees each event once and notices nothing but a pause.

A *break* is what no handler has raised: a status without error details (connection lost, stream
reset), or one that is marked retryable (an instance that is stopping). Everything else, a busy session
or a wrong argument, ends the stream at once as a typed error. Breaks are bridged until the deadline,
but no longer than GIVE_UP_AFTER_S in a row without any event: then nobody is there. An error that ends
a stream holds the text that had come, as ``partial_text``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final

import grpc
from grpc import aio
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from weft import answers, convert, wire
from weft.answers import Answer, Event
from weft.connection import has_details
from weft.errors import Reason, WeftError, error
from weft.orchestrator.v1 import orchestrator_pb2

GIVE_UP_AFTER_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_MAX_UNSURE_BREAKS: Final = 3  # in a row: INTERNAL and UNKNOWN may be resets, or a defect that stays
_CERTAIN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_UNSURE: Final = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

OpenChat = Callable[[orchestrator_pb2.ChatRequest, float], aio.UnaryStreamCall]
Explain = Callable[[aio.AioRpcError], WeftError]


class TurnStream(AsyncIterator[Event]):
    """The events of one turn: iterate over it once.

    The turn starts with the first event that is asked for. Leaving the loop early stops it at the service as soon as
    this object is let go of; ``async with`` or ``aclose()`` stops it at once.
    """

    def __init__(
        self,
        open_chat: OpenChat,
        request: orchestrator_pb2.ChatRequest,
        timeout_s: float,
        tracer: trace.Tracer,
        explain: Explain,
    ) -> None:
        self._turn = _Turn(open_chat, request, timeout_s, tracer, explain)
        self._events = self._turn.events()
        self.answer: Answer | None = None
        """The whole answer, once the last event has been taken."""

    async def __anext__(self) -> Event:
        event = await anext(self._events)
        if isinstance(event, answers.Finished):
            self.answer = event.answer
        return event

    async def aclose(self) -> None:
        """Stop the turn if it still runs."""
        await self._events.aclose()

    async def __aenter__(self) -> TurnStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def finish(self) -> Answer:
        """Read to the end and return the answer."""
        async with self:
            async for _ in self:
                pass
        assert self.answer is not None  # _Turn ends with `finished` or raises
        return self.answer


class _Turn:
    def __init__(
        self,
        open_chat: OpenChat,
        request: orchestrator_pb2.ChatRequest,
        timeout_s: float,
        tracer: trace.Tracer,
        explain: Explain,
    ) -> None:
        self._open = open_chat
        self._request = request
        self._timeout_s = timeout_s
        self._tracer = tracer
        self._explain = explain
        self._caller = otel_context.get_current()
        self._last = -1  # sequence of the last event that arrived
        self._answer = _AnswerParts()

    async def events(self) -> AsyncGenerator[Event, None]:
        """All events, over as many streams as it takes."""
        # Not attached: a generator that is closed late runs in another context, where OpenTelemetry's detach fails.
        span = self._tracer.start_span("ask", context=self._caller)
        context = trace.set_span_in_context(span, self._caller)
        pauses = _Pauses(time.monotonic() + self._timeout_s)
        try:
            while True:
                try:
                    async with aclosing(self._one_stream(context, pauses)) as stream:
                        async for event in stream:
                            pauses.reset()
                            if isinstance(event, answers.Finished):
                                span.end()  # whoever stops reading here must not leave the span open
                            yield event
                    if self._answer.finished:
                        return
                    failure: WeftError = error(
                        Reason.INTERNAL, f"the turn's stream ended after event {self._last} without `finished`"
                    )
                    pauses.unsure()
                except aio.AioRpcError as exc:
                    failure = self._explain(exc)
                    if not is_break(exc, failure):
                        raise failure from exc
                    if exc.code() in _UNSURE:
                        pauses.unsure()
                await pauses.wait_or_raise(failure)
                span.add_event("resume", {"after_sequence": self._last, "cause": failure.message[:200]})
        except WeftError as exc:
            exc.partial_text = "".join(self._answer.texts)
            span.set_status(Status(StatusCode.ERROR, str(exc)))
            raise
        finally:
            if span.is_recording():
                span.end()

    async def _one_stream(self, context: otel_context.Context, pauses: _Pauses) -> AsyncGenerator[Event, None]:
        if self._last >= 0:
            self._request.resume.turn = self._answer.turn
            self._request.resume.after_sequence = self._last
        token = otel_context.attach(context)
        try:
            call = self._open(self._request, max(0.001, pauses.remaining_s()))
        finally:
            otel_context.detach(token)
        try:
            messages = aiter(call)
            async for message in messages:
                if message.sequence <= self._last:
                    continue  # a replica may begin further back than it was asked to
                if message.sequence != self._last + 1:
                    raise error(
                        Reason.INTERNAL,
                        f"event {self._last + 1} of the turn is missing, {message.sequence} came instead",
                        expected=self._last + 1,
                        arrived=message.sequence,
                    )
                self._last = message.sequence
                event = self._answer.take(message)
                if isinstance(event, answers.Finished):
                    # The status comes right behind. Whoever stops reading at `finished` must not cancel a call that
                    # went well; and a connection that breaks only now has taken nothing.
                    with suppress(aio.AioRpcError):
                        await anext(messages, None)
                if event is not None:
                    yield event
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() == 0:  # not us: somebody closed the channel
                raise error(Reason.CANCELLED, "the client was closed while the turn was under way") from None
            raise
        finally:
            call.cancel()


class _AnswerParts:
    """Gathers an Answer from the events as they come."""

    def __init__(self) -> None:
        self.turn = ""
        self.finished = False
        self.texts: list[str] = []
        self._started: answers.Started | None = None
        self._retrieved: answers.Retrieved | None = None
        self._tools: list[answers.ToolResult] = []

    def take(self, message: orchestrator_pb2.ChatResponse) -> Event | None:
        """The event in ``message``; None for one that this release doesn't know."""
        match message.WhichOneof("event"):
            case "started":
                self._started = convert.started(message.started)
                self.turn = self._started.turn
                return self._started
            case "retrieved":
                self._retrieved = convert.retrieved(message.retrieved)
                return self._retrieved
            case "tool_call":
                return convert.tool_call(message.tool_call)
            case "tool_result":
                self._tools.append(convert.tool_result(message.tool_result))
                return self._tools[-1]
            case "text_delta":
                self.texts.append(message.text_delta.text)
                return answers.TextDelta(self.texts[-1])
            case "finished":
                self.finished = True
                return answers.Finished(self._answer(message.finished))
        return None

    def _answer(self, message: orchestrator_pb2.Finished) -> Answer:
        started = self._started or answers.Started("", "", "", {}, False)
        return Answer(
            text=message.text,
            citations=wire.citations(message.citations),
            session=started.session,
            turn=started.turn,
            trace_id=started.trace_id,
            finish_reason=convert.finish_reason(message.reason),
            tools=tuple(self._tools),
            passages=self._retrieved.passages if self._retrieved else (),
            ledger=wire.ledger(message.ledger),
            degraded=wire.degraded(message.degraded),
            usage=wire.usage(message.usage),
            cached=message.cached,
            replayed=started.replayed,
            epoch=self._retrieved.epoch if self._retrieved else None,
            query=self._retrieved.query if self._retrieved else "",
        )


class _Pauses:
    """How long to wait before the next try, and when to stop trying."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.reset()

    def reset(self) -> None:
        self._since: float | None = None
        self._next_s = _FIRST_PAUSE_S
        self._unsure = 0

    def remaining_s(self) -> float:
        return self._deadline - time.monotonic()

    def unsure(self) -> None:
        self._unsure += 1

    async def wait_or_raise(self, failure: WeftError) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, _LONGEST_PAUSE_S)
        too_late = now + pause_s >= min(self._deadline, self._since + GIVE_UP_AFTER_S)
        if too_late or self._unsure >= _MAX_UNSURE_BREAKS:
            raise failure
        await asyncio.sleep(pause_s)


def is_break(exc: aio.AioRpcError, failure: WeftError) -> bool:
    """Whether the connection broke, rather than the call failed."""
    return failure.retryable if has_details(exc) else exc.code() in _CERTAIN + _UNSURE

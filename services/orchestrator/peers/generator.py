"""The Generator port over GeneratorService: history, question and tools' results become messages.

The last message of the user is what was written, word for word: a chat model reads the history before it. What
the session adds to a question that leans on it goes beside the messages, as ``query``, for models that don't.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from typing import Final

from grpc import aio

from services.orchestrator.types import (
    Continuation,
    Exchange,
    Generation,
    GenerationDelta,
    GenerationFinished,
    GenerationStarted,
    Prompt,
    Sampling,
    ToolResult,
)
from weft import wire
from weft.errors import from_rpc_error
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc

# What is remembered of an earlier answer: short-term memory, not a transcript.
_MAX_REMEMBERED_CHARS: Final = 2_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Failures that say nothing of the question: the answer doesn't speak of them, `degraded` does.
_OUTAGES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL"})


class GeneratorPeer:
    """Has answers written over a channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = generator_pb2_grpc.GeneratorServiceStub(channel)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        """See the port."""
        call = self._stub.Generate(to_request(prompt))
        end: GenerationFinished | None = None
        try:
            async for message in call:
                match message.WhichOneof("event"):
                    case "started":
                        started = message.started
                        yield GenerationStarted(
                            started.model,
                            started.backend,
                            started.can_resume,
                            tuple(started.prompt_token_ids),
                            started.can_repeat,
                        )
                    case "delta":
                        yield GenerationDelta(message.delta.text, tuple(message.delta.token_ids))
                    case "finished":
                        # Given on behind the status: a call that went well must not end as cancelled.
                        end = _finished(message.finished)
        except aio.AioRpcError as exc:
            if end is None:
                raise from_rpc_error(exc) from exc
        finally:
            call.cancel()
        if end is not None:
            yield end


def to_request(prompt: Prompt) -> pb.GenerateRequest:
    """The request that ``prompt`` makes."""
    request = pb.GenerateRequest(
        model=prompt.model,
        messages=[
            *(message for exchange in prompt.history for message in _remembered(exchange)),
            pb.Message(role=pb.ROLE_USER, content=prompt.question),
            *_tool_messages([result for result in prompt.tool_results if _tells(result)]),
        ],
        sampling=_sampling(prompt.sampling),
        resume=_resume(prompt.continuation),
        include_token_ids=True,
        allow_cached=prompt.allow_cached,
        query="" if prompt.query == prompt.question else prompt.query,
    )
    wire.put_passages(request.passages, prompt.passages)
    return request


def _remembered(exchange: Exchange) -> Iterator[pb.Message]:
    answer = _CONTROL.sub(" ", exchange.answer).strip()
    if not answer:
        return
    if len(answer) > _MAX_REMEMBERED_CHARS:
        answer = answer[: _MAX_REMEMBERED_CHARS - 1] + "…"
    yield pb.Message(role=pb.ROLE_USER, content=exchange.question)
    yield pb.Message(role=pb.ROLE_ASSISTANT, content=answer)


def _tells(result: ToolResult) -> bool:
    return result.error is None or result.error.code not in _OUTAGES


def _tool_messages(results: list[ToolResult]) -> Iterator[pb.Message]:
    if not results:
        return
    calls = [pb.ToolCall(id=result.call_id, name=result.tool) for result in results]
    yield pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=calls)
    for result in results:
        content = result.text if result.error is None else result.error.message
        yield pb.Message(role=pb.ROLE_TOOL, tool_call_id=result.call_id, name=result.tool, content=content)


def _sampling(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def _resume(continuation: Continuation | None) -> pb.Resume | None:
    if continuation is None:
        return None
    return pb.Resume(
        prompt_token_ids=continuation.prompt_token_ids,
        output_token_ids=continuation.output_token_ids,
        emitted_chars=len(continuation.text),
        emitted_text=continuation.text,
    )


def _finished(message: pb.GenerateFinished) -> GenerationFinished:
    return GenerationFinished(
        reason=wire.finish_reason(message.reason),
        usage=wire.usage(message.usage),
        citations=wire.citations(message.citations),
        degraded=wire.degraded(message.degraded),
        cached=message.cached,
    )

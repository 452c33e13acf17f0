"""Tools, asked for by JSON: where tools are offered, the whole output is held to a schema, and is one of

    {"answer": "…"}                                              what is said to the user
    {"tool_calls": [{"name": "clock", "arguments": {…}}, …]}     at most MAX_CALLS; arguments fit the tool's schema

The model is told so in words, too, in the system's message. Any model can be asked this way, whatever it was trained
on; what it can't do is misname a tool or break its schema. The answer's text is known only when the JSON is whole: it
comes as one piece, without token ids, and can't be resumed. Where a response format is asked for as well, `answer` has
its schema in place of a string.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, TypeAlias

from services.generator.text.json_values import fit
from services.generator.text.tokens import cut_at_stop
from services.generator.types import End, Message, ModelEvent, Piece, Request, Role, ToolCall, ToolOffer
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason

MAX_CALLS: Final = 8
_CALLS: Final = "tool_calls"
_ANSWER: Final = "answer"

Answer: TypeAlias = Callable[[Request], AsyncGenerator[ModelEvent, None]]


async def called(answer: Answer, request: Request, unique: str) -> AsyncGenerator[ModelEvent, None]:
    """Have a request with tools answered; `unique` begins the ids of the calls."""
    asked = replace(
        request,
        messages=told(request),
        tools=(),
        json_schema=schema(request.tools, request.json_schema),
        sampling=replace(request.sampling, stop=()),
    )
    output: list[str] = []
    async with aclosing(_named(answer(asked))) as events:
        async for event in events:
            if isinstance(event, Piece):
                output.append(event.text)
                continue
            if isinstance(event, End):
                text, wanted = read("".join(output), unique)
                if text := cut_at_stop(text, request.sampling.stop):
                    yield Piece(text)
                if wanted:
                    event = replace(event, reason=FinishReason.TOOL_CALLS, tool_calls=wanted)
            yield event


async def _named(events: AsyncGenerator[ModelEvent, None]) -> AsyncGenerator[ModelEvent, None]:
    """Have a schema that is refused be the tools', not one that nobody gave."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except WeftError as err:
        if err.reason != Reason.SCHEMA_INVALID:
            raise
        raise error(Reason.SCHEMA_INVALID, f"tools: {err.message.partition(': ')[2]}", field="tools") from err


def schema(tools: Sequence[ToolOffer], answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the schema of the whole output."""
    calls = [
        _closed(name={"const": tool.name}, arguments=dict(tool.input_schema) or {"type": "object"}) for tool in tools
    ]
    listed = {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": MAX_CALLS}
    return {"anyOf": [_closed(tool_calls=listed), _closed(answer=dict(answer) if answer else {"type": "string"})]}


def told(request: Request) -> tuple[Message, ...]:
    """Return the messages with the tools described in the system's."""
    offers = "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "arguments": tool.input_schema}, ensure_ascii=False
        )
        for tool in request.tools
    )
    words = (
        f'You may call tools. Reply with JSON alone: either {{"{_CALLS}": [{{"name": …, "arguments": {{…}}}}]}} '
        f'or, to speak to the user, {{"{_ANSWER}": …}}. The tools are:\n{offers}'
    )
    first, *rest = request.messages
    if first.role is Role.SYSTEM:
        return (Message(Role.SYSTEM, f"{first.content}\n\n{words}"), *rest)
    return (Message(Role.SYSTEM, words), *request.messages)


def read(output: str, unique: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Return the text and the calls of an output; `unique` begins the calls' ids. Of one that was cut off there may be
    some text; calls there are none.

    Raises:
        WeftError: MODEL_UNAVAILABLE for a number that is none.
    """
    try:
        found = json.loads(output)
    except ValueError:
        return fit(_begun(output)), ()
    try:
        found = fit(found)
    except ValueError as exc:
        raise error(Reason.MODEL_UNAVAILABLE, f"the model's output can't be used: {exc}", backend="vllm") from None
    if _CALLS in found:
        return "", tuple(
            ToolCall(f"{unique}-{index}", call["name"], call["arguments"]) for index, call in enumerate(found[_CALLS])
        )
    answer = found[_ANSWER]
    return (answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)), ()


def _begun(output: str) -> str:
    """Return what there is of an answer that was cut off, at worst within an escape sequence."""
    for cut in range(min(len(output), 12) + 1):
        try:
            answer = json.loads(output[: len(output) - cut] + '"}')[_ANSWER]
        except (ValueError, KeyError):
            continue
        return answer if isinstance(answer, str) else ""
    return ""


def _closed(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

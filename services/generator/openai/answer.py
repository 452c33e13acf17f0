"""Folds the chunks of one stream into an answer: text as it comes; at its end the tool calls, the usage and why.

    Reading.parts(…)     -> the pieces of the answer, one for each event
    Reading.end()        -> the End, where the server said why the answer ended; without that it was cut off

Once it is said why, the answer is whole. The usage comes behind that: it is waited for `USAGE_S`, and whatever goes
wrong with the connection then is no failure.

A call's arguments come in pieces, told apart by their index; some servers leave it out and start a new call with
a new id. Thoughts (`reasoning`) are not part of an answer and are passed over, but they are a sign of life. Usage is
the server's count; where it gives none, it is estimated.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from services.generator.openai.bodies import CallPart, Choice, Chunk, UsageTold
from services.generator.openai.upstream import DONE, Upstream
from services.generator.patience import Patience
from services.generator.text import tokens
from services.generator.text.json_values import fit
from services.generator.types import End, Request, ToolCall
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Usage

MAX_TOOL_CALLS: Final = 128
USAGE_S: Final = 2.0
_LENGTH: Final = frozenset({"length", "max_tokens"})
_BROKEN: Final = frozenset({"abort", "aborted", "error", "cancelled"})
_FILTERED: Final = "content_filter"


@dataclass(frozen=True, slots=True)
class Part:
    """What one event adds."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Reading:
    """One answer being read."""

    def __init__(self, upstream: Upstream, request: Request) -> None:
        self._upstream, self._request = upstream, request
        self._calls: dict[int, _Call] = {}
        self._usage: UsageTold | None = None
        self._output_tokens = 0
        self.finish = ""
        """Why the server says that the answer ended; empty before."""
        self.stop_reason: int | str | None = None
        """What made it stop: a stop string, or another token than the usual one."""
        self.begun = False
        """Whether anything of the answer came."""
        self._opened = False

    async def parts(self, path: str, body: Mapping[str, Any], patience: Patience) -> AsyncGenerator[Part, None]:
        """Ask, and yield what each event adds.

        Raises:
            WeftError: as `Upstream.stream` and `take`.
        """
        try:
            async with aclosing(self._upstream.stream(path, body, patience)) as events:
                async for data in events:
                    if data == DONE:
                        continue
                    part = self.take(data)
                    if self.begun:
                        patience.heard()
                    if self.finish:
                        patience.ending(USAGE_S)
                    yield part
        except WeftError as err:
            if not self.finish or err.reason != Reason.MODEL_UNAVAILABLE:
                raise

    def take(self, data: bytes) -> Part:
        """Read one event.

        Raises:
            WeftError: MODEL_UNAVAILABLE for what is no event of the API, and what the server's own error says.
        """
        try:
            chunk = Chunk.model_validate_json(data)
        except ValidationError as exc:
            raise self._upstream.garbled(_problem(exc)) from None
        if chunk.error is not None:
            raise self._refused(data, chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage
        choice = next((choice for choice in chunk.choices or () if choice.index == 0), None)
        if choice is None:
            return Part("")
        part = Part(_text(choice), tuple(choice.token_ids or ()))
        for call in (choice.delta.tool_calls if choice.delta else None) or ():
            self._take_call(call)
        self._output_tokens += len(part.token_ids) or bool(part.text)
        if choice.finish_reason:
            self.finish, self.stop_reason = choice.finish_reason, choice.stop_reason
        # Many servers begin with the role alone, before the model has a word. What it thinks to itself has no text.
        said = part.text or part.token_ids or self._calls or choice.finish_reason
        self.begun, self._opened = self.begun or self._opened or bool(said), True
        return part

    def _take_call(self, part: CallPart) -> None:
        index = part.index
        if index is None:
            last = max(self._calls, default=-1)
            new = last < 0 or (part.id and part.id != self._calls[last].id)
            index = last + 1 if new else last
        if index not in self._calls and len(self._calls) >= MAX_TOOL_CALLS:
            raise self._upstream.garbled(f"more than {MAX_TOOL_CALLS} tool calls")
        call = self._calls.setdefault(index, _Call())
        call.id = call.id or part.id or ""
        if part.function is not None:
            call.name = call.name or part.function.name or ""
            call.arguments.append(part.function.arguments or "")

    def _refused(self, data: bytes, told: Any) -> WeftError:
        status = 500
        if isinstance(told, dict) and not self.begun:
            code = told.get("code")
            if isinstance(code, int) and 400 <= code < 600:
                status = code
            elif str(told.get("type")).startswith("invalid_request"):
                status = 400
        refusal = self._upstream.said(status, data)
        return self._upstream.refused(refusal, schema=self._request.json_schema is not None)

    def end(self) -> End:
        """Return the end of the answer.

        Raises:
            WeftError: MODEL_UNAVAILABLE where it was cut off, or the calls are none; INVALID_FIELD where the server
                doesn't let the model say it.
        """
        if not self.finish:
            raise self._upstream.garbled("the answer was cut off")
        if self.finish in _BROKEN:
            raise self._upstream.garbled(f"the answer was broken off ({self.finish})")
        if self.finish == _FILTERED:
            message = f"messages: the content filter of {self._upstream.name} stopped the answer; ask otherwise"
            raise error(Reason.INVALID_FIELD, message, field="messages", server=self._upstream.name)
        if self.finish in _LENGTH:  # a call may be cut in its middle
            return End(FinishReason.LENGTH, self.usage())
        calls = tuple(self._call(index, call) for index, call in sorted(self._calls.items()))
        return End(FinishReason.TOOL_CALLS if calls else FinishReason.STOP, self.usage(), tool_calls=calls)

    def usage(self) -> Usage:
        """What the answer took so far."""
        told = self._usage
        if told is None:
            given = sum(tokens.count(message.content) for message in self._request.messages)
            return Usage(input_tokens=given, output_tokens=self._output_tokens)
        cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
        output = self._output_tokens if told.completion_tokens is None else told.completion_tokens
        return Usage(told.prompt_tokens, output, min(cached or 0, told.prompt_tokens))

    def _call(self, index: int, call: _Call) -> ToolCall:
        raw = "".join(call.arguments)
        try:
            arguments = fit(json.loads(raw)) if raw.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict) or not call.name:
            raise self._upstream.garbled(f"tool call {index} has no name, or its arguments are no JSON object")
        return ToolCall(call.id or f"call_{index}", call.name, arguments)


def _text(choice: Choice) -> str:
    if choice.delta is None:
        return choice.text or ""
    return (choice.delta.content or "") + (choice.delta.refusal or "")


def _problem(exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}"[:200] if where else str(first["msg"])[:200]

"""Answers by an engine that takes and gives token ids: vLLM's, in this process or behind gRPC.

request -> prompt's ids (prompts.py) -> engine -> text (text.py) -> Prompt, Piece…, End
resume  -> its ids, prompt and answer together, as a new prompt; what they say is known, text goes on behind it
tools   -> calls.py
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

import jsonschema
from jsonschema.exceptions import SchemaError

from mesh.validation import shorten
from services.generator.types import End, ModelEvent, Piece, Prompt, Request, Sampling
from services.generator.vllm import calls
from services.generator.vllm.prompts import Prompts, too_long
from services.generator.vllm.text import Writing, unusable
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Usage

MAX_SCHEMA_CHARS: Final = 16_384  # larger ones would slow down every answer of the same batch


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine computed since the step before."""

    token_ids: Sequence[int]
    finish: str
    """"stop", "length", or empty while it goes on."""
    cached_tokens: int
    """Of the prompt, taken from the KV cache."""


class Engine(Protocol):
    """What answers are made with."""

    @property
    def context_tokens(self) -> int:
        """Of prompt and answer together."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        ...

    @property
    def decoder(self) -> Any:
        """A `tokenizers.Tokenizer`."""
        ...

    def generate(
        self,
        request_id: str,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None,
        priority: int,
        step_interval_s: float,
    ) -> AsyncGenerator[Step, None]:
        """Go on from the tokens, but for the stop strings. Closing the generator ends the work.

        The first step comes as soon as it is there; later ones may be joined where they are closer together than
        `step_interval_s`.
        """
        ...


class Answers:
    """Makes answers with one engine."""

    def __init__(self, backend: str, running: Callable[[], Engine], prompts: Prompts) -> None:
        """`running` returns the engine, or raises where it can't be asked."""
        self._backend, self._running, self._prompts = backend, running, prompts
        self._ids = count(1)

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer, or go on answering."""
        if request.tools or request.json_schema is not None:
            await asyncio.to_thread(_check_schemas, request)  # 64 large ones take a second
        if request.tools:
            answer = calls.called(self._answer, request, f"call-{next(self._ids)}")
        else:
            answer = self._answer(request)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _answer(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        prompt = await self._prompt(request)
        said = request.resume.output_token_ids if request.resume else ()
        left = self._left(len(prompt), len(said), request.sampling.max_tokens)
        engine = self._running()
        writing = Writing(engine.decoder, prompt, request.sampling.stop, request.resume)
        yield Prompt(prompt)
        if writing.owed:
            yield Piece(writing.owed)
        finish, cached_tokens = "length" if left <= 0 else "", 0
        if not (finish or writing.stopped):
            steps = engine.generate(
                f"weft-{next(self._ids)}",
                prompt + said,
                request.sampling,
                max_tokens=left,
                schema=request.json_schema,
                priority=request.priority,
                step_interval_s=request.piece_interval_s,
            )
            async with aclosing(steps):
                async for step in steps:
                    finish, cached_tokens = step.finish, step.cached_tokens
                    if (piece := writing.take(step.token_ids, ended=finish == "stop")) is not None:
                        yield piece
                    if writing.stopped:
                        break
        if (piece := writing.rest()) is not None:
            yield piece
        reason = FinishReason.LENGTH if finish == "length" and not writing.stopped else FinishReason.STOP
        yield End(reason, Usage(len(prompt) + len(said), writing.count, cached_tokens))

    async def _prompt(self, request: Request) -> tuple[int, ...]:
        """Return the prompt's ids: those given by a resumption, which must be some of this model's."""
        resume = request.resume
        if resume is None:
            return await self._prompts.token_ids(request.messages)
        if request.json_schema is not None:
            raise error(
                Reason.RESUME_UNSUPPORTED,
                f"{self._backend}: can't continue an answer that must fit a JSON Schema or may call tools: it would "
                "begin a new one. Ask again without `resume`",
                backend=self._backend,
            )
        if not resume.prompt_token_ids:
            raise unusable("resume.prompt_token_ids", "are empty")
        most = self._running().vocabulary - 1
        for field in ("prompt_token_ids", "output_token_ids"):
            if (highest := max(getattr(resume, field), default=0)) > most:
                raise unusable(f"resume.{field}", f"hold {highest}, but the model's ids go to {most}")
        return resume.prompt_token_ids

    def _left(self, prompt_tokens: int, said_tokens: int, max_tokens: int | None) -> int:
        """Return how many tokens may still come.

        Raises:
            WeftError: CONTEXT_TOO_LONG where prompt and answer don't fit.
        """
        room = self._running().context_tokens - prompt_tokens
        if room < (max_tokens or 1):
            raise too_long(prompt_tokens, max_tokens, self._running().context_tokens)
        return (max_tokens or room) - said_tokens


def _check_schemas(request: Request) -> None:
    """Refuse what is no JSON Schema, before anything is made of it.

    Raises:
        WeftError: SCHEMA_INVALID naming the field, and what is wrong where.
    """
    given = {f"tools[{index}].input_schema": tool.input_schema for index, tool in enumerate(request.tools)}
    if request.json_schema is not None:
        given["response_format.json_schema"] = request.json_schema
    for field, schema in given.items():
        chars = len(json.dumps(schema, ensure_ascii=False))
        if chars > MAX_SCHEMA_CHARS:
            raise _no_schema(field, f"has {chars} characters as JSON; at most {MAX_SCHEMA_CHARS} are allowed")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except SchemaError as exc:
            where = "/".join(map(str, exc.absolute_path)) or "the top"
            raise _no_schema(field, f"is no JSON Schema, at {where}: {shorten(exc.message, 200)}") from None


def _no_schema(field: str, problem: str) -> WeftError:
    return error(Reason.SCHEMA_INVALID, f"{field}: {problem}", field=field)

"""The model behind `vllm:`, see `services/generator/models/vllm.py`.

    request -> prompt's ids (prompts.py) -> engine (engine.py) -> text (text.py) -> Prompt, Piece…, End
    resume  -> its ids, prompt and answer together, as a new prompt; what they say is known, text goes on behind it
    tools   -> calls.py

The engine's life is watched. When it has died, whoever waits gets MODEL_UNAVAILABLE, and the process is told to give
up: it ends with 1, and the mesh moves on.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import deepcopy
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

import jsonschema
from jsonschema.exceptions import SchemaError

from mesh.plugins import Url
from mesh.validation import invalid, shorten
from services.generator.ports import Surroundings
from services.generator.types import (
    Capabilities,
    End,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Prompt,
    Request,
    Role,
    Sampling,
)
from services.generator.vllm import calls
from services.generator.vllm.options import Options
from services.generator.vllm.prompts import Prompts, too_long
from services.generator.vllm.text import Writing, unusable
from weft.errors import Reason, error
from weft.values import FinishReason, Usage

if TYPE_CHECKING:
    from services.generator.vllm.engine import Engine

MAX_SCHEMA_CHARS: Final = 16_384  # larger ones would slow down every answer of the same batch


class Vllm:
    """One model in an engine of this process."""

    def __init__(self, url: Url, options: Options, surroundings: Surroundings) -> None:
        self._url, self._options, self._surroundings = url, options, surroundings
        self._ids = count(1)
        self._engine: Engine | None = None
        self._prompts: Prompts | None = None
        self._watch: asyncio.Task[None] | None = None
        self.capabilities = Capabilities(
            backend="vllm",
            version=_version(options),
            context_tokens=options.max_model_len or 0,
            can_resume=True,
            json_schema=True,
        )

    async def start(self) -> None:
        """Load the model, and let it answer: what is compiled or imported at first use is so before a caller comes.

        Raises:
            WeftError: MODEL_UNAVAILABLE when the engine doesn't start.
        """
        try:
            engine = self._engine = await asyncio.to_thread(_make, self._options)
        except Exception as exc:  # anything a library, a file or a lack of memory may raise
            problem = f"{self._url}: the engine doesn't start: {exc}. Its log says more"
            raise error(Reason.MODEL_UNAVAILABLE, problem, backend="vllm") from exc
        self._prompts = Prompts(deepcopy(engine.tokenizer), engine.context_tokens)
        self.capabilities = replace(self.capabilities, context_tokens=engine.context_tokens)
        self._watch = asyncio.create_task(self._watch_engine(engine))
        for schema in (None, {"type": "boolean"}):
            greeting = Request((Message(Role.USER, "Hello"),), sampling=Sampling(max_tokens=2), json_schema=schema)
            async with aclosing(self.generate(greeting)) as events:
                async for _ in events:
                    pass

    def load(self) -> ModelLoad:
        """As the engine's scheduler tells."""
        return self._engine.load() if self._engine is not None else ModelLoad()

    async def close(self) -> None:
        """End the engine and its processes."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._prompts is not None:
            self._prompts.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer, or go on answering."""
        _check_schemas(request)
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
            assert self._prompts is not None
            return await self._prompts.token_ids(request.messages)
        if request.json_schema is not None:
            raise error(
                Reason.RESUME_UNSUPPORTED,
                "vllm: can't continue an answer that must fit a JSON Schema or may call tools: it would begin a "
                "new one. Ask again without `resume`",
                backend="vllm",
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
            raise too_long(prompt_tokens, max_tokens, self.capabilities.context_tokens)
        return (max_tokens or room) - said_tokens

    def _running(self) -> Engine:
        if self._engine is None or self._engine.dead:
            raise error(Reason.MODEL_UNAVAILABLE, f"the engine of {self._url} is not running", backend="vllm")
        return self._engine

    async def _watch_engine(self, engine: Engine) -> None:
        await engine.died()
        problem = f"the engine of {self._url} has died; what it logged before says why"
        self._surroundings.fail(error(Reason.MODEL_UNAVAILABLE, problem, backend="vllm"))


def _make(options: Options) -> Engine:
    """Blocks for as long as importing vLLM and loading the model take."""
    engine: Engine = importlib.import_module("services.generator.vllm.engine").Engine(options)
    return engine


def _check_schemas(request: Request) -> None:
    """Refuse what is no JSON Schema, before anything is made of it.

    Raises:
        WeftError: INVALID_FIELD naming the field, and what is wrong where.
    """
    given = {f"tools[{index}].input_schema": tool.input_schema for index, tool in enumerate(request.tools)}
    if request.json_schema is not None:
        given["response_format.json_schema"] = request.json_schema
    for field, schema in given.items():
        chars = len(json.dumps(schema, ensure_ascii=False))
        if chars > MAX_SCHEMA_CHARS:
            raise invalid(
                field, f"has {chars} characters as JSON; at most {MAX_SCHEMA_CHARS} are allowed", length=chars
            )
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except SchemaError as exc:
            where = "/".join(map(str, exc.absolute_path)) or "the top"
            raise invalid(field, f"is no JSON Schema, at {where}: {shorten(exc.message, 200)}", at=where) from None


def _version(options: Options) -> str:
    """Tells models apart by their files' names and sizes, their configuration and the type of their numbers."""
    told = hashlib.sha256(f"{options.dtype} {options.max_model_len}".encode())
    for path in sorted(path for path in options.path.iterdir() if path.is_file()):
        told.update(f"{path.name} {path.stat().st_size} ".encode())
    told.update((options.path / "config.json").read_bytes())
    return told.hexdigest()[:12]

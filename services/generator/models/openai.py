"""`openai://host[:port]/v1?model=…`: any server with OpenAI's chat API: vLLM's, TGI, llama.cpp, a vendor's.

    model                    as the server calls it
    resume=token_ids         the server is vLLM's: it is asked by token ids, and answers that broke off can go on
    limit                    what it calls the limit of tokens: max_tokens (default) or max_completion_tokens
    connect_timeout_s        default 2
    first_token_timeout_s    from the question to the first token, tries included; default 20
    token_timeout_s          from one token to the next; default 20
    timeout_s                for the whole answer; default 300. The caller's deadline bounds all four
    tls=no                   plain HTTP; servers on this machine (localhost, 127.0.0.1, ::1) are always called so

Its key comes from WEFT_GENERATOR__API_KEYS by host, never from the URL. An answer is one streamed request
(openai/upstream.py); closing the generator closes its connection, by which the server knows to stop. A server that is
down when the service starts is no reason not to: answers fail until it is there, and the next model gives them.

Without `resume` it can't continue an answer: a chat API can't be told that half of one is there already. With it the
prompt is rendered into token ids by the server, and completed as such (openai/continuing.py); tools are asked for as
with `vllm:` (vllm/calls.py), and those answers can't be continued.

Errors: MODEL_UNAVAILABLE with what the server said, CONTEXT_TOO_LONG, SCHEMA_INVALID, INVALID_FIELD for what else the
server refuses, DEADLINE_EXCEEDED, OVERLOADED when too many answers are under way (openai/refusals.py).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from pydantic import ValidationError

from mesh.plugins import Url
from services.generator.openai import bodies, options
from services.generator.openai.answer import Reading
from services.generator.openai.continuing import Continuing
from services.generator.openai.options import Options
from services.generator.openai.upstream import Upstream
from services.generator.patience import Patience
from services.generator.ports import ALONE, Surroundings
from services.generator.types import Capabilities, ModelEvent, ModelLoad, Piece, Request
from services.generator.vllm import calls
from weft.errors import WeftError

START_TIMEOUT_S: Final = 5.0
"""How long a start waits for a server."""

_log = logging.getLogger(__name__)


def open(url: Url, surroundings: Surroundings = ALONE) -> OpenAi:
    """Open the model that the URL names. Calls nothing.

    Raises:
        WeftError: INVALID_FIELD.
    """
    read = options.read(url)
    return OpenAi(read, surroundings.api_keys.get(read.host, ""))


class OpenAi:
    """A server's model."""

    def __init__(self, read: Options, key: str) -> None:
        self._options = read
        self._upstream = Upstream(read, key)
        self._running = 0
        self.capabilities = Capabilities(
            backend="openai", version=read.model, can_resume=read.by_token_ids, json_schema=True
        )

    async def start(self) -> None:
        """Ask the server for its models, to warn of a wrong name and to learn the context's length."""
        patience = Patience(self._upstream.name, replace(self._options.timeouts, first_token_s=START_TIMEOUT_S))
        try:
            raw = await self._upstream.ask("GET", f"{self._options.path}/models", patience)
            listed = bodies.ModelList.model_validate_json(raw).data
        except (WeftError, ValidationError) as err:
            _log.warning("%s: models can't be listed, going on without: %s", self._options.url, err)
            return
        mine = next((told for told in listed if told.id == self._options.model), None)
        if mine is None:
            names = ", ".join(told.id[:80] for told in listed[:20])
            _log.warning(
                "%s: the server lists no model %r; it lists: %s", self._options.url, self._options.model, names
            )
        else:
            self.capabilities = replace(self.capabilities, context_tokens=mine.max_model_len or 0)

    def load(self) -> ModelLoad:
        """What this process has under way; how busy the server is, others may know."""
        return ModelLoad(running=self._running)

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request."""
        patience = self._upstream.patience()
        if self._options.by_token_ids:
            by_ids = partial(self._by_token_ids, patience)
            tools = request.tools and request.resume is None
            answer = calls.called(by_ids, request, f"call-{uuid.uuid4().hex[:12]}") if tools else by_ids(request)
        else:
            answer = self._chat(request, patience)
        self._running += 1
        try:
            async with aclosing(answer) as events:
                async for event in events:
                    yield event
        finally:
            self._running -= 1

    def _by_token_ids(self, patience: Patience, request: Request) -> AsyncGenerator[ModelEvent, None]:
        return Continuing(self._upstream, self._options, request, patience).generate()

    async def _chat(self, request: Request, patience: Patience) -> AsyncGenerator[ModelEvent, None]:
        reading = Reading(self._upstream, request)
        body = bodies.chat(request, self._options.model, self._options.limit_field)
        path = f"{self._options.path}/chat/completions"
        async with aclosing(reading.parts(path, body, patience)) as parts:
            async for part in parts:
                if part.text:
                    yield Piece(part.text)
        yield reading.end()

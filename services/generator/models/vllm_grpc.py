"""`vllm+grpc://host[:port]?…`: vLLM's own gRPC server (`python -m vllm.entrypoints.launchers.grpc_server`).

    connect_timeout_s, first_token_timeout_s, token_timeout_s, timeout_s    as with openai://
    tls=no                                                                  plain text; on this machine always

The server takes and gives token ids and nothing else, so what belongs to text is done here, with the tokenizer that it
gives away (vllm_grpc/tokenizer.py): the chat template, decoding, stop strings. From there on it is as `vllm:` is:
answers can be resumed by token ids at any server of the same model, output can be held to a JSON Schema, tools are
asked for that way. Sampling that a request leaves open is the model's own, and greedy where it has none.

A server that is down when the service starts is no reason not to; the model is asked for again with each answer until
it is there. How busy the server is, whoever makes it so, is asked once a second and goes into the load report.

Errors: MODEL_UNAVAILABLE with what the server said, CONTEXT_TOO_LONG, INVALID_FIELD, SCHEMA_INVALID, DEADLINE_EXCEEDED.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from mesh.plugins import Url
from services.generator import patience
from services.generator.patience import Timeouts
from services.generator.ports import ALONE, Surroundings
from services.generator.types import Capabilities, ModelEvent, ModelLoad, Request, Sampling
from services.generator.vllm.answering import Answers, Step
from services.generator.vllm.prompts import Prompts
from services.generator.vllm_grpc import tokenizer
from services.generator.vllm_grpc.client import Client, Info
from services.generator.vllm_grpc.tokenizer import ChatTokenizer, Unreadable
from weft.errors import Reason, WeftError, error

PORT: Final = 50_051
LOAD_INTERVAL_S: Final = 1.0
_PARAMETERS: Final = ("tls", *patience.PARAMETERS)

_log = logging.getLogger(__name__)


def open(url: Url, surroundings: Surroundings = ALONE) -> VllmGrpc:
    """Open the model that the URL names. Calls nothing.

    Raises:
        WeftError: INVALID_FIELD.
    """
    for name in url.query:
        if name not in _PARAMETERS:
            raise _invalid(url, f"{name!r} is no parameter; there are: {', '.join(_PARAMETERS)}")
    if not url.host or url.path.strip("/") or url.username or url.password:
        raise _invalid(url, "is not vllm+grpc://host[:port]")
    if url.query.get("tls", "no") != "no":
        raise _invalid(url, f"tls is {url.query['tls'][:20]!r}; allowed is no, or leaving it out")
    host = f"[{url.host}]" if ":" in url.host else url.host
    return VllmGrpc(f"{host}:{url.port or PORT}", patience.plain(url), patience.timeouts(url))


@dataclass(frozen=True, slots=True)
class _Engine:
    """A server whose model is known, as what answers are made with."""

    client: Client
    info: Info
    tokenizer: ChatTokenizer

    @property
    def context_tokens(self) -> int:
        return self.info.context_tokens

    @property
    def vocabulary(self) -> int:
        return self.info.vocabulary

    @property
    def decoder(self) -> Any:
        return self.tokenizer.decoder

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
        return self.client.generate(self.info, token_ids, sampling, max_tokens=max_tokens, schema=schema)


class VllmGrpc:
    """A server's model."""

    def __init__(self, address: str, plain: bool, timeouts: Timeouts) -> None:
        self._client = Client(address, plain, timeouts)
        self._learning = asyncio.Lock()
        self._answers: Answers | None = None
        self._prompts: Prompts | None = None
        self._watch: asyncio.Task[None] | None = None
        self._load = ModelLoad()
        self.capabilities = Capabilities(backend="vllm+grpc", can_resume=True, json_schema=True)

    async def start(self) -> None:
        """Ask the server for its model, if it is there."""
        try:
            await self._known()
        except WeftError as err:
            _log.warning("%s; it is asked again with each answer", err.message)
        self._watch = asyncio.create_task(self._watch_load())

    def load(self) -> ModelLoad:
        """As the server said last; nothing while it is away."""
        return self._load

    async def close(self) -> None:
        """Close the connection."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._prompts is not None:
            self._prompts.close()
        await self._client.close()

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer, or go on answering."""
        answers = self._answers or await self._known()
        async with aclosing(answers.generate(request)) as events:
            async for event in events:
                yield event

    async def _known(self) -> Answers:
        """Learn what the model is, once. Who waits for another to learn it does so with the same patience."""
        waiting = self._client.patience()
        async with waiting.waiting():
            await self._learning.acquire()
        try:
            if self._answers is None:
                info = await self._client.info(waiting)
                packed, sha256 = await self._client.tokenizer(waiting)
                try:
                    read = await asyncio.to_thread(tokenizer.read, packed, sha256)
                except Unreadable as exc:
                    message = f"{self._client.name} can't be used: {exc}"
                    raise error(Reason.MODEL_UNAVAILABLE, message, server=self._client.name) from None
                engine = _Engine(self._client, info, read)
                self._prompts = Prompts(read, info.context_tokens)
                self._answers = Answers("vllm+grpc", lambda: engine, self._prompts)
                self.capabilities = replace(self.capabilities, version=info.name, context_tokens=info.context_tokens)
            return self._answers
        finally:
            self._learning.release()

    async def _watch_load(self) -> None:
        while True:
            try:
                self._load = await self._client.loads()
            except WeftError:
                self._load = ModelLoad()
            await asyncio.sleep(LOAD_INTERVAL_S)


def _invalid(url: Url, problem: str) -> WeftError:
    return error(Reason.INVALID_FIELD, f"{url}: {problem}", url=url)

"""The model behind `vllm:`, see `services/generator/models/vllm.py`.

`answering.py` makes its answers, with the engine of `engine.py`. The engine's life is watched. When it has died, those
who wait get MODEL_UNAVAILABLE, and the process is told to give up: it ends with 1, and the mesh moves on.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mesh.plugins import Url
from services.generator.ports import Surroundings
from services.generator.types import (
    Capabilities,
    Message,
    ModelEvent,
    ModelLoad,
    Request,
    Role,
    Sampling,
)
from services.generator.vllm.answering import Answers
from services.generator.vllm.options import Options
from services.generator.vllm.prompts import Prompts
from weft.errors import Reason, error

if TYPE_CHECKING:
    from services.generator.vllm.engine import Engine


# Of vLLM, where the operator doesn't say otherwise: its logs are ours, it fetches nothing and tells nobody anything.
_ENVIRONMENT: Final = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


class Vllm:
    """One model in an engine of this process."""

    def __init__(self, url: Url, options: Options, surroundings: Surroundings) -> None:
        self._url, self._options, self._surroundings = url, options, surroundings
        self._engine: Engine | None = None
        self._prompts: Prompts | None = None
        self._answers: Answers | None = None
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
        self._answers = Answers("vllm", self._running, self._prompts)
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
        self._running()
        assert self._answers is not None
        async with aclosing(self._answers.generate(request)) as events:
            async for event in events:
                yield event

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
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    engine: Engine = importlib.import_module("services.generator.vllm.engine").Engine(options)
    return engine


def _version(options: Options) -> str:
    """Tells models apart by their files' names and sizes, their configuration and the type of their numbers."""
    told = hashlib.sha256(f"{options.dtype} {options.max_model_len}".encode())
    for path in sorted(path for path in options.path.iterdir() if path.is_file()):
        told.update(f"{path.name} {path.stat().st_size} ".encode())
    told.update((options.path / "config.json").read_bytes())
    return told.hexdigest()[:12]

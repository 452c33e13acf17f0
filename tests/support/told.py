"""A model that says what a test tells it to, when it tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from services.generator.types import Capabilities, End, ModelEvent, ModelLoad, Piece, Prompt, Request
from weft.values import Citation, FinishReason, Usage

PROMPT = Prompt((1, 2, 3))
CITATION = Citation("collections/c/documents/d/chunks/0", 0, 4, "Weft", title="“Guide” 🦁")
END = End(FinishReason.STOP, Usage(input_tokens=3, output_tokens=2, cost_micros=50, currency="EUR"), (CITATION,))
WHOLE = (PROMPT, Piece("Weft ", (7,)), Piece("weaves.", (8, 9)), END)


class Run:
    """One call of the model."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.waiting: asyncio.Queue[ModelEvent | Exception] = asyncio.Queue()
        self.stopping, self.may_stop, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_stop.set()
        self.whole = False

    def say(self, *steps: ModelEvent | Exception) -> None:
        for step in steps:
            self.waiting.put_nowait(step)


class Told:
    """Its calls wait to be told what to say; with ``always`` each says the same at once."""

    def __init__(self, *always: ModelEvent | Exception, capabilities: Capabilities | None = None) -> None:
        self.always = always
        self.capabilities = capabilities or Capabilities("told", version="1")
        self.runs: list[Run] = []
        self.begun = asyncio.Event()
        self.started = self.closed = False

    async def start(self) -> None:
        self.started = True

    def load(self) -> ModelLoad:
        return ModelLoad(running=sum(not run.closed.is_set() for run in self.runs))

    async def close(self) -> None:
        self.closed = True

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        run = Run(request)
        self.runs.append(run)
        self.begun.set()
        run.say(*self.always)
        try:
            while True:
                step = await run.waiting.get()
                if isinstance(step, Exception):
                    raise step
                yield step
                if isinstance(step, End):
                    run.whole = True
                    return
        finally:
            run.stopping.set()
            await run.may_stop.wait()
            run.closed.set()


def said(events: list[Any]) -> tuple[str, tuple[int, ...]]:
    """Text and token ids of an answer's pieces."""
    pieces = [event for event in events if isinstance(event, Piece)]
    return "".join(piece.text for piece in pieces), tuple(i for piece in pieces for i in piece.token_ids)

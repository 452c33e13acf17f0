"""The text of one answer, written over as many streams as that takes.

Each piece goes into the outbox as it comes. When a stream breaks, or when an earlier owner of the turn
has shown a part of the text already, there are two ways to go on:

- a model that declares it is **continued** by the token ids that were stored with the text;
- any other is asked again and must **begin with the very text that was shown**, which is then skipped.
  An extractive answer always does. One that differs is RESUME_UNSUPPORTED: better no answer than two
  halves of different ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from mesh import deadline as deadlines
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Generator
from services.orchestrator.records import Prompted
from services.orchestrator.recovery import Recovered
from services.orchestrator.types import (
    Continuation,
    Generation,
    GenerationDelta,
    GenerationFinished,
    GenerationStarted,
    Prompt,
    TextDelta,
)
from weft.errors import Cancelled, Reason, Unavailable, WeftError, error

_PAUSES_S: Final = (0.05, 0.2, 0.5)  # before a broken answer is asked for again


class Writing:
    """Has an answer written.

    Attributes:
        text: all that was shown so far, by earlier owners, too.
    """

    def __init__(self, generator: Generator, outbox: Outbox, recovered: Recovered) -> None:
        self._generator = generator
        self._outbox = outbox
        self._prompted = recovered.prompted
        self._token_ids = list(recovered.token_ids)
        self.text = recovered.text

    async def write(self, prompt: Prompt, budget_s: float) -> GenerationFinished:
        """Have the answer written within ``budget_s``; returns its end."""
        until_s = asyncio.get_running_loop().time() + budget_s
        pauses, may_continue = iter(_PAUSES_S), True
        while True:
            continuation = self._continuation() if may_continue else None
            stream = _Stream(skip="" if continuation else self.text)
            asked = prompt
            if continuation is not None and self._prompted is not None:  # only the model that began can go on
                asked = replace(prompt, model=self._prompted.model, continuation=continuation)
            try:
                return await self._one_stream(asked, stream, until_s, budget_s)
            except WeftError as err:
                if continuation is not None and err.reason == Reason.RESUME_UNSUPPORTED:
                    may_continue = False
                    continue
                # What never began was tried again by gRPC already; what was shown must be gone on with.
                broken = isinstance(err, Unavailable | Cancelled) and (stream.begun or bool(self.text))
                pause_s = next(pauses, None)
                if not broken or pause_s is None or asyncio.get_running_loop().time() + pause_s >= until_s:
                    raise
            await asyncio.sleep(pause_s)

    def _continuation(self) -> Continuation | None:
        prompted = self._prompted
        if prompted is None or not prompted.can_resume or not self._token_ids:
            return None
        return Continuation(prompted.prompt_token_ids, tuple(self._token_ids), self.text)

    async def _one_stream(self, prompt: Prompt, stream: _Stream, until_s: float, budget_s: float) -> GenerationFinished:
        async with aclosing(self._generator.generate(prompt)) as events:
            while True:
                event = await _next(events, until_s, budget_s)
                match event:
                    case GenerationStarted():
                        stream.begun = True
                        self._note(event)
                    case GenerationDelta():
                        await self._show(stream.behind_what_is_shown(event.text), event.token_ids)
                    case GenerationFinished():
                        stream.check_all_shown()
                        return event

    def _note(self, started: GenerationStarted) -> None:
        if self._prompted is None and started.can_resume and started.prompt_token_ids:
            self._prompted = Prompted(started.model, True, started.prompt_token_ids)
            self._outbox.gather(self._prompted)

    async def _show(self, text: str, token_ids: tuple[int, ...]) -> None:
        if not text:
            return
        if self._prompted is None:
            token_ids = ()
        self.text += text
        self._token_ids += token_ids
        await self._outbox.put(TextDelta(text, token_ids))


@dataclass(slots=True)
class _Stream:
    """One answer as it comes in, compared with what is shown already (``skip``)."""

    skip: str
    position: int = 0
    begun: bool = False

    def behind_what_is_shown(self, text: str) -> str:
        """The part of ``text`` that nobody has seen yet."""
        expected = self.skip[self.position : self.position + len(text)]
        if not text.startswith(expected):
            raise self._differs()
        self.position += len(expected)
        return text[len(expected) :]

    def check_all_shown(self) -> None:
        """The answer must not end before what is shown does."""
        if self.position < len(self.skip):
            raise self._differs()

    def _differs(self) -> WeftError:
        return error(
            Reason.RESUME_UNSUPPORTED,
            f"the answer broke off after {len(self.skip)} characters, and the model cannot go on with it: asked again "
            "it wrote another one. Ask again with a new request_id",
            emitted_chars=len(self.skip),
        )


async def _next(events: AsyncGenerator[Generation, None], until_s: float, budget_s: float) -> Generation:
    try:
        async with asyncio.timeout_at(until_s):
            return await anext(events)
    except TimeoutError as exc:
        raise deadlines.exceeded("waiting for the model", budget_s) from exc
    except StopAsyncIteration:
        raise error(
            Reason.MODEL_UNAVAILABLE, "the generator's stream ended without `finished`; its log may say why"
        ) from None

"""The text of one answer, written over as many streams as that takes.

Each piece goes into the outbox as it comes. When a stream breaks, or when an earlier owner of the turn
has shown a part of the text already, it depends on the model how the answer goes on:

    can_resume    it is **continued** by the token ids that were stored with the text
    can_repeat    it is **asked again**, must begin with the very text that was shown, and that is skipped
    neither       ANSWER_INTERRUPTED: better no answer than two halves of different ones

Only the model that began may go on. One that refuses, or says something else the second time, ends the
answer in the same way. Where nothing was shown yet nothing has to fit, and any model may begin anew.

A model that is away is asked for ``PATIENCE_S``; each piece of text begins that time anew.

Token ids may run ahead of the text (a character that is cut in two, the beginning of a stop string), never
behind it. They are kept with the text that follows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry import trace

from mesh import deadline as deadlines
from services.orchestrator import ladder
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
from weft.errors import Cancelled, Reason, ResourceExhausted, Unavailable, WeftError, error

PATIENCE_S: Final = 10.0  # as long as the SDK asks for an orchestrator
_REFUSALS: Final = (Reason.RESUME_UNSUPPORTED, Reason.MESSAGE_TOO_LARGE)
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


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
        self._may_continue = True
        self.text = recovered.text

    async def write(self, prompt: Prompt, budget_s: float) -> GenerationFinished:
        """Have the answer written within ``budget_s``; returns its end."""
        try:
            return await self._write(prompt, _Patience(asyncio.get_running_loop().time() + budget_s), budget_s)
        except WeftError:
            if self.text:
                await self._outbox.leave()  # what the error calls sent is sent
            raise

    async def _write(self, prompt: Prompt, patience: _Patience, budget_s: float) -> GenerationFinished:
        while True:
            asked, stream = self._way_on(prompt)
            shown = len(self.text)
            try:
                end = await self._one_stream(asked, stream, patience.until_s, budget_s)
                return end if asked.continuation is None else _counted_once(end, asked.continuation)
            except WeftError as err:
                if len(self.text) > shown:
                    patience.begin_anew()
                if not self._goes_on(err, stream, asked) or not await patience.wait(err):
                    raise
                cause = err.reason
            trace.get_current_span().add_event("resume", {"emitted_chars": len(self.text), "cause": cause})

    def _way_on(self, prompt: Prompt) -> tuple[Prompt, _Stream]:
        """What to ask for next, and what of the answer is not to be shown again."""
        if not self.text:
            return prompt, _Stream()
        prompted = self._prompted
        if prompted is None:  # an earlier release began, which knew only models that repeat themselves
            return prompt, _Stream(skip=self.text)
        asked = replace(prompt, model=prompted.model)
        if prompted.can_resume and self._token_ids and self._may_continue:
            so_far = Continuation(prompted.prompt_token_ids, tuple(self._token_ids), self.text)
            return replace(asked, continuation=so_far), _Stream()
        if prompted.can_repeat:
            return asked, _Stream(skip=self.text)
        raise interrupted(self.text, f"{prompted.model!r} went away, and no other can go on with its answer")

    def _goes_on(self, err: WeftError, stream: _Stream, asked: Prompt) -> bool:
        """Whether what failed so is to be tried again."""
        if not self.text:  # what never began was tried again by gRPC already
            return isinstance(err, Unavailable | Cancelled) and stream.started is not None
        if err.reason == Reason.ANSWER_INTERRUPTED:
            return False
        if err.reason in _REFUSALS or not ladder.is_environmental(err):
            # The request was good when the answer began; so it is going on that is refused, by another model
            # under the same name, say.
            if asked.continuation is None:
                raise interrupted(self.text, f"its model doesn't go on with it ({err.message})") from err
            self._may_continue = False
            return True
        return isinstance(err, Unavailable | Cancelled | ResourceExhausted)

    async def _one_stream(self, prompt: Prompt, stream: _Stream, until_s: float, budget_s: float) -> GenerationFinished:
        async with aclosing(self._generator.generate(prompt)) as events:
            while True:
                event = await _next(events, until_s, budget_s)
                match event:
                    case GenerationDelta():
                        stream.ahead += event.token_ids
                        text = stream.behind_what_is_shown(event.text)
                        if text:
                            await self._show(text, stream)
                    case GenerationStarted():
                        stream.started = event
                    case GenerationFinished():
                        stream.check_all_shown()
                        return event

    async def _show(self, text: str, stream: _Stream) -> None:
        started = stream.started
        if not self.text and started is not None:
            self._prompted = Prompted(
                started.model, started.can_resume, started.prompt_token_ids, can_repeat=started.can_repeat
            )
            self._outbox.gather(self._prompted)
        token_ids: tuple[int, ...] = ()
        if not stream.skip and started is not None and started.can_resume:
            token_ids, stream.ahead = tuple(stream.ahead), []
        self.text += text
        self._token_ids += token_ids
        await self._outbox.put(TextDelta(text, token_ids))


@dataclass(slots=True)
class _Stream:
    """One answer as it comes in, compared with what is shown already (``skip``)."""

    skip: str = ""
    position: int = 0
    started: GenerationStarted | None = None
    ahead: list[int] = field(default_factory=list)  # token ids that wait for their text

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
        return interrupted(self.skip, "asked again, its model wrote another one")


class _Patience:
    """How long to wait for a model that is away."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.begin_anew()

    def begin_anew(self) -> None:
        """The model has written."""
        self._give_up_s = float("inf")
        self._pause_s = _FIRST_PAUSE_S

    async def wait(self, err: WeftError) -> bool:
        """Sleep before the next try; False at once where there is to be none."""
        now_s = asyncio.get_running_loop().time()
        self._give_up_s = min(self._give_up_s, now_s + PATIENCE_S, self.until_s)
        # What one replica says of its queue or its circuit breaker need not hold for the next one.
        pause_s = min(max(self._pause_s, err.retry_after_s or 0.0), _LONGEST_PAUSE_S)
        if now_s + pause_s >= self._give_up_s:
            return False
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
        return True


def interrupted(text: str, why: str) -> WeftError:
    """The end of an answer that cannot be gone on with."""
    return error(
        Reason.ANSWER_INTERRUPTED,
        f"the answer broke off after {len(text)} characters: {why}. What was sent is partial; ask again with a new "
        "request_id",
        partial="true",
        emitted_chars=len(text),
    )


def _counted_once(end: GenerationFinished, continuation: Continuation) -> GenerationFinished:
    """The end of a continued answer as if one stream had written all of it: what the model read the last time was
    the prompt and what it had written before."""
    usage, read = end.usage, len(continuation.prompt_token_ids)
    whole = replace(
        usage,
        input_tokens=read,
        output_tokens=max(0, usage.input_tokens + usage.output_tokens - read),
        cached_tokens=min(usage.cached_tokens, read),
    )
    return replace(end, usage=whole)


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

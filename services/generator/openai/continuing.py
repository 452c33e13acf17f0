"""An answer by token ids, from its beginning or from where it broke off: vLLM's `/tokenize` and `/completions`.

    anew      the server renders the messages into ids, and completes those
    resumed   it completes the prompt's ids with those of the answer so far behind them

Both are the same question to the model: what was computed is repeated, not guessed from text. Any server of the same
model will do. The text of the ids so far is asked for (`/detokenize`), since the caller may have less of it: text that
waits for a stop string, or that got lost on its way.

A character may take several tokens. Where the ids so far end within one, the last of them are computed again, and
passed over when they come. If others come instead, the answer can't be continued exactly, and it fails.

The token that ends an answer is no part of it: its id isn't passed on. So whoever has all ids of an answer but not its
end can ask for the rest of it, which is that token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from services.generator.openai import bodies
from services.generator.openai.answer import Reading
from services.generator.openai.options import Options
from services.generator.openai.stops import Stops
from services.generator.openai.upstream import Upstream
from services.generator.patience import Patience
from services.generator.types import End, ModelEvent, Piece, Prompt, Request, Resume
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Usage

MAX_CHARACTER_TOKENS: Final = 4
_UNFINISHED: Final = "\ufffd"

S = TypeVar("S", bound=BaseModel)


class Continuing:
    """One answer by token ids."""

    def __init__(self, upstream: Upstream, options: Options, request: Request, patience: Patience) -> None:
        self._upstream, self._options, self._request = upstream, options, request
        self._patience = patience
        self._base = options.path.removesuffix("/v1")  # where vLLM's own endpoints are

    async def generate(self) -> AsyncGenerator[ModelEvent, None]:
        """Answer, or go on answering."""
        rendered = await self._ask("/tokenize", bodies.rendering(self._request, self._options.model), bodies.Rendered)
        context_tokens = rendered.max_model_len
        if self._request.resume is not None:
            answer = self._resume(self._request.resume, context_tokens)
        else:
            prompt = tuple(rendered.tokens)
            yield Prompt(prompt)
            answer = self._complete(prompt, (), self._limit(len(prompt), 0, context_tokens), Stops(()))
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _resume(self, resume: Resume, context_tokens: int) -> AsyncGenerator[ModelEvent, None]:
        prompt, output = resume.prompt_token_ids, resume.output_token_ids
        self._check(resume)
        limit = self._limit(len(prompt), len(output), context_tokens)
        text, again = await self._text(prompt, output)
        if resume.emitted_chars > len(text):
            raise _unusable(
                "resume.emitted_chars", f"is {resume.emitted_chars}, but the tokens have {len(text)} characters"
            )
        stops = Stops(self._request.sampling.stop, text[: resume.emitted_chars])
        yield Prompt(prompt)
        owed = stops.take(text[resume.emitted_chars :])
        if stops.found or limit <= 0:
            if owed := owed + stops.rest():
                yield Piece(owed)
            reason = FinishReason.STOP if stops.found else FinishReason.LENGTH
            yield End(reason, Usage(len(prompt) + len(output), 0))
            return
        if owed:
            yield Piece(owed)
        kept = output[: len(output) - again]
        async with aclosing(self._complete(prompt + kept, output[len(kept) :], limit + again, stops)) as events:
            async for event in events:
                yield event

    async def _complete(
        self, token_ids: tuple[int, ...], known: tuple[int, ...], max_tokens: int, stops: Stops
    ) -> AsyncGenerator[ModelEvent, None]:
        """Complete the ids. The first that come must be those that are `known`, and are passed over."""
        reading = Reading(self._upstream, self._request)
        body = bodies.completion(self._request, self._options.model, token_ids, max_tokens)
        waiting: tuple[int, ...] = ()  # ids that have no text yet
        given = 0
        path = f"{self._options.path}/completions"
        async with aclosing(reading.parts(path, body, self._patience)) as parts:
            async for part in parts:
                ids = part.token_ids[:-1] if _ends_the_answer(reading) else part.token_ids
                given += len(part.token_ids)
                known, fresh = self._passed_over(known, ids)
                waiting += fresh
                text = stops.take(part.text)
                if text:
                    yield Piece(text, waiting)
                    waiting = ()
                if stops.found:
                    break
        end = End(FinishReason.STOP, Usage(len(token_ids), given)) if stops.found else reading.end()
        if (rest := stops.rest()) or waiting:
            yield Piece(rest, waiting)
        yield end

    def _passed_over(self, known: tuple[int, ...], ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return what is still known of what is to come, and the ids that are new."""
        common = min(len(known), len(ids))
        if known[:common] != ids[:common]:
            raise self._upstream.garbled("the model went on otherwise than before; ask anew without `resume`")
        return known[common:], ids[common:]

    def _limit(self, prompt_tokens: int, output_tokens: int, context_tokens: int) -> int:
        """Return how many tokens may still come.

        Raises:
            WeftError: CONTEXT_TOO_LONG where the prompt leaves no room.
        """
        wanted = self._request.sampling.max_tokens
        room = context_tokens - prompt_tokens
        if room <= 0 or (wanted is not None and wanted > room):
            raise error(
                Reason.CONTEXT_TOO_LONG,
                f"the prompt has {prompt_tokens} tokens and the answer may have {wanted or 1}; the model takes "
                f"{context_tokens} together. Send fewer passages or lower max_tokens",
                prompt_tokens=prompt_tokens,
                max_tokens=wanted or 0,
                context_tokens=context_tokens,
            )
        return (room if wanted is None else wanted) - output_tokens

    def _check(self, resume: Resume) -> None:
        if not resume.prompt_token_ids:
            raise _unusable("resume.prompt_token_ids", "are empty")
        if self._request.json_schema is not None:
            raise error(
                Reason.RESUME_UNSUPPORTED,
                f"{self._upstream.name} can't continue an answer that must fit a JSON Schema: it would begin a new "
                "one. Ask again without `resume`",
                model=self._options.model,
            )

    async def _text(self, prompt: tuple[int, ...], output: tuple[int, ...]) -> tuple[str, int]:
        """Return the text of the answer so far, and how many of its last tokens are of a character not yet whole."""
        if not output:
            return "", 0
        before = await self._decoded(prompt)
        first = ""
        for again in range(min(MAX_CHARACTER_TOKENS, len(output)) + 1):
            whole = await self._decoded(prompt + output[: len(output) - again])
            text = whole[len(before) :]
            first = first or text
            if not text.endswith(_UNFINISHED):
                return text, again
        return first, 0  # the model means that sign

    async def _decoded(self, token_ids: tuple[int, ...]) -> str:
        body = {"model": self._options.model, "tokens": list(token_ids)}
        return (await self._ask("/detokenize", body, bodies.Decoded)).prompt

    async def _ask(self, path: str, body: dict[str, Any], shape: type[S]) -> S:
        return self._parsed(await self._upstream.ask("POST", self._base + path, self._patience, body), shape)

    def _parsed(self, raw: bytes, shape: type[S]) -> S:
        try:
            return shape.model_validate_json(raw)
        except ValidationError:
            raise self._upstream.garbled("ids or text of a prompt were asked for") from None


def _ends_the_answer(reading: Reading) -> bool:
    """Whether the last id is that of the token that ended the answer."""
    return reading.finish == "stop" and not isinstance(reading.stop_reason, str)


def _unusable(field: str, problem: str) -> WeftError:
    return error(Reason.INVALID_FIELD, f"{field}: {problem}; start the answer anew without `resume`", field=field)

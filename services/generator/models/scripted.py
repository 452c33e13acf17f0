"""`scripted:?…` says what it is told to, as slowly and as badly as it is told to: a model for tests and benchmarks.

    text            the answer. Default: numbered words, as many as `tokens`
    tokens          length of the answer; a given text is repeated or cut to it. Default: all of the text, or 16
    first_delay_ms  wait before the first token. Default: delay_ms
    delay_ms        wait before each token. Default 0
    fail_after      tokens after which it fails with MODEL_UNAVAILABLE; 0 fails before the first. Default: never
    hang_after      tokens after which it says nothing more until it is cancelled. Default: never
    resume          true or false: whether it can continue an interrupted answer. Default true
    chat            true or false: whether it is given messages made by a prompt template, and `[1]` in its text is
                    a citation, as with a chat model. Default false
    context_tokens  prompt and answer together; more is CONTEXT_TOO_LONG. Default 0, no limit
    kv_cache        share of its KV cache that it says is used, 0 to 1. Default: it has none

The answer does not depend on the prompt. Tokens are those of text/tokens.py; a token's id is the CRC-32 of its
text, so that any replica gives and reads the same ids. Resumed with the ids of its first tokens, an answer goes on
as the undisturbed one; other ids are refused. Where it was resumed it does not fail or hang again.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from mesh.plugins import Url
from services.generator.ports import ALONE, Surroundings
from services.generator.text.tokens import count, cut_at_stop, cut_at_tokens, tokens
from services.generator.types import Capabilities, End, ModelEvent, ModelLoad, Piece, Prompt, Request, Resume
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Usage

MAX_TOKENS: Final = 1_000_000
MAX_DELAY_MS: Final = 600_000
_DEFAULT_TOKENS: Final = 16
_NUMBERS: Final = ("tokens", "first_delay_ms", "delay_ms", "fail_after", "hang_after", "context_tokens")
_SWITCHES: Final = {"resume": True, "chat": False}
_NAMES: Final = ("text", "kv_cache", *_NUMBERS, *_SWITCHES)


@dataclass(frozen=True, slots=True)
class Script:
    """What to say, how slowly, and where to break."""

    text: str
    first_delay_s: float
    delay_s: float
    fail_after: int | None
    hang_after: int | None
    resume: bool
    chat: bool
    context_tokens: int
    kv_cache: float | None


def open(url: Url, surroundings: Surroundings = ALONE) -> Scripted:
    """Open the model that the URL describes."""
    return Scripted(_read(url))


def token_id(token: str) -> int:
    """Return the id of a token."""
    return zlib.crc32(token.encode())


class Scripted:
    """Says its script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._running = 0
        self.capabilities = Capabilities(
            backend="scripted",
            version="1",
            context_tokens=script.context_tokens,
            can_resume=script.resume,
            reads_passages=not script.chat,
        )

    async def start(self) -> None:
        """Nothing to load."""

    def load(self) -> ModelLoad:
        """Nothing waits inside of it."""
        return ModelLoad(running=self._running, kv_cache=self._script.kv_cache)

    async def close(self) -> None:
        """Nothing to let go of."""

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Say the script, from its beginning or from where the request's resume left it."""
        script, sampling = self._script, request.sampling
        prompt = [token for message in request.messages for token in tokens(message.content)]
        prompt += [token for passage in request.passages for token in tokens(passage.text)]
        self._check_context(len(prompt), sampling.max_tokens)
        unstopped = cut_at_stop(script.text, sampling.stop)
        text = cut_at_tokens(unstopped, sampling.max_tokens)
        answer = tokens(text)
        said, owed = _resumed(answer, request.resume)
        self._running += 1
        try:
            yield Prompt(tuple(map(token_id, prompt)))
            if owed:
                yield Piece(owed)
            for index in range(said, len(answer)):
                await asyncio.sleep(script.first_delay_s if index == said else script.delay_s)
                await self._break(index, said)
                yield Piece(answer[index], (token_id(answer[index]),))
            await self._break(len(answer), said)
        finally:
            self._running -= 1
        reason = FinishReason.LENGTH if len(text) < len(unstopped) else FinishReason.STOP
        yield End(reason, Usage(input_tokens=len(prompt) + said, output_tokens=len(answer) - said))

    async def _break(self, index: int, resumed_at: int) -> None:
        """Fail or hang before token `index` where the script says so, but not where an answer was resumed."""
        if index == resumed_at > 0:
            return
        if index == self._script.fail_after:
            raise error(Reason.MODEL_UNAVAILABLE, f"scripted: failed after {index} tokens, as told", tokens=index)
        if index == self._script.hang_after:
            await asyncio.Event().wait()

    def _check_context(self, prompt_tokens: int, max_tokens: int | None) -> None:
        limit = self._script.context_tokens
        wanted = prompt_tokens + (max_tokens or 0)
        if limit and wanted > limit:
            raise error(
                Reason.CONTEXT_TOO_LONG,
                f"the prompt has {prompt_tokens} tokens and the answer may have {max_tokens or 0}; "
                f"the model takes {limit} together. Send fewer passages or lower max_tokens",
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens or 0,
                context_tokens=limit,
            )


def _resumed(answer: Sequence[str], resume: Resume | None) -> tuple[int, str]:
    """Return how many tokens were given before, and the rest of their text that the caller doesn't have yet."""
    if resume is None:
        return 0, ""
    said = len(resume.output_token_ids)
    if tuple(map(token_id, answer[:said])) != resume.output_token_ids:
        raise _unusable("resume.output_token_ids", "are not the beginning of this model's answer")
    text = "".join(answer[:said])
    if resume.emitted_chars > len(text):
        raise _unusable(
            "resume.emitted_chars", f"is {resume.emitted_chars}, but the {said} tokens have {len(text)} characters"
        )
    return said, text[resume.emitted_chars :]


def _unusable(field: str, problem: str) -> WeftError:
    return error(Reason.INVALID_FIELD, f"{field}: {problem}; start the answer anew without `resume`", field=field)


def _read(url: Url) -> Script:
    for name in url.query:
        if name not in _NAMES:
            message = f"{url}: {name!r} is no parameter; there are: {', '.join(_NAMES)}"
            raise error(Reason.INVALID_FIELD, message, parameter=name)
    numbers = {name: _number(url, name) for name in _NUMBERS}
    switches = {name: _switch(url, name) for name in _SWITCHES}
    text = url.query.get("text", "")
    wanted = numbers["tokens"]
    if not text:
        text = " ".join(f"word{index + 1}" for index in range(_DEFAULT_TOKENS if wanted is None else wanted))
    elif wanted is not None and wanted > count(text):
        text = "".join(islice(cycle(tokens(" " + text)), wanted)).lstrip()
    delay_ms = numbers["delay_ms"] or 0
    first_delay_ms = numbers["first_delay_ms"]
    return Script(
        text=cut_at_tokens(text, wanted),
        first_delay_s=(delay_ms if first_delay_ms is None else first_delay_ms) / 1_000,
        delay_s=delay_ms / 1_000,
        fail_after=numbers["fail_after"],
        hang_after=numbers["hang_after"],
        resume=switches["resume"],
        chat=switches["chat"],
        context_tokens=numbers["context_tokens"] or 0,
        kv_cache=_share(url, "kv_cache"),
    )


def _switch(url: Url, name: str) -> bool:
    raw = url.query.get(name)
    if raw not in (None, "true", "false"):
        raise error(Reason.INVALID_FIELD, f"{url}: {name} is {raw!r}; allowed is true or false", parameter=name)
    return _SWITCHES[name] if raw is None else raw == "true"


def _number(url: Url, name: str) -> int | None:
    raw = url.query.get(name)
    if raw is None:
        return None
    high = MAX_DELAY_MS if name.endswith("_ms") else MAX_TOKENS
    if not raw.isascii() or not raw.isdigit() or int(raw) > high:
        raise error(Reason.INVALID_FIELD, f"{url}: {name} is {raw[:20]!r}; allowed is 0 to {high}", parameter=name)
    return int(raw)


def _share(url: Url, name: str) -> float | None:
    raw = url.query.get(name)
    if raw is None:
        return None
    if not re.fullmatch(r"0(\.[0-9]{1,6})?|1(\.0{1,6})?", raw):
        raise error(Reason.INVALID_FIELD, f"{url}: {name} is {raw[:20]!r}; allowed is 0 to 1", parameter=name)
    return float(raw)

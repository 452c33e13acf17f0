"""`extractive:` answers in sentences of the passages, word for word, and says so when they hold no answer.

It needs no weights, no network and no memory between calls, and it cannot make anything up: each sentence
carries the citation of the passage that it was taken from. Results of tools come first. The question is the last
message of the user; where it asks several things, each is looked for by itself, and what a tool has answered is
not looked for again.

    question -> terms -> sentences ranked (text/grounding.py) -> one to three of them, best first
                                    none good enough, no tool spoke -> ABSTAINED

Usage is counted by text/tokens.py. Temperature and its kin mean nothing here and are passed over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Final, TypeVar

from mesh.plugins import Url
from services.generator.text import parts, terms, tokens
from services.generator.text.answer import Draft
from services.generator.text.grounding import THRESHOLD, Candidate, Grounding
from services.generator.text.sentences import Sentence
from services.generator.types import (
    Capabilities,
    End,
    FinishReason,
    Message,
    ModelEvent,
    Passage,
    Piece,
    Request,
    Role,
    Usage,
)
from weft.errors import Reason, error

MAX_SENTENCES: Final = 3
NEAR_BEST: Final = 0.75  # a further sentence is worth saying if it scores this share of the best one's score
NEAR_SHARE: Final = 0.6  # and speaks by itself of this share of what the best one speaks of
MIN_OPEN_SHARE: Final = 0.5  # share of a question that tools must have left open for passages to be asked
SLICE_CHARS: Final = 16_384  # of passages read before other calls get their turn: about 2 ms

T = TypeVar("T")

_QUOTED = re.compile(r"“[^”]*”")  # what a tool quotes, the question say, it did not find out

_ABSTENTION_EN: Final = "The documents hold no answer to this question."
_ABSTENTION_ZH: Final = "文档中没有这个问题的答案。"


def open(url: Url) -> Extractive:
    """Open the model. The URL has no parameters."""
    if url.raw != "extractive:":
        raise error(Reason.INVALID_FIELD, f"{url}: extractive: takes no parameters; write just 'extractive:'", url=url)
    return Extractive()


class Extractive:
    """Answers in sentences of the passages."""

    capabilities = Capabilities(backend="extractive", version="1")

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request."""
        draft = Draft()
        question, results = _question(request.messages)
        for result in results:
            draft.say(result.content)
        for candidate in await _choose(request, question, results):
            draft.cite(request.passages[candidate.passage], candidate.sentence)
        reason = FinishReason.STOP
        if not draft.text:
            reason = FinishReason.ABSTAINED
            draft.say(_ABSTENTION_ZH if any(map(terms.is_cjk, question)) else _ABSTENTION_EN)
        if draft.cut(request.sampling.stop, request.sampling.max_tokens):
            reason = FinishReason.LENGTH
        output_tokens = 0
        for piece, length in tokens.phrases(draft.text):
            output_tokens += length
            yield Piece(piece)
        yield End(reason, Usage(await _input_tokens(request), output_tokens), draft.citations)


def _question(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """Return the last message of the user, and the tools' results behind it.

    A question that names nothing ("And why?") is read together with the one before.
    """
    asked = [index for index, message in enumerate(messages) if message.role is Role.USER]
    if not asked:
        return "", [message for message in messages if message.role is Role.TOOL]
    question = messages[asked[-1]].content
    if len(asked) > 1 and not terms.read(question).terms:
        question = f"{messages[asked[-2]].content}\n{question}"
    return question, [message for message in messages[asked[-1] :] if message.role is Role.TOOL]


async def _choose(request: Request, question: str, results: Sequence[Message]) -> list[Candidate]:
    """Return the sentences to say: those near the best, or for a question of several parts the best of each."""
    asked = parts.parts(question)
    if len(asked) > 1 and not results:
        asked.insert(0, question)
    said = _QUOTED.sub(" ", " ".join(f"{result.name} {result.content}" for result in results))
    chosen: dict[tuple[int, Sentence], Candidate] = {}
    for part in asked:
        read = terms.read(part)
        if said and not _still_open(read, said):
            continue
        ranked = await _rank(read, request.passages)
        good = [candidate for candidate in ranked if candidate.score >= THRESHOLD]
        if not request.grounded_only and not results:
            good = good or ranked[:1]
        near = good[:1] + [candidate for candidate in good[1:] if _adds(candidate, good[0])]
        for candidate in near if len(asked) == 1 else near[:1]:
            chosen.setdefault((candidate.passage, candidate.sentence), candidate)
    return list(chosen.values())[:MAX_SENTENCES]


def _adds(candidate: Candidate, best: Candidate) -> bool:
    """Whether a sentence that is not the best is worth saying too."""
    return candidate.score >= NEAR_BEST * best.score and candidate.share >= NEAR_SHARE * best.share


def _still_open(question: terms.Question, said: str) -> bool:
    """Whether a question speaks of more than what the tools have said."""
    answered = terms.Matcher(question.terms).find(said, 0, len(said))
    left = sum(term.weight for index, term in enumerate(question.terms) if index not in answered)
    return left > MIN_OPEN_SHARE * sum(term.weight for term in question.terms)


async def _rank(question: terms.Question, passages: Sequence[Passage]) -> list[Candidate]:
    if not question.terms:
        return []
    grounding = Grounding(question)
    async for passage in _paced(passages, lambda passage: len(passage.text)):
        grounding.add(passage.text, f"{passage.title}\n{passage.section}")
    return grounding.rank()


async def _input_tokens(request: Request) -> int:
    texts = [message.content for message in request.messages] + [passage.text for passage in request.passages]
    return sum([tokens.count(text) async for text in _paced(texts, len)])


async def _paced(items: Iterable[T], length: Callable[[T], int]) -> AsyncIterator[T]:
    """Yield the items, and let other calls have their turn after each SLICE_CHARS."""
    spent_chars = 0
    for item in items:
        if spent_chars >= SLICE_CHARS:
            spent_chars = 0
            await asyncio.sleep(0)
        spent_chars += length(item)
        yield item

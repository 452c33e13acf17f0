"""`extractive:` answers in sentences of the passages, word for word, and says so when they hold no answer.

It needs no weights and no network, keeps nothing between calls but how it read the last passages, and cannot make
anything up: each sentence carries the citation of the passage that it was taken from. Results of tools come first.
The question is the last message of the user; where it asks several things, each is looked for by itself, and what
a tool has answered is not looked for again.

    question -> terms -> sentences ranked (text/grounding.py) -> one to three of them, best first
                                    none good enough, no tool spoke -> ABSTAINED

The conversation before it is not read, but for what was answered already. What a follow-up is about comes as the
request's `query`, the question as it was searched: terms that only the query has are the question's context. They say
which "it" is meant and answer nothing themselves (text/terms.py, text/followup.py). A listing is quoted only to who
asks for code, a command, an example or how to do something, and only where no sentence answers.

Usage is counted by text/tokens.py. Temperature and its kin mean nothing here and are passed over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from mesh.plugins import Url
from services.generator.ports import ALONE, Surroundings
from services.generator.text import parts, passages, terms, tokens
from services.generator.text.abstention import abstention
from services.generator.text.answer import Draft
from services.generator.text.followup import going_on
from services.generator.text.grounding import THRESHOLD, Candidate, Grounding
from services.generator.text.sentences import Kind, Sentence
from services.generator.types import (
    Capabilities,
    End,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Request,
    Role,
)
from weft.errors import Reason, error
from weft.values import FinishReason, Passage, Usage

MAX_SENTENCES: Final = 3
NEAR_BEST: Final = 0.75  # a further sentence is worth saying if it scores this share of the best one's score
NEAR_SHARE: Final = 0.6  # and speaks by itself of this share of what the best one speaks of
MIN_OPEN_SHARE: Final = 0.5  # share of a question that tools must have left open for passages to be asked
SLICE_CHARS: Final = 16_384  # of passages read before other calls get their turn: about 2 ms

T = TypeVar("T")

_QUOTED = re.compile(r"“[^”]*”")  # what a tool quotes, the question say, it did not find out


def open(url: Url, surroundings: Surroundings = ALONE) -> Extractive:
    """Open the model. The URL has no parameters."""
    if url.raw != "extractive:":
        raise error(Reason.INVALID_FIELD, f"{url}: extractive: takes no parameters; write just 'extractive:'", url=url)
    return Extractive()


class Extractive:
    """Answers in sentences of the passages."""

    capabilities = Capabilities(backend="extractive", version="1", can_repeat=True, reads_passages=True)

    def __init__(self) -> None:
        self._read_passage = passages.reader()

    async def start(self) -> None:
        """Nothing to load."""

    def load(self) -> ModelLoad:
        """Nothing waits inside of it."""
        return ModelLoad()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer one request."""
        draft = Draft()
        asked = _read(request)
        for result in asked.results:
            draft.say(result.content)
        for candidate in await _choose(request, asked, self._read_passage):
            draft.cite(request.passages[candidate.passage], candidate.sentence)
        reason = FinishReason.STOP
        if not draft.text:
            reason = FinishReason.ABSTAINED
            draft.say(abstention(asked.question))
        if draft.cut(request.sampling.stop, request.sampling.max_tokens):
            reason = FinishReason.LENGTH
        output_tokens = 0
        for piece, length in tokens.phrases(draft.text):
            output_tokens += length
            yield Piece(piece)
        input_tokens = await _input_tokens(request, self._read_passage)
        yield End(reason, Usage(input_tokens, output_tokens), draft.citations)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, out of a conversation."""

    question: str
    """The user's last message."""
    context: Sequence[terms.Term]
    """What it is about and doesn't say itself."""
    results: Sequence[Message]
    """What tools found out about it."""
    answered: str
    """What earlier answers have said."""


def _read(request: Request) -> Asked:
    messages = request.messages
    users = [index for index, message in enumerate(messages) if message.role is Role.USER]
    if not users:
        return Asked("", (), [message for message in messages if message.role is Role.TOOL], "")
    last = users[-1]
    question, query = messages[last].content, request.query
    if not query and len(users) > 1 and not terms.read(question).terms:  # "And why?"
        query = messages[users[-2]].content
    answers = [message.content for message in messages[:last] if message.role is Role.ASSISTANT]
    return Asked(
        question,
        terms.context(question, query) if query else (),
        [message for message in messages[last:] if message.role is Role.TOOL],
        "\n".join(answers),
    )


async def _choose(request: Request, asked: Asked, reader: passages.Read) -> list[Candidate]:
    """Return the sentences to say: those near the best, or for a question of several parts the best of each."""
    questions = parts.parts(asked.question)
    if len(questions) > 1 and not asked.results:
        questions.insert(0, asked.question)
    said = _QUOTED.sub(" ", " ".join(f"{result.name} {result.content}" for result in asked.results))
    chosen: dict[tuple[int, Sentence], Candidate] = {}
    for question in questions:
        if said and not _still_open(terms.read(question), said):
            continue
        good = await _answers(request, question, asked, reader)
        near = good[:1] + [candidate for candidate in good[1:] if _adds(candidate, good[0])]
        for candidate in near if len(questions) == 1 else near[:1]:
            chosen.setdefault((candidate.passage, candidate.sentence), candidate)
    return list(chosen.values())[:MAX_SENTENCES]


async def _answers(request: Request, question: str, asked: Asked, reader: passages.Read) -> list[Candidate]:
    """Return the sentences that answer a question, best first."""
    read = terms.read(question)
    ranked = await _rank(read.about(asked.context), request.passages, reader)
    good = _good(ranked)
    if asked.context:
        if not good and not read.telling:
            ranked = await _rank(replace(read, terms=()).about(asked.context), request.passages, reader)
            good = _good(ranked)
        good = going_on(question, read, good, asked.answered, lambda candidate: _quote(request, candidate))
    if not good and not request.grounded_only and not asked.results:
        return ranked[:1]
    return good


def _good(ranked: list[Candidate]) -> list[Candidate]:
    """Those that answer; listings only where nothing else does."""
    good = [candidate for candidate in ranked if candidate.score >= THRESHOLD]
    return [candidate for candidate in good if candidate.sentence.kind is not Kind.CODE] or good


def _quote(request: Request, candidate: Candidate) -> str:
    return request.passages[candidate.passage].text[candidate.sentence.start : candidate.sentence.end]


def _adds(candidate: Candidate, best: Candidate) -> bool:
    """Whether a sentence that is not the best is worth saying too."""
    return candidate.score >= NEAR_BEST * best.score and candidate.share >= NEAR_SHARE * best.share


def _still_open(question: terms.Question, said: str) -> bool:
    """Whether a question speaks of more than what the tools have said."""
    answered = terms.Matcher(question.terms).find(said, 0, len(said))
    left = sum(term.weight for index, term in enumerate(question.terms) if index not in answered)
    return left > MIN_OPEN_SHARE * sum(term.weight for term in question.terms)


async def _rank(question: terms.Question, given: Sequence[Passage], reader: passages.Read) -> list[Candidate]:
    if not question.terms:
        return []
    grounding = Grounding(question, reader)
    async for passage in _paced(given, lambda passage: len(passage.text)):
        document = passage.name.partition("/chunks/")[0]
        grounding.add(passage.text, passage.title, passage.section, document)
    return grounding.rank()


async def _input_tokens(request: Request, reader: passages.Read) -> int:
    told = sum([tokens.count(message.content) async for message in _paced(request.messages, lambda m: len(m.content))])
    return told + sum(
        [reader(passage.text).tokens async for passage in _paced(request.passages, lambda p: len(p.text))]
    )


async def _paced(items: Iterable[T], length: Callable[[T], int]) -> AsyncIterator[T]:
    """Yield the items, and let other calls have their turn after each SLICE_CHARS."""
    spent_chars = 0
    for item in items:
        if spent_chars >= SLICE_CHARS:
            spent_chars = 0
            await asyncio.sleep(0)
        spent_chars += length(item)
        yield item

"""Which sentences of some passages answer a question, and whether any does.

There is no model here, only counting, so the question asked is a modest one: *do the passages speak of everything
that the question speaks of, and close together?* Each term of the question weighs what it is worth by itself (see
`terms`) times its rarity among the sentences at hand; a term that none of them holds is the rarest. For each sentence

    share    = 0.4 · sentence + 0.2 · sentence with its neighbours and heading + 0.4 · passage with its title
    missing  = names and numbers of the question that the passage doesn't hold
    score    = (share − 0.7 · missing) · (weight of all terms) ^ 0.3

where each part is a share of the question's weight. The last factor lets a long question be answered by a smaller
share of it: three terms of eight found together are no accident, one of three may be. A score of THRESHOLD or more
grounds an answer.

The weights and the threshold were chosen on half of XQuAD's articles; benchmarks/grounding.py measures on the other
half. What was tried and dropped, for it moved nothing: telling the kind of answer (a date for "when", a number for
"how many"), and separate thresholds for English and Chinese.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.generator.text.sentences import Kind, Sentence, split
from services.generator.text.terms import COMMON_WEIGHT, Matcher, Question

THRESHOLD: Final = 0.44
SENTENCE_SHARE: Final = 0.4
NEIGHBOUR_SHARE: Final = 0.2
PASSAGE_SHARE: Final = 0.4
MISSING_NAME_COST: Final = 0.7
LENGTH_EXPONENT: Final = 0.3
CHANCE_FACTOR: Final = 0.5  # one word in common is chance, unless it is all that was asked for
MAIN_TERM_SHARE: Final = 0.7
DEFINITION_BONUS: Final = 0.2
MAX_SUBJECT_CHARS: Final = 80
CODE_FACTOR: Final = 0.8  # a listing answers, but a sentence that says the same reads better

_SAYS_WHAT_IS = re.compile(r"\b(?:is|are|was|were|means|refers)\b|是|指")

Found: TypeAlias = dict[int, float]  # index of a term -> how surely it is there, 0 to 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may answer."""

    passage: int
    """Index of its passage."""
    sentence: Sentence
    score: float
    share: float
    """How much of the question the sentence speaks of by itself, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ReadSentence:
    """A sentence and the terms in it and around it."""

    sentence: Sentence
    terms: Found
    context: Found
    """Of the sentence, the one before, the one after, and the heading or question above."""
    defines: bool
    """Whether it says what the thing is that the question asks for."""


@dataclass(frozen=True, slots=True)
class ReadPassage:
    """A passage that was searched for the terms of a question."""

    sentences: tuple[ReadSentence, ...]
    terms: Found
    """Of all its sentences, its title and its section."""
    sentences_in_all: int


class Grounding:
    """Searches passages for one question, one after the other, then ranks their sentences."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._matcher = Matcher(question.terms)
        self._passages: list[ReadPassage] = []

    def add(self, text: str, around: str) -> None:
        """Search the next passage; `around` is what stands above it: title and section."""
        spans = split(text)
        found = [self._matcher.find(text, span.start, span.end) for span in spans]
        everything = _union((self._matcher.find(around, 0, len(around)), *found))
        lead_only = [not _can_answer(text, span) for span in spans]
        sentences: list[ReadSentence] = []
        above: Found = {}
        for index, span in enumerate(spans):
            if lead_only[index]:
                above = found[index]
                if not all(lead_only):
                    continue
            context = _union((above, *found[max(0, index - 1) : index + 2]))
            if context:
                defines = self._question.asks_what_is and self._defines(text, span)
                sentences.append(ReadSentence(span, found[index], context, defines))
        self._passages.append(ReadPassage(tuple(sentences), everything, len(spans)))

    def rank(self) -> list[Candidate]:
        """Return the sentences that have to do with the question, best first; of equals, the better passage's."""
        terms = self._question.terms
        weights = self._weights()
        total = sum(weights)
        scale = total ** (LENGTH_EXPONENT - 1) if total else 0.0
        ranked: list[Candidate] = []
        for index, passage in enumerate(self._passages):
            missing = sum(weights[i] for i, term in enumerate(terms) if term.proper and i not in passage.terms)
            whole = PASSAGE_SHARE * _covered(weights, passage.terms) - MISSING_NAME_COST * missing
            trust = scale * (CHANCE_FACTOR if self._by_chance(passage) else 1.0)
            for read in passage.sentences:
                own = _covered(weights, read.terms)
                share = whole + SENTENCE_SHARE * own
                share += NEIGHBOUR_SHARE * _covered(weights, read.context)
                share += DEFINITION_BONUS * total if read.defines else 0.0
                factor = trust * (CODE_FACTOR if read.sentence.kind is Kind.CODE else 1.0)
                ranked.append(Candidate(index, read.sentence, factor * share, own / total if total else 0.0))
        ranked.sort(key=lambda candidate: -candidate.score)
        return ranked

    def _by_chance(self, passage: ReadPassage) -> bool:
        """Whether the passage shares but one word with the question, and not the one that it is about."""
        if len(passage.terms) != 1:
            return False
        shared = self._question.terms[next(iter(passage.terms))].weight
        return shared <= COMMON_WEIGHT or shared < MAIN_TERM_SHARE * sum(term.weight for term in self._question.terms)

    def _defines(self, text: str, span: Sentence) -> bool:
        """Whether the sentence begins with all that is asked for and then says what it is."""
        verb = _SAYS_WHAT_IS.search(text, span.start, min(span.end, span.start + MAX_SUBJECT_CHARS))
        return verb is not None and len(self._matcher.find(text, span.start, verb.start())) == len(self._question.terms)

    def _weights(self) -> list[float]:
        """Weigh each term by itself and by its rarity among the sentences."""
        terms = self._question.terms
        holding = [0] * len(terms)
        for passage in self._passages:
            for read in passage.sentences:
                for index in read.terms:
                    holding[index] += 1
        count = sum(passage.sentences_in_all for passage in self._passages) or 1
        rarest = math.log(1 + count / 0.5)
        return [term.weight * math.log(1 + count / (holding[i] + 0.5)) / rarest for i, term in enumerate(terms)]


def _can_answer(text: str, span: Sentence) -> bool:
    """Headings and questions lead to an answer; they are none."""
    return span.kind is not Kind.HEADING and text[span.end - 1] not in "?？"


def _covered(weights: Sequence[float], found: Found) -> float:
    return sum(weights[index] * sureness for index, sureness in found.items())


def _union(parts: Iterable[Found]) -> Found:
    together: Found = {}
    for part in parts:
        for index, sureness in part.items():
            if sureness > together.get(index, 0.0):
                together[index] = sureness
    return together

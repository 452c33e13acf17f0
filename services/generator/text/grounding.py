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

Of a question with a context (see `terms.Question.about`) only a sentence answers that speaks, itself or in the heading
above it, of something that the question itself asks; a document that shows nothing of the context shares a word by
chance. Listings are looked at where the question asks for code, and what they hold counts for themselves alone: a
string or a name in one is nothing that the text around it says.

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

from services.generator.text import passages
from services.generator.text.passages import PassageText
from services.generator.text.sentences import Kind, Sentence
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
# A table's row or a listing answers, but a sentence that says the same reads better.
KIND_FACTORS: Final = {Kind.PROSE: 1.0, Kind.HEADING: 1.0, Kind.TABLE: 0.85, Kind.CODE: 0.8}

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
    """How much of what the question itself asks the sentence speaks of by itself, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ReadSentence:
    """A sentence and the terms in it and around it."""

    sentence: Sentence
    terms: Found
    context: Found
    """Of the sentence, the one before, the one after, and what heads it; of a listing, all around it."""
    defines: bool
    """Whether it says what the thing is that the question asks for."""


@dataclass(frozen=True, slots=True)
class ReadPassage:
    """A passage that was searched for the terms of a question."""

    sentences: tuple[ReadSentence, ...]
    terms: Found
    """Of all its sentences, its title and its section."""
    sentences_in_all: int
    document: str


class Grounding:
    """Searches passages for one question, one after the other, then ranks their sentences."""

    def __init__(self, question: Question, read: passages.Read = passages.read) -> None:
        self._question, self._read = question, read
        self._matcher = Matcher(question.terms)
        self._passages: list[ReadPassage] = []
        self._context = frozenset(index for index, term in enumerate(question.terms) if term.context)

    def add(self, text: str, title: str = "", section: str = "", document: str = "") -> None:
        """Search the next passage; `section` are the headings above it."""
        passage, for_code = self._read(text), self._question.asks_for_code
        spans, lead_only = passage.spans, passage.lead_only
        found = self._found(passage, with_listings=for_code)
        above = self._matcher.find(section, 0, len(section)) if section else {}
        everything = _union((self._matcher.find(title, 0, len(title)) if title else {}, above, *found))
        sentences: list[ReadSentence] = []
        for index, span in enumerate(spans):
            if lead_only[index]:
                above = found[index]
                if not all(lead_only):
                    continue
            if self._context and self._context.issuperset(found[index]) and self._context.issuperset(above):
                continue
            context = _union((above, *found[max(0, index - 1) : index + 2]))
            if context:
                defines = self._question.asks_what_is and self._defines(text, span)
                sentences.append(ReadSentence(span, found[index], context, defines))
        for span in passage.listings if for_code else ():
            if held := self._matcher.find(text, span.start, span.end):
                sentences.append(ReadSentence(span, held, _union((everything, held)), defines=False))
        self._passages.append(ReadPassage(tuple(sentences), everything, len(spans), document))

    def _found(self, passage: PassageText, *, with_listings: bool) -> list[Found]:
        """What each sentence holds."""
        matcher, text = self._matcher, passage.text
        pairs, nothing, found = matcher.pairs_in(text), matcher.beginnings.isdisjoint, list[Found]()
        for span, read in zip(passage.spans, passage.words, strict=True):
            if with_listings and span.listing_start is not None:
                found.append(matcher.find(text, span.start, span.end))
            elif pairs or not nothing(read.beginnings):
                end = span.listing_start or span.end
                found.append(matcher.find_in(read.words, text, span.start, end, pairs))
            else:
                found.append({})
        return found

    def rank(self) -> list[Candidate]:
        """Return the sentences that have to do with the question, best first; of equals, the better passage's."""
        weights = self._weights()
        total = sum(weights)
        scale = total ** (LENGTH_EXPONENT - 1) if total else 0.0
        ranked: list[Candidate] = []
        about_it = self._about_the_context()
        for index, passage in enumerate(self._passages):
            by_chance = passage.document not in about_it or self._by_chance(passage)
            trust = scale * (CHANCE_FACTOR if by_chance else 1.0)
            whole_of_passage = self._whole(weights, passage.terms)
            for read in passage.sentences:
                kind = read.sentence.kind
                whole = self._whole(weights, read.context) if kind is Kind.CODE else whole_of_passage
                own = _covered(weights, read.terms)
                asked = own
                if self._context:
                    asked -= sum(weights[i] * sure for i, sure in read.terms.items() if i in self._context)
                share = whole + SENTENCE_SHARE * own
                share += NEIGHBOUR_SHARE * _covered(weights, read.context)
                share += DEFINITION_BONUS * total if read.defines else 0.0
                score = trust * KIND_FACTORS[kind] * share
                ranked.append(Candidate(index, read.sentence, score, asked / total if total else 0.0))
        ranked.sort(key=lambda candidate: -candidate.score)
        return ranked

    def _whole(self, weights: Sequence[float], found: Found) -> float:
        """What a passage is worth to each of its sentences."""
        proper = (index for index, term in enumerate(self._question.terms) if term.proper)
        missing = sum(weights[index] for index in proper if index not in found)
        return PASSAGE_SHARE * _covered(weights, found) - MISSING_NAME_COST * missing

    def _about_the_context(self) -> set[str]:
        """Documents that show something of the question's context; all where it has none."""
        return {
            passage.document
            for passage in self._passages
            if not self._context or not self._context.isdisjoint(passage.terms)
        }

    def _by_chance(self, passage: ReadPassage) -> bool:
        """Whether the passage shares but one word with the question, and not the one that it is about."""
        if len(passage.terms) != 1:
            return False
        shared = self._question.terms[next(iter(passage.terms))].weight
        asked = sum(term.weight for term in self._question.terms if not term.context)
        return shared <= COMMON_WEIGHT or shared < MAIN_TERM_SHARE * asked

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


def _covered(weights: Sequence[float], found: Found) -> float:
    covered = 0.0
    for index, sureness in found.items():
        covered += weights[index] * sureness
    return covered


def _union(parts: Iterable[Found]) -> Found:
    together: Found = {}
    for part in parts:
        for index, sureness in part.items():
            if sureness > together.get(index, 0.0):
                together[index] = sureness
    return together

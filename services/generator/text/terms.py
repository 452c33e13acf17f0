"""The words of a question, and where a text holds them.

A *term* is what a question is about: an English word less its ending ("explored" and "explorers" meet in
"explor"), a number, or two neighbouring Chinese characters (Chinese has no spaces, and two characters are its
usual word). Words that only ask or join ("which", "of", 什么, 的) are no terms. Words that any text is full
of ("year", "people", 国家) weigh little.

A question that leans on an earlier one ("And when does it close?") is asked *about* what that one was about
("library", "open"). Its own terms lead, and those of its context, all together, are worth half as much at the most:
enough to tell the library that closes from the shop that does, too little to find the hour when it opens.

The question is read once. Then each word of a passage costs a look-up in a small table, and only words that
begin like a term are stemmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.generator.text.words import CJK_COMMON, CJK_FUNCTION, COMMON, STOP

CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
WORD = re.compile(rf"[{CJK}]+|[0-9]+(?:[.,:][0-9]+)*(?![^\W_{CJK}])|[^\W_{CJK}]+(?:['’][^\W_{CJK}]+)*")

_ASCII_WORD = re.compile(r"[a-z][a-z0-9]*(?:'[a-z0-9]+)*|[0-9]+(?:[.,:][0-9]+)*(?![a-z0-9])|[a-z0-9]+(?:'[a-z0-9]+)*")

_ASKING = re.compile(
    "为什么|什么时候|什么样|什么|多少|哪一年|哪一个|哪一种|哪一|哪些|哪个|哪里|哪儿|哪年|哪位|哪种|哪座|哪|何时|何地|何处|何人|为何|如何|怎么样|怎么|怎样|"
    "几点钟?|几[天年月号个次]|多长|多久|多大|多远|多高|是否|是不是|有没有|请问|告诉|谁|几|吗|呢|吧|何"
    r"|(?<=\b[Hh]ow )(?:long|often|far|old|large|big|fast|deep|tall|wide|heavy)\b"
)
_CODE_WORDS: Final = frozenset(
    ("code", "command", "commands", "example", "examples", "script", "snippet", "snippets", "syntax", "usage")
)
_HOW_TO = re.compile(r"\bhow (?:to|(?:do|can|could|should|would|might) (?:i|you|we|one))\b", re.IGNORECASE)
_CJK_CODE = re.compile("代码|命令|示例|例子|脚本|语法|用法|如何|怎么|怎样")
_WHAT_IS = re.compile(r"^\W*(?:what|who)(?:['’]s| is| are| was| were) (?!the .* of )|什么是|是什么|是谁", re.IGNORECASE)
_ENDINGS: Final = (
    *("ations", "ation", "ments", "ment", "ingly", "edly", "ness", "ings", "ing", "ions", "ion", "ies", "ied"),
    *("ers", "ors", "ed", "es", "er", "or", "ly", "al", "s", "e", "y"),
)
_ENDINGS_BY_LAST: Final = {
    last: tuple(ending for ending in _ENDINGS if ending[-1] == last) for last in {ending[-1] for ending in _ENDINGS}
}
MAX_TERMS: Final = 64
MIN_STEM_CHARS: Final = 3
_MIN_KIN_CHARS: Final = 4
_MAX_KIN_ENDING_CHARS: Final = 3
COMMON_WEIGHT: Final = 0.4
CONTEXT_WEIGHT: Final = 0.3  # of a term of the context, as a share of its own…
MAX_CONTEXT_SHARE: Final = 0.5  # …and of all of them, as a share of the question's own terms
CONTEXT_FADING: Final = 0.85  # of each further term's weight: what was spoken of last comes first
KIN: Final = 0.6


def stem(word: str) -> str:
    """Cut a lower-case English word down to what its forms have in common."""
    if word.endswith(("'s", "’s")):
        word = word[:-2]
    if len(word) <= MIN_STEM_CHARS or not word.isascii():
        return word
    if len(word) == MIN_STEM_CHARS + 1 and word.endswith("ied"):  # died, tied
        return word[:-1]
    for ending in _ENDINGS_BY_LAST.get(word[-1], ()):
        if word.endswith(ending) and len(word) - len(ending) >= MIN_STEM_CHARS:
            if ending == "s" and word[-2] in "su":
                break
            word = word[: -len(ending)]
            break
    if len(word) > MIN_STEM_CHARS and word[-1] == word[-2] and word[-1] not in "aeiousl":
        word = word[:-1]
    return word


_COMMON_STEMS = frozenset(stem(word) for word in COMMON)


def is_cjk(char: str) -> bool:
    """Whether a character is written without spaces around its words."""
    return "\u3040" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or "\uac00" <= char <= "\ud7af"


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that a question is about."""

    key: str
    """The stem, the number, or the two characters."""
    weight: float
    """What finding it is worth before rarity is known, above 0 to 1."""
    proper: bool
    """Whether it is a name or a number: a passage about another one doesn't answer."""
    context: bool = False
    """Whether an earlier question spoke of it, and this one doesn't."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, read."""

    terms: tuple[Term, ...]
    """Each once, in their order."""
    asks_what_is: bool
    """Whether it asks for a definition: "What is an epoch?", 什么是纪元？"""
    asks_for_code: bool
    """Whether a listing may answer: "How do I…", "Which command…", 如何…"""

    @property
    def telling(self) -> bool:
        """Whether it says by itself what to look for, in more than words that any text is full of."""
        return any(term.weight > COMMON_WEIGHT and not term.context for term in self.terms)

    def about(self, context: Sequence[Term]) -> Question:
        """The same question, asked about something.

        Where its own terms are common words, they count as others would: with the context they tell what is asked. A
        question without terms of its own asks for all of the context.
        """
        told = [term for term in context if term.weight > COMMON_WEIGHT] or context
        if not told:
            return self
        if not self.terms:
            return replace(self, terms=tuple(told))
        rise = 1.0 if self.telling else 1.0 / max(term.weight for term in self.terms)
        own = [replace(term, weight=rise * term.weight) for term in self.terms]
        weights = [term.weight * CONTEXT_FADING**place for place, term in enumerate(told)]
        share = min(CONTEXT_WEIGHT, MAX_CONTEXT_SHARE * sum(term.weight for term in own) / sum(weights))
        added = (replace(t, weight=share * weight, context=True) for t, weight in zip(told, weights, strict=True))
        return replace(self, terms=(*own, *added)[:MAX_TERMS])


def read(question: str) -> Question:
    """Read a question; of a long one the first MAX_TERMS terms."""
    terms: dict[str, Term] = {}
    for_code = _CJK_CODE.search(question) is not None
    first = True  # a capital at the beginning says nothing
    for match in WORD.finditer(_ASKING.sub(" ", question)):
        if len(terms) >= MAX_TERMS:
            break
        word = match.group()
        if is_cjk(word[0]):
            for pair in [word[i : i + 2] for i in range(len(word) - 1)] or [word]:
                if weight := _cjk_weight(pair):
                    terms.setdefault(pair, Term(pair, weight, proper=False))
            continue
        lower = word.lower()
        proper = word[0].isdigit() or not lower.endswith(word[1:] if first else word)
        lower = lower.replace("’", "'")
        for_code = for_code or lower in _CODE_WORDS or (lower == "how" and _HOW_TO.search(question) is not None)
        first = False
        if lower in STOP:
            continue
        key = stem(lower)
        weight = COMMON_WEIGHT if not proper and key in _COMMON_STEMS else 1.0
        terms.setdefault(key, Term(key, weight, proper))
    return Question(
        tuple(terms.values())[:MAX_TERMS],
        asks_what_is=_WHAT_IS.search(question) is not None,
        asks_for_code=for_code,
    )


def context(question: str, query: str) -> list[Term]:
    """Return the terms that a question's completed form adds to it."""
    own = {term.key for term in read(question).terms}
    return [term for term in read(query).terms if term.key not in own]


def words(text: str) -> frozenset[str]:
    """Return the words of a text, in small letters; of Chinese the pairs of characters."""
    found: set[str] = set()
    for word in WORD.findall(text.lower()):
        if is_cjk(word[0]) and len(word) > 1:
            found.update(word[i : i + 2] for i in range(len(word) - 1))
        else:
            found.add(word)
    return frozenset(found)


def words_of(text: str) -> list[str]:
    """Return the words of a text in their order, in small letters, as ``Matcher`` looks at them."""
    lower = text.lower()
    return (_ASCII_WORD if lower.isascii() else WORD).findall(lower)


def _cjk_weight(pair: str) -> float:
    functional = sum(char in CJK_FUNCTION for char in pair)
    if functional == len(pair):
        return 0.0
    weight = 0.25 if functional else 1.0 if len(pair) == 2 else 0.5
    return weight * COMMON_WEIGHT if pair in CJK_COMMON else weight


class Matcher:
    """Finds the terms of one question in many texts."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._pairs = [(index, term.key) for index, term in enumerate(terms) if is_cjk(term.key[0])]
        self._stems = {term.key: index for index, term in enumerate(terms) if not is_cjk(term.key[0])}
        self.beginnings = frozenset(key[:MIN_STEM_CHARS] for key in self._stems)
        self._known: dict[str, tuple[int, float] | None] = {}

    def pairs_in(self, text: str) -> list[tuple[int, str]]:
        """The Chinese terms that a text holds, so that no others are looked for in its sentences."""
        return [pair for pair in self._pairs if pair[1] in text]

    def find(self, text: str, start: int, end: int) -> dict[int, float]:
        """Return for each term that the span holds how surely it does: 1.0, or KIN for a word of the same family."""
        return self.find_in(words_of(text[start:end]) if self._stems else (), text, start, end, self._pairs)

    def find_in(
        self, words: Iterable[str], text: str, start: int, end: int, pairs: Sequence[tuple[int, str]]
    ) -> dict[int, float]:
        """The same for a span whose words (as of ``words_of``) were read already; of Chinese terms only ``pairs``."""
        found: dict[int, float] = {}
        for index, pair in pairs:
            if text.find(pair, start, end) >= 0:
                found[index] = 1.0
        for lower in words:
            if lower[:MIN_STEM_CHARS] in self.beginnings:
                hit = self._known[lower] if lower in self._known else self._look_up(lower)
                if hit is not None and hit[1] > found.get(hit[0], 0.0):
                    found[hit[0]] = hit[1]
        return found

    def _look_up(self, lower: str) -> tuple[int, float] | None:
        root = stem(lower)
        hit: tuple[int, float] | None = None
        if root in self._stems:
            hit = (self._stems[root], 1.0)
        else:
            longest = _MIN_KIN_CHARS - 1
            for key, index in self._stems.items():
                shared = _shared_beginning(key, root)
                if shared > longest and shared >= max(len(key), len(root)) - _MAX_KIN_ENDING_CHARS:
                    longest, hit = shared, (index, KIN)
        self._known[lower] = hit
        return hit


def _shared_beginning(one: str, other: str) -> int:
    if one[0].isdigit():
        return 0
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length

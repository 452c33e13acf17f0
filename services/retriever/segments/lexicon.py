"""Turns text into the terms that lexical search counts, and a query into weighted ones.

Two kinds of writing need two kinds of terms. Where words are set apart by spaces or points, a term is
a word, case-folded and in Unicode's compatibility form (so that full-width and ligature forms meet
their plain ones); a plural -s of plain Latin words goes, by Harman's three rules. A word of six letters and
more gives its first five as a second term: endings change, beginnings stay, so "defended" meets "defensive",
"Häuser" meets "Häusern" and "государства" "государство", without a stemmer per language (McNamee and Mayfield
found five letters to do about as well as stemmers over many European languages, 2004). Words with digits keep
to themselves.

Where words are not set apart (Chinese, Japanese, Thai, Khmer…) or endings grow onto them (Korean), terms are
the pairs of neighbouring characters and the characters themselves: pairs find words of two and more, characters
those of one. In Chinese and Japanese a blank or a line's end parts no words, so pairs reach across one.

Nothing here knows a language: the script of each character decides, so a line that mixes both is read rightly.

A query's term counts once, however often it stands there: questions repeat words for grammar's sake. Single
characters of paired scripts count a quarter: two of them stand in each pair again, and alone they are mostly
shared by chance.

``spans`` also tells where terms stand in the text, in code points, for highlights. It leaves out the
single characters of a longer run: marking every 的 would hide what matched.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

STEM_CHARS: Final = 5
SINGLE_WEIGHT: Final = 0.25
# Scripts read as pairs of characters. Joined ones write a word on over a blank or a line's end: Kana, Han with its
# extensions and compatibility forms. The others: Thai and Lao, Myanmar, Hangul Jamo, Khmer, Hangul syllables.
_JOINED = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_OTHERS = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\uac00-\ud7af"
_PAIRED = _JOINED + _OTHERS
# Marks that belong to the word before them but are no letters to ``re``: combining accents, Hebrew and
# Arabic points, the vowel signs of the Indic scripts.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0dff"
_GAP = rf"(?:[^\S\r\n]|\r?\n)(?=[{_JOINED}])"
_TOKEN = re.compile(rf"((?:[{_JOINED}]{_GAP}|[{_PAIRED}])+)|((?:(?![{_PAIRED}_])[\w{_MARKS}])+)")
_BLANK = re.compile(r"\s")
_DIGIT = re.compile(r"\d")
_SINGLE = re.compile(f"[{_PAIRED}]")


@dataclass(frozen=True, slots=True)
class TermSpan:
    """A term and where it stands, ``start`` and ``end`` (exclusive) in code points."""

    term: str
    start: int
    end: int


def terms(text: str) -> list[str]:
    """The terms of a text, in order, repeats included."""
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        word = match.group(2)
        if word is not None:
            term = _fold(word)
            found.append(term)
            if _has_stem(term):
                found.append(term[:STEM_CHARS])
            continue
        run = _BLANK.sub("", match.group(1))
        found.extend(run)
        found.extend(run[at : at + 2] for at in range(len(run) - 1))
    return found


def weighted(query: str) -> Mapping[str, float]:
    """The terms of a query, each once, with how much it counts."""
    return {term: SINGLE_WEIGHT if len(term) == 1 and _SINGLE.match(term) else 1.0 for term in terms(query)}


def spans(text: str) -> Iterator[TermSpan]:
    """Terms with their places, single characters of longer runs left out. A word's stem has the word's place."""
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match.group(2) is not None:
            term = _fold(match.group(2))
            yield TermSpan(term, start, end)
            if _has_stem(term):
                yield TermSpan(term[:STEM_CHARS], start, end)
            continue
        run = [(at, char) for at, char in enumerate(match.group(1), start) if not char.isspace()]
        if len(run) == 1:
            yield TermSpan(run[0][1], start, start + 1)
        for (at, char), (after, following) in pairwise(run):
            yield TermSpan(char + following, at, after + 1)


def _has_stem(term: str) -> bool:
    return len(term) > STEM_CHARS and (term.isalpha() or not _DIGIT.search(term))


def _fold(word: str) -> str:
    return _singular(word.lower()) if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _singular(word: str) -> str:
    """Harman's S-stemmer (1991): queries -> query, bridges -> bridge, cats -> cat; class, bus stay."""
    if len(word) < 4 or word[-1] != "s":
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es"):
        return word[:-1] if word[-3] not in "aeo" else word
    return word[:-1] if word[-2] not in "us" else word

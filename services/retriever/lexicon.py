"""Turns text into the terms that lexical search counts.

Two kinds of writing need two kinds of terms. Where words are set apart by spaces or points, a term is
a word, case-folded and in Unicode's compatibility form (so that full-width and ligature forms meet
their plain ones); a plural -s of plain Latin words goes, by Harman's three rules. Where words are not
set apart (Chinese, Japanese, Thai, Khmer…) or endings grow onto them (Korean), terms are the pairs of
neighbouring characters and the characters themselves: pairs find words of two and more, characters
those of one. Nothing here knows a language: the script of each character decides, so a line that mixes
both is read rightly.

``spans`` also tells where terms stand in the text, in code points, for highlights. It leaves out the
single characters of a longer run: marking every 的 would hide what matched.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# Scripts read as pairs of characters: Hangul Jamo, Thai and Lao, Myanmar, Khmer, Kana, Han with its
# extensions and compatibility forms, Hangul syllables.
_PAIRED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
)
# Marks that belong to the word before them but are no letters to ``re``: combining accents, Hebrew and
# Arabic points, the vowel signs of the Indic scripts.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0dff"
_TOKEN = re.compile(f"([{_PAIRED}]+)|((?:(?![{_PAIRED}_])[\\w{_MARKS}])+)")


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
            found.append(_fold(word))
            continue
        run = match.group(1)
        found.extend(run)
        found.extend(run[at : at + 2] for at in range(len(run) - 1))
    return found


def spans(text: str) -> Iterator[TermSpan]:
    """Terms with their places, single characters of longer runs left out."""
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if match.group(2) is not None:
            yield TermSpan(_fold(match.group(2)), start, end)
        elif end - start == 1:
            yield TermSpan(match.group(1), start, end)
        else:
            for at in range(start, end - 1):
                yield TermSpan(text[at : at + 2], at, at + 2)


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

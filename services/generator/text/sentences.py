"""Cuts a passage into sentences and knows where each one lies.

A passage is a piece of a document: prose in English, Chinese or both, wrapped lines, Markdown lists,
tables, headings, fenced code. It is read in two steps:

1. *blocks*, by lines. A blank line ends a block; a heading, a list item or a table row begins one of its own; a
   fenced listing is one block whatever it holds. Wrapped lines of prose stay together.
2. *sentences*, by punctuation. ``。！？`` end one wherever they stand. ``.!?`` end one before white space that is not
   followed by a small letter, unless the word before is an abbreviation or an initial ("Dr.", "J. S. Bach").

A sentence is an offset pair into the passage, so what is cited is what was written, to the code point. One that
ends in a colon takes in what it introduces (a list item, a listing). None is longer than MAX_SENTENCE_CHARS:
text without punctuation is cut at white space or a comma. The row above a table's rule is its heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from services.generator.text.words import ABBREVIATIONS

MAX_SENTENCE_CHARS: Final = 600


class Kind(Enum):
    """What a sentence was cut from."""

    PROSE = "prose"
    HEADING = "heading"
    CODE = "code"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A span of a passage, in code points, without white space or list marker at its edges."""

    start: int
    end: int
    kind: Kind = Kind.PROSE


_FENCE = re.compile(r"[ \t]*(```|~~~)")
_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]")
_TABLE = re.compile(r"[ \t]*\|")
_TABLE_RULE = re.compile(r"\|[\s|:-]*-[\s|:-]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+")
_MARKER = re.compile(r"\s*(?:#{1,6}\s+|[-*+•]\s+|\d{1,3}[.)]\s+|>\s+)?")
_END = re.compile(r"[。！？!?]+[”’』」）)\"'*]*|[.…]+[”’）)\"'*]*(?=\s|$)|[.](?=[\u4e00-\u9fff])")
_PROSE_CUTS: Final = ("；;", "，,、", "\n", " \t")
_CODE_CUTS: Final = ("\n", " \t")
_CJK_STOP = frozenset("。！？")


def split(text: str) -> list[Sentence]:
    """Return the sentences of a passage, in order."""
    found: list[Sentence] = []
    for start, end, kind in _blocks(text):
        for left, right in _spans(text, start, end) if kind is Kind.PROSE else ((start, end),):
            _append(found, text, left, right, kind)
    return found


def _blocks(text: str) -> Iterator[tuple[int, int, Kind]]:
    begin = 0  # of the prose that is being gathered
    position = 0
    fence_from = -1
    while position < len(text):
        newline = text.find("\n", position)
        stop = len(text) if newline < 0 else newline + 1
        if _FENCE.match(text, position, stop):
            if fence_from < 0:
                yield begin, position, Kind.PROSE
                fence_from = position
            else:
                yield fence_from, stop, Kind.CODE
                fence_from, begin = -1, stop
        elif fence_from < 0:
            if _HEADING.match(text, position, stop) or _TABLE.match(text, position, stop):
                yield begin, position, Kind.PROSE
                yield position, stop, Kind.TABLE if text[position:stop].lstrip().startswith("|") else Kind.HEADING
                begin = stop
            elif _ITEM.match(text, position, stop) or text[position:stop].isspace():
                yield begin, position, Kind.PROSE
                begin = position
        position = stop
    yield (begin, len(text), Kind.PROSE) if fence_from < 0 else (fence_from, len(text), Kind.CODE)


def _spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    left = start
    for match in _END.finditer(text, start, end):
        if match.group()[0] not in _CJK_STOP and not _ends(text, match.start(), match.end(), left, end):
            continue
        yield left, match.end()
        left = match.end()
    yield left, end


def _ends(text: str, mark: int, after: int, left: int, end: int) -> bool:
    """Whether ASCII punctuation at `mark` ends a sentence; `after` is where what follows begins."""
    following = text[after : after + 2].lstrip()
    if after < end and following and following[0].islower():
        return False
    if text[mark] != ".":
        return after >= end or text[after].isspace() or text[after] > "\u2fff"
    word_from = mark
    while word_from > left and not text[word_from - 1].isspace():
        word_from -= 1
    word = text[word_from:mark].lstrip("(\"'“‘*")
    if word.isdigit() and not text[left:word_from].strip():  # "1." that numbers a list
        return False
    return not (word in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word.isascii()))


def _append(found: list[Sentence], text: str, left: int, right: int, kind: Kind) -> None:
    while right > left and text[right - 1].isspace():
        right -= 1
    if kind is not Kind.CODE:
        marker = _MARKER.match(text, left, right)
        left = marker.end() if marker else left
    else:
        while left < right and text[left] == "\n":
            left += 1
    if left >= right:
        return
    if found and kind is Kind.TABLE and _TABLE_RULE.match(text[left:right]):
        found[-1] = replace(found[-1], kind=Kind.HEADING)
        return
    if found and kind is not Kind.HEADING:
        last = found[-1]
        introduces = last.kind is Kind.PROSE and text[last.end - 1] in ":："
        if introduces and right - last.start <= MAX_SENTENCE_CHARS:
            found[-1] = Sentence(last.start, right)
            return
    while right - left > MAX_SENTENCE_CHARS:
        cut = _cut(text, left, _CODE_CUTS if kind is Kind.CODE else _PROSE_CUTS)
        found.append(Sentence(left, cut, kind))
        left = cut
        while left < right and text[left].isspace():
            left += 1
    if left < right:
        found.append(Sentence(left, right, kind))


def _cut(text: str, left: int, cuts: tuple[str, ...]) -> int:
    """Where to cut a sentence that is too long: after a comma or before white space in its second half."""
    low, high = left + MAX_SENTENCE_CHARS // 2, left + MAX_SENTENCE_CHARS
    for marks in cuts:
        best = max(text.rfind(mark, low, high) for mark in marks)
        if best >= 0:
            return best if text[best].isspace() else best + 1
    return high

"""Cuts a passage into sentences and knows where each one lies.

A passage is a piece of a document: prose in English, Chinese or both, wrapped lines, Markdown lists,
tables, headings, fenced code. It is read in two steps:

1. *blocks*, by lines. A blank line ends a block; a heading, a list item or a table row begins one of its own; a
   fenced listing is one block whatever it holds. Wrapped lines of prose stay together.
2. *sentences*, by punctuation. ``。！？`` end one wherever they stand. ``.!?`` end one before white space that is not
   followed by a small letter, unless the word before is an abbreviation or an initial ("Dr.", "J. S. Bach").

A sentence is an offset pair into the passage, so what is cited is what was written, to the code point. One that
ends in a colon takes in what it introduces (a list item, a listing). None is longer than MAX_SENTENCE_CHARS, no
listing than MAX_LISTING_CHARS: what is longer is cut at a comma, a line's end or white space. The row above a table's
rule is its heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from services.generator.text.words import ABBREVIATIONS

MAX_SENTENCE_CHARS: Final = 600
MAX_LISTING_CHARS: Final = 2_400


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
    listing_start: int | None = None
    """Where the listing begins that it takes in; None without one."""


_ITEM: Final = r"(?:[-*+•]|\d{1,3}[.)])[ \t]+"
_LINE = re.compile(
    rf"[ \t]*(?:(?:{_ITEM})?(?P<fence>`{{3,}}|~{{3,}})|(?P<heading>#{{1,6}}[ \t])|(?P<table>\|)|(?P<item>{_ITEM})"
    r"|(?P<blank>\s*(?:\n|\Z)))"
)
_TABLE_RULE = re.compile(r"\|[\s|:-]*-[\s|:-]*$")
_MARKER = re.compile(r"\s*(?:#{1,6}\s+|[-*+•]\s+|\d{1,3}[.)]\s+|>\s+)?")
_END = re.compile(r"[。！？!?]+[”’』」）)\"'*]*|[.…]+[”’）)\"'*]*(?=\s|$)|[.](?=[\u4e00-\u9fff])")
_PROSE_CUTS: Final = ("；;", "，,、", "\n", " \t")
_CODE_CUTS: Final = ("\n", " \t")
_CJK_STOP = frozenset("。！？")
_MAX_WORD_CHARS: Final = 24  # looked at before a full stop; no abbreviation is longer


def split(text: str) -> list[Sentence]:
    """Return the sentences of a passage, in order."""
    found: list[Sentence] = []
    for start, end, kind in _blocks(text):
        for left, right in _spans(text, start, end) if kind is Kind.PROSE else ((start, end),):
            _append(found, text, left, right, kind)
    return found


def _blocks(text: str) -> Iterator[tuple[int, int, Kind]]:
    begin = 0  # of the prose that is being gathered, or of the listing
    position = 0
    fence = ""  # that the listing began with
    while position < len(text):
        newline = text.find("\n", position)
        stop = len(text) if newline < 0 else newline + 1
        if fence:
            if _closes(text[position:stop].strip(), fence):
                yield begin, stop, Kind.CODE
                fence, begin = "", stop
        elif line := _LINE.match(text, position, stop):
            yield begin, position, Kind.PROSE
            begin = position
            if line["fence"]:
                fence, begin = line["fence"], line.start("fence")
            elif line.lastgroup in ("heading", "table"):
                yield position, stop, Kind.TABLE if line["table"] else Kind.HEADING
                begin = stop
        position = stop
    yield begin, len(text), Kind.CODE if fence else Kind.PROSE


def _closes(line: str, fence: str) -> bool:
    return line.startswith(fence) and not line.strip(fence[0])


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
    before = text[max(left, mark - _MAX_WORD_CHARS) : mark].split()
    word = before[-1].lstrip("(\"'“‘*") if before else ""
    if word.isdigit() and text[left:mark].strip() == word:  # "1." that numbers a list
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
            found[-1] = Sentence(last.start, right, listing_start=left if kind is Kind.CODE else None)
            return
    most = MAX_LISTING_CHARS if kind is Kind.CODE else MAX_SENTENCE_CHARS
    while right - left > most:
        cut = _cut(text, left + most // 2, left + most, _CODE_CUTS if kind is Kind.CODE else _PROSE_CUTS)
        found.append(Sentence(left, cut, kind))
        left = cut
        while left < right and text[left].isspace():
            left += 1
    if left < right:
        found.append(Sentence(left, right, kind))


def _cut(text: str, low: int, high: int, cuts: tuple[str, ...]) -> int:
    """Where to cut a sentence that is too long: after a comma or before white space between `low` and `high`."""
    for marks in cuts:
        best = max(text.rfind(mark, low, high) for mark in marks)
        if best >= 0:
            return best if text[best].isspace() else best + 1
    return high

"""From lines on pages to paragraphs under headings: what a layout means.

1. A short line that stands at the top or bottom of many pages, numbers aside the same, is a running head: dropped.
   In letters as large as a heading's ("Chapter 3") it has to be the same with its numbers.
2. Headings are the lines that the document's outline names on their page. Where it has none, or names lines that
   aren't there, they are short lines in letters larger than the text's; the larger, the higher.
3. Lines are joined into paragraphs. One ends before a wider gap than lines have, before an item of a list, and with
   its page. A word that was hyphenated at a line's end is put together; Chinese is joined without spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from statistics import median
from typing import Final

from services.retriever.parsers._page import Page
from services.retriever.types import Parsed

MAX_HEADING_CHARS: Final = 120
_MAX_LEVELS: Final = 4
_LARGER: Final = 1.15  # than the text, from which on letters are a heading's
_WIDER: Final = 1.35  # than the gap between lines, from which on one is between paragraphs
_EDGE_LINES: Final = 2  # at the top and bottom of a page, that may be running heads
_MAX_RUNNING_CHARS: Final = 70
_RUNNING_SHARE: Final = 0.4  # of pages
_RUNNING_PAGES: Final = 3
_MAX_HEADING_SHARE: Final = 0.2  # of a text; what has more has no headings, but text of many sizes
_MAX_TITLE_LINES: Final = 3
_DIGITS: Final = re.compile(r"\d+|\b[ivxlc]+\b")
_ITEM: Final = re.compile(r"(?:[•‣▪◦●○■□–—*·]|-(?= )|\(?\d{1,3}[.)](?= )|\(?[a-z][.)](?= ))\s*")
_WIDE: Final = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60"
_ENDS_WIDE: Final = re.compile(f"[{_WIDE}]$")
_BEGINS_WIDE: Final = re.compile(f"[{_WIDE}]")
_HYPHENATED: Final = re.compile(r"[^\W\d_]-$")

Place = tuple[int, int]  # a page, a line on it


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page. ``size`` is its letters', ``y`` where it stands, upwards; both in points."""

    text: str
    size: float
    y: float


@dataclass(frozen=True, slots=True)
class Entry:
    """Of an outline: what it calls a place on a page (from 0), and how deep in the outline that stands, from 1."""

    page: int
    level: int
    title: str


def composed(pages: Sequence[Sequence[Line]], outline: Sequence[Entry], title: str) -> Parsed:
    """The text of ``pages``; ``title`` is the document's own, or ''."""
    body = _body_size(pages)
    kept = _without_running_heads(pages, body)
    headings = _named(kept, outline)
    if len(headings) * 2 < len(outline) or not headings:
        headings = _large(kept, body)
    gap = _gap(kept)
    page, starts = Page(), []
    for number, lines in enumerate(kept):
        starts.append(page.length)
        for level, text in _paragraphs(lines, number, headings, gap):
            if level:
                page.heading(level, text)
            else:
                page.prose(text)
    return replace(page.parsed(title, levels=range(1, _MAX_LEVELS + 1)), pages=tuple(starts))


def _body_size(pages: Sequence[Sequence[Line]]) -> float:
    """The size that most of the text is in."""
    chars: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            chars[line.size] += len(line.text)
    return max(chars, key=chars.__getitem__) if chars else 0.0


def _without_running_heads(pages: Sequence[Sequence[Line]], body: float) -> list[list[Line]]:
    seen: Counter[str] = Counter()
    for lines in pages:
        seen.update({_alike(line, body) for line in _edges(lines)})
    often = max(_RUNNING_PAGES, _RUNNING_SHARE * len(pages))
    running = {text for text, times in seen.items() if times >= often}
    kept = []
    for lines in pages:
        first, stop = 0, len(lines)
        while first < min(_EDGE_LINES, stop) and _alike(lines[first], body) in running:
            first += 1
        while stop > max(first, len(lines) - _EDGE_LINES) and _alike(lines[stop - 1], body) in running:
            stop -= 1
        kept.append(list(lines[first:stop]))
    return kept


def _edges(lines: Sequence[Line]) -> Iterable[Line]:
    edges = [*lines[:_EDGE_LINES], *lines[_EDGE_LINES:][-_EDGE_LINES:]]
    return (line for line in edges if len(line.text) <= _MAX_RUNNING_CHARS)


def _alike(line: Line, body: float) -> str:
    return line.text if line.size >= _LARGER * body else _DIGITS.sub("#", line.text.lower())


def _named(pages: Sequence[Sequence[Line]], outline: Sequence[Entry]) -> dict[Place, tuple[int, int]]:
    """Level and count of lines of the headings that an outline names, by the place of their first line."""
    found: dict[Place, tuple[int, int]] = {}
    for entry in outline:
        wanted = _letters(entry.title)
        if not wanted or entry.page >= len(pages):
            continue
        lines = pages[entry.page]
        for at in range(len(lines)):
            count = _lines_that_say(wanted, lines, at)
            if count and (entry.page, at) not in found:
                found[entry.page, at] = (min(entry.level, 6), count)
                break
    return found


def _lines_that_say(wanted: str, lines: Sequence[Line], at: int) -> int:
    said = ""
    for count, line in enumerate(lines[at : at + _MAX_TITLE_LINES], 1):
        said += _letters(line.text)
        bare = said.lstrip("0123456789")  # "2.1 Setup" for "Setup"
        if said == wanted or (bare and bare == wanted.lstrip("0123456789")):
            return count
        if len(bare) > len(wanted):
            return 0
    return 0


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _large(pages: Sequence[Sequence[Line]], body: float) -> dict[Place, tuple[int, int]]:
    """As ``_named``, told by the letters' size."""
    large = [
        ((page, at), line)
        for page, lines in enumerate(pages)
        for at, line in enumerate(lines)
        if line.size >= _LARGER * body and len(line.text) <= MAX_HEADING_CHARS and any(map(str.isalpha, line.text))
    ]
    whole = sum(len(line.text) for lines in pages for line in lines)
    if sum(len(line.text) for _, line in large) > _MAX_HEADING_SHARE * whole:
        return {}
    sizes = sorted({line.size for _, line in large}, reverse=True)
    found: dict[Place, tuple[int, int]] = {}
    before: Place = (-1, -1)  # where a heading of several lines began
    for (page, at), line in large:
        level = min(sizes.index(line.size) + 1, _MAX_LEVELS)
        known = found.get(before)
        if (
            known
            and before == (page, at - known[1])
            and pages[page][at - 1].size == line.size
            and known[1] < _MAX_TITLE_LINES
            and pages[page][at - 1].y - line.y < 2 * line.size
        ):
            found[before] = (known[0], known[1] + 1)
        else:
            before = (page, at)
            found[before] = (level, 1)
    return found


def _gap(pages: Sequence[Sequence[Line]]) -> float:
    """How far apart lines of a paragraph are."""
    gaps = [
        above.y - line.y
        for lines in pages
        for above, line in pairwise(lines)
        if above.size == line.size and 0 < above.y - line.y < 4 * max(line.size, 1)
    ]
    return median(gaps) if gaps else 0.0


def _paragraphs(
    lines: Sequence[Line], page: int, headings: Mapping[Place, tuple[int, int]], gap: float
) -> Iterator[tuple[int, str]]:
    """Headings with their level, paragraphs with 0."""
    said = ""
    at = 0
    while at < len(lines):
        heading = headings.get((page, at))
        if heading is not None:
            if said:
                yield 0, said
            level, count = heading
            yield level, reduce(_joined, (line.text for line in lines[at : at + count]))
            said, at = "", at + count
            continue
        line = lines[at]
        if said and (_ITEM.match(line.text) or (gap and lines[at - 1].y - line.y > _WIDER * gap)):
            yield 0, said
            said = ""
        said = _joined(said, line.text) if said else line.text
        at += 1
    if said:
        yield 0, said


def _joined(text: str, more: str) -> str:
    if text.endswith("\xad") or (_HYPHENATED.search(text) and more[0].islower()):
        return text[:-1] + more
    if _ENDS_WIDE.search(text) and _BEGINS_WIDE.match(more):
        return text + more
    return f"{text} {more}"

"""Cuts a parsed text into chunks along its structure.

Sizes are counted in *units*, roughly a fourth of a token: a narrow character is one unit, a character
of a wide script (Chinese, Japanese, Korean) three, since it says about as much. A chunk aims at
``TARGET_UNITS``, about 200 tokens: what small embedding models read whole.

1. Blocks under one heading are gathered until the next would pass the target. A heading begins a new
   chunk, unless what was gathered is still shorter than ``LEAST_UNITS`` and the heading does not lead
   out of the section it stands in; it stays with the text it heads.
2. Prose longer than the target is cut between sentences, into parts of about the same size where they are
   few; a sentence longer than the target is cut between words, or where there are none, between characters.
3. Code is kept whole up to ``MAX_CODE_UNITS``, and cut between lines beyond.

Every chunk is one stretch of the text: ``text[chunk.start_char:chunk.end_char] == chunk.text``. Chunks
come in order, do not overlap, and leave out only white space and headings that their section names.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.retriever.documents.sentences import sentence_spans
from services.retriever.types import Block, BlockKind, Chunk, Parsed

TARGET_UNITS: Final = 900
LEAST_UNITS: Final = 240
MAX_CODE_UNITS: Final = 2_400
WIDE_UNITS: Final = 3
MAX_HEADING_CHARS: Final = 200  # of a heading, in a section's path
_WIDE: Final = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uff60\U00020000-\U0003134f]+")
_PART_UNITS: Final = TARGET_UNITS // 9  # of a sentence that is longer than the target
_MOST_EVEN_PARTS: Final = 8  # beyond that, the last part's size hardly matters

Span = tuple[int, int]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch small enough for a chunk. ``path`` are the headings above it."""

    start: int
    end: int
    units: int
    path: Path
    heads: bool = False  # is itself a heading
    mark: int = 0  # code points at its start that are not its words


def units(text: str) -> int:
    """The size of a text, in units."""
    wide = sum(match.end() - match.start() for match in _WIDE.finditer(text))
    return len(text) + wide * (WIDE_UNITS - 1)


def chunk(parsed: Parsed) -> list[Chunk]:
    """The chunks of a text, in order."""
    text = parsed.text
    chunks: list[Chunk] = []
    for group in _gathered(_pieces(parsed)):
        section = _section(group)
        body = _without_heads(text, group, section)
        start, end = _stripped(text, body[0].start, body[-1].end)
        if start < end:
            page = bisect_right(parsed.pages, start)
            chunks.append(Chunk(len(chunks), text[start:end], start, end, section, page))
    return chunks


def _pieces(parsed: Parsed) -> Iterator[_Piece]:
    text = parsed.text
    above: list[tuple[int, str]] = []
    for block in parsed.blocks:
        path = tuple(title for _, title in above)
        if block.kind is BlockKind.HEADING:
            while above and above[-1][0] >= block.level:
                above.pop()
            above.append((block.level, _words(text, block.start + block.mark, block.end)[:MAX_HEADING_CHARS]))
            path = tuple(title for _, title in above)
        for start, end in _cut(text, block):
            mark = block.mark if start == block.start else 0
            yield _Piece(start, end, units(text[start:end]), path, block.kind is BlockKind.HEADING, mark)


def _gathered(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        if group and not all(held.heads for held in group):
            if piece.heads:
                closes = size >= LEAST_UNITS or not _beside(piece.path, group[0].path)
            else:
                # A heading never ends a chunk: it goes with what it heads.
                closes = size + piece.units > TARGET_UNITS and not group[-1].heads
        else:
            closes = piece.heads and size > TARGET_UNITS  # nothing but headings so far
        if group and closes:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.units
    if group:
        yield group


def _beside(path: Path, first: Path) -> bool:
    """Whether a heading is in the same section as the heading that the group began under, or deeper."""
    return path[: max(0, len(first) - 1)] == first[:-1]


def _section(group: list[_Piece]) -> Path:
    """The headings a chunk stands under: those of the section that most of it is of, else what all have in common."""
    shares: dict[Path, int] = {}
    for piece in group:
        shares[piece.path] = shares.get(piece.path, 0) + piece.units
    path, most = max(shares.items(), key=lambda share: share[1])
    if most * 3 >= sum(shares.values()) * 2:
        return path
    common = group[0].path
    for piece in group:
        shared = 0
        while shared < min(len(common), len(piece.path)) and common[shared] == piece.path[shared]:
            shared += 1
        common = common[:shared]
    return common


def _without_heads(text: str, group: list[_Piece], section: Path) -> list[_Piece]:
    """A chunk without the headings that it begins with, where its section names them already."""
    for number, piece in enumerate(group):
        named = piece.heads and piece.path == section[: len(piece.path)]
        if not named or _words(text, piece.start + piece.mark, piece.end) != piece.path[-1]:
            return group[number:]
    return group  # nothing but headings


def _words(text: str, start: int, end: int) -> str:
    return " ".join(text[start:end].split())


def _cut(text: str, block: Block) -> list[Span]:
    """Spans of a block, none longer than a chunk may be."""
    size = units(text[block.start : block.end])
    if block.kind is BlockKind.CODE:
        if size <= MAX_CODE_UNITS:
            return [(block.start, block.end)]
        return _packed(text, _lines(text, block.start, block.end), size)
    if size <= TARGET_UNITS:
        return [(block.start, block.end)]
    return _packed(text, sentence_spans(text, block.start, block.end), size)


def _packed(text: str, spans: list[Span], size: int) -> list[Span]:
    """Neighbouring spans joined into parts, none above the target; few parts are of about the same size."""
    atoms = [(a, b, units(text[a:b])) for start, end in spans for a, b in _broken(text, start, end)]
    for count in range(-(-size // TARGET_UNITS), _MOST_EVEN_PARTS + 1):
        parts = _shared_out(atoms, size, count)
        if all(units(text[start:end]) <= TARGET_UNITS for start, end in parts):
            return parts
    return _filled_up(atoms)


def _shared_out(atoms: list[tuple[int, int, int]], size: int, count: int) -> list[Span]:
    """``count`` parts of about the same size; an atom goes where its middle falls."""
    parts: list[Span] = []
    number, before = -1, 0
    for start, end, weight in atoms:
        goes_to = int((before + weight / 2) * count / size)
        if goes_to == number:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
        number, before = goes_to, before + weight
    return parts


def _filled_up(atoms: list[tuple[int, int, int]]) -> list[Span]:
    """Parts as full as they go, in order."""
    parts: list[Span] = []
    held = TARGET_UNITS
    for start, end, weight in atoms:
        if held + weight <= TARGET_UNITS:
            parts[-1] = (parts[-1][0], end)
            held += weight
        else:
            parts.append((start, end))
            held = weight
    return parts


def _broken(text: str, start: int, end: int) -> list[Span]:
    """A span as it is where a chunk can hold it, else in small parts between words, or between characters."""
    if units(text[start:end]) <= TARGET_UNITS:
        return [(start, end)]
    parts: list[Span] = []
    while start < end:
        stop = _reach(text, start, end)
        if stop < end:
            space = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop))
            if space > start + (stop - start) // 2:
                stop = space + 1
        parts.append((start, stop))
        start = stop
    return parts


def _reach(text: str, start: int, end: int) -> int:
    """Where a part of about ``_PART_UNITS`` that begins at ``start`` ends."""
    wide = units(text[start : min(end, start + _PART_UNITS)]) > _PART_UNITS
    return min(end, start + _PART_UNITS // (WIDE_UNITS if wide else 1))


def _lines(text: str, start: int, end: int) -> list[Span]:
    spans: list[Span] = []
    while start < end:
        stop = text.find("\n", start, end) + 1 or end
        spans.append((start, stop))
        start = stop
    return spans


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end

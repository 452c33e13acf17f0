"""Writes down a document with structure: what the parsers of Markdown, HTML and Word have in common.

The extracted text keeps what tells a heading (``## ``), a list item (its dash or number), a table's row
(``| a | b |``) and a listing (its fences) from a sentence. Each heading, paragraph, item, row and listing is a
block of its own; a listing too long for one passage becomes several, all of them fenced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from services.retriever.documents.chunking import MAX_CODE_UNITS, TARGET_UNITS, units
from services.retriever.types import Block, BlockKind, Parsed

MAX_TITLE_CHARS: Final = 120
_MAX_DEPTH: Final = 8  # of nested lists: deeper ones are not drawn deeper


class Page:
    """The text under way."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.blocks: list[Block] = []
        self._length = 0
        self._lists: list[int] = []  # of each open list, the number of its next item; 0 where it has none
        self._mark = ""  # of the list item that begins next
        self._in_table = False

    @property
    def length(self) -> int:
        """Code points written."""
        return self._length

    def heading(self, level: int, words: str) -> None:
        """A heading of ``level`` 1 to 6, on one line."""
        self._add(BlockKind.HEADING, " ".join(words.split()), level=level)

    def prose(self, words: str) -> None:
        """A paragraph, or the text of an item."""
        self._add(BlockKind.PROSE, words)

    def listing(self, code: str, language: str = "") -> None:
        """A listing, fenced."""
        for part in _listings(code, language):
            self._add(BlockKind.CODE, part)

    def begin_table(self) -> None:
        """Rows from now on are another table's."""
        self._in_table = False

    def row(self, cells: Sequence[str], *, heads: bool = False) -> None:
        """A table's row; below the one that ``heads`` it stands a rule. A row of empty cells is left out."""
        if any(cells):
            line = f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"
            line = f"{line}\n|{'---|' * len(cells)}" if heads else line
            self._add(BlockKind.PROSE, line, apart="\n" if self._in_table else "\n\n")
            self._in_table = True

    def open_list(self, first: int = 0) -> None:
        """A list whose items are numbered from ``first`` on, or not at all."""
        self._lists.append(first)

    def close_list(self) -> None:
        """The end of the innermost list."""
        self._lists.pop()

    def item(self) -> None:
        """What is written next begins an item."""
        number = self._lists[-1] if self._lists else 0
        self._mark = "  " * (min(len(self._lists), _MAX_DEPTH) - 1) + (f"{number}. " if number else "- ")
        if number:
            self._lists[-1] += 1

    def parsed(self, title: str = "", *, levels: Sequence[int] = (1,)) -> Parsed:
        """All of it, with ``title``, else the first heading of one of ``levels`` for a title."""
        text = "".join(self.parts)
        tops = (block for block in self.blocks if block.kind is BlockKind.HEADING and block.level in levels)
        title = title or next((text[top.start + top.mark : top.end] for top in tops), "")
        return Parsed(text, tuple(self.blocks), " ".join(title.split())[:MAX_TITLE_CHARS])

    def _add(self, kind: BlockKind, words: str, *, level: int = 0, apart: str = "\n\n") -> None:
        if not words:
            return
        item, self._mark = self._mark, ""
        if self.parts:
            self._write("\n" if item and self._lists else apart)
        start = self._length
        mark = f"{item}{'#' * level} " if level else item
        self._write(mark + words)
        self.blocks.append(Block(kind, start, self._length, level, len(mark)))

    def _write(self, words: str) -> None:
        self.parts.append(words)
        self._length += len(words)


def _listings(code: str, language: str) -> Iterator[str]:
    """A listing within fences; one that no passage can hold, in several."""
    code = code.strip("\n")
    if not code.strip():
        return
    fence = "```"
    while fence in code:
        fence += "`"
    top = f"{fence}{language}\n"
    most = MAX_CODE_UNITS if units(top + code) < MAX_CODE_UNITS - len(fence) else TARGET_UNITS - len(top + fence) - 1
    part, size = "", 0
    for line in code.splitlines(keepends=True):
        length = units(line)
        if part and size + length > most:
            yield f"{top}{part.rstrip()}\n{fence}"
            part, size = "", 0
        part += line
        size += length
    yield f"{top}{part.rstrip()}\n{fence}"

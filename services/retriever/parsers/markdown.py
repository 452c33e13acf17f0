"""Markdown: its words, and of its marks those that say what a line is.

A passage is read away from its page, by people and by models. So the extracted text keeps what tells a
heading (``## ``), a list item (its dash or number), a table's row (``| a | b |``) and a listing (its fences)
from a sentence; emphasis, link targets and HTML tags are gone. Each heading, paragraph, item, row and listing
is a block of its own; a listing too long for one passage becomes several, all of them fenced. The title is
the front matter's, else the first heading of level 1.

A parse needs some hundred times the memory of its text. So a long text is parsed piece by piece, cut at blank
lines outside of code. A piece does not know the link definitions of another: their marks then stay in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.retriever.chunking import MAX_CODE_UNITS, TARGET_UNITS, units
from services.retriever.limits import Limits
from services.retriever.parsers.text import MAX_TITLE_CHARS, decode
from services.retriever.types import Block, BlockKind, Parsed

PIECE_CHARS: Final = 1 << 18
_LINE: Final = re.compile(r"[^\n]{0,100000}\n?")
_FENCE: Final = re.compile(r" {0,3}(```|~~~)")
_FRONT_MATTER: Final = re.compile(
    r"\A---[^\S\n]*\n(?=[\w-]+[^\S\n]*:)(.*?\n)(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL
)
_FRONT_TITLE: Final = re.compile(r"^title:[^\S\n]*[\"']?(.+?)[\"']?[^\S\n]*$", re.MULTILINE | re.IGNORECASE)
_TAG: Final = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_WIDE_END: Final = re.compile("[\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60]$")


def parse(data: bytes, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse the bytes of a Markdown text.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are no text.
    """
    source = decode(data, charset)
    title = ""
    front = _FRONT_MATTER.match(source)
    if front is not None:
        named = _FRONT_TITLE.search(front.group(1))
        title = named.group(1) if named else ""
        source = source[front.end() :]
    page = _Page()
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for piece in _pieces(source):
        page.read(parser.parse(piece))
    text = "".join(page.parts)
    tops = (block for block in page.blocks if block.kind is BlockKind.HEADING and block.level == 1)
    title = title or next((text[top.start + top.mark : top.end] for top in tops), "")
    return Parsed(text, tuple(page.blocks), " ".join(title.split())[:MAX_TITLE_CHARS])


def _pieces(source: str) -> Iterator[str]:
    """The text in pieces of ``PIECE_CHARS`` or a little more, each a whole number of paragraphs where it can be."""
    start, fenced = 0, False
    for line in _LINE.finditer(source):
        size = line.end() - start
        if _FENCE.match(line.group()):
            fenced = not fenced
        if size >= 2 * PIECE_CHARS or (size >= PIECE_CHARS and not fenced and not line.group().strip()):
            yield source[start : line.end()]
            start, fenced = line.end(), False
    if start < len(source):
        yield source[start:]


class _Page:
    """The text under way."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.blocks: list[Block] = []
        self._length = 0
        self._lists: list[int] = []  # of each open list, the number of its next item; 0 where it has none
        self._mark = ""  # of the list item that begins next

    def read(self, tokens: Sequence[Token]) -> None:
        """Add what ``tokens`` say."""
        heading = 0
        row: list[str] | None = None
        heads = begun = False  # within a table: its heading row is read, a row was written
        for token in tokens:
            match token.type:
                case "heading_open":
                    heading = int(token.tag[1:])
                case "heading_close":
                    heading = 0
                case "bullet_list_open":
                    self._lists.append(0)
                case "ordered_list_open":
                    self._lists.append(int(token.attrGet("start") or 1))
                case "bullet_list_close" | "ordered_list_close":
                    self._lists.pop()
                case "list_item_open":
                    self._begin_item()
                case "thead_open":
                    heads, begun = True, False
                case "thead_close":
                    heads = False
                case "tr_open":
                    row = []
                case "tr_close":
                    if row and any(row):
                        self._add(BlockKind.PROSE, _row(row, heads), apart="\n" if begun else "\n\n")
                        begun = True
                    row = None
                case "fence" | "code_block":
                    for listing in _listings(token.content, token.info):
                        self._add(BlockKind.CODE, listing)
                case "html_block":
                    self._add(BlockKind.PROSE, " ".join(_TAG.sub(" ", token.content).split()))
                case "inline":
                    words = _words(token.children or ()).strip()
                    if row is not None:
                        row.append(words)
                    elif heading:
                        self._add(BlockKind.HEADING, " ".join(words.split()), level=heading)
                    else:
                        self._add(BlockKind.PROSE, words)

    def _begin_item(self) -> None:
        number = self._lists[-1]
        self._mark = "  " * (len(self._lists) - 1) + (f"{number}. " if number else "- ")
        if number:
            self._lists[-1] += 1

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


def _row(cells: Sequence[str], heads: bool) -> str:
    """A table's row; below the one that ``heads`` it, the rule."""
    line = f"| {' | '.join(cells)} |"
    return f"{line}\n|{'---|' * len(cells)}" if heads else line


def _listings(code: str, info: str) -> Iterator[str]:
    """A listing within fences; one that no passage can hold, in several."""
    code = code.strip("\n")
    if not code.strip():
        return
    fence = "```"
    while fence in code:
        fence += "`"
    top = f"{fence}{info.split()[0] if info.split() else ''}\n"
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


def _words(children: Sequence[Token]) -> str:
    said: list[str] = []
    for child in children:
        match child.type:
            case "text" | "code_inline" | "text_special":
                said.append(child.content)
            case "softbreak":
                # Chinese is written without spaces: a line break within it stands for nothing.
                said.append("" if said and _WIDE_END.search(said[-1]) else " ")
            case "hardbreak":
                said.append("\n")
            case "image":
                said.append(_words(child.children or ()))
    return "".join(said)

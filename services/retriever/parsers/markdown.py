"""Markdown: its words, and of its marks those that say what a line is.

A passage is read away from its page, by people and by models. So of the marks those stay that say what a line
is (``_page``); emphasis, link targets and HTML tags are gone. The title is the front matter's, else the first
heading of level 1.

A parse needs some hundred times the memory of its text. So a long text is parsed piece by piece, cut at blank
lines outside of code. A piece does not know the link definitions of another: their marks then stay in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.retriever.documents.limits import Limits
from services.retriever.parsers._page import Page
from services.retriever.parsers.text import decode
from services.retriever.types import Parsed

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
    reader = _Reader()
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for piece in _pieces(source):
        reader.read(parser.parse(piece))
    return reader.page.parsed(title)


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


class _Reader:
    """Tokens to a page."""

    def __init__(self) -> None:
        self.page = Page()

    def read(self, tokens: Sequence[Token]) -> None:
        """Write down what ``tokens`` say."""
        page = self.page
        heading = 0
        row: list[str] | None = None
        heads = False  # within a table: the row is its heading
        for token in tokens:
            match token.type:
                case "heading_open":
                    heading = int(token.tag[1:])
                case "heading_close":
                    heading = 0
                case "bullet_list_open":
                    page.open_list()
                case "ordered_list_open":
                    page.open_list(int(token.attrGet("start") or 1))
                case "bullet_list_close" | "ordered_list_close":
                    page.close_list()
                case "list_item_open":
                    page.item()
                case "thead_open":
                    page.begin_table()
                    heads = True
                case "thead_close":
                    heads = False
                case "tr_open":
                    row = []
                case "tr_close":
                    page.row(row or [], heads=heads)
                    row = None
                case "fence" | "code_block":
                    info = token.info.split()
                    page.listing(token.content, info[0] if info else "")
                case "html_block":
                    page.prose(" ".join(_TAG.sub(" ", token.content).split()))
                case "inline":
                    words = _words(token.children or ()).strip()
                    if row is not None:
                        row.append(words)
                    elif heading:
                        page.heading(heading, words)
                    else:
                        page.prose(words)


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

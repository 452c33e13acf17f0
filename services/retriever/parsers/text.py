"""Plain text: paragraphs apart by blank lines.

The first line is the title when it looks like one: short, alone, with more text after it, and not
ending as a sentence does.
"""

from __future__ import annotations

import re
from typing import Final

from services.retriever.documents import charsets
from services.retriever.documents.limits import Limits
from services.retriever.parsers._page import MAX_TITLE_CHARS
from services.retriever.types import Block, BlockKind, Parsed

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_ENDS: Final = (".", "!", "?", "。", "！", "？", ":", "：", ",", ";")
# Control characters and halves of characters, which no text holds: they become spaces, one for one.
_STRAY = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def parse(data: bytes, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse the bytes of a text.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are no text.
    """
    text = decode(data, charset)
    blocks = []
    start = 0
    for blank in _BLANK.finditer(text):
        if blank.start() > start:
            blocks.append(Block(BlockKind.PROSE, start, blank.start()))
        start = blank.end()
    if start < len(text):
        blocks.append(Block(BlockKind.PROSE, start, len(text)))
    title = text[blocks[0].start : blocks[0].end].strip() if len(blocks) > 1 else ""
    if len(title) > MAX_TITLE_CHARS or "\n" in title or title.endswith(_SENTENCE_ENDS):
        title = ""
    return Parsed(text, tuple(blocks), title)


def decode(data: bytes, *charsets_declared: str) -> str:
    """Bytes to text (``charsets``), line ends made one.

    Raises:
        WeftError: DOCUMENT_UNREADABLE naming the first byte at fault.
    """
    return tidy(charsets.decode(data, *charsets_declared))


def tidy(text: str) -> str:
    """A text without characters that no store takes: line ends made one, strays become spaces."""
    return _STRAY.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))

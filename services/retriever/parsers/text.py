"""Plain text: paragraphs apart by blank lines.

The first line is the title when it looks like one: short, alone, with more text after it, and not
ending as a sentence does.
"""

from __future__ import annotations

import re
from typing import Final

from services.retriever.types import Block, BlockKind, Parsed
from weft.errors import Reason, error

MAX_TITLE_CHARS: Final = 120
_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_ENDS: Final = (".", "!", "?", "。", "！", "？", ":", "：", ",", ";")
# Control characters that no text holds; NUL among them tells a binary file from a text. The others
# become spaces, one for one.
_STRAY = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")


def parse(data: bytes) -> Parsed:
    """Parse the bytes of a text.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are not UTF-8 text.
    """
    text = decode(data)
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


def decode(data: bytes) -> str:
    """Bytes to text: UTF-8 with or without a mark, line ends made one.

    Raises:
        WeftError: DOCUMENT_UNREADABLE naming the first byte at fault.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"the text is not valid UTF-8: byte {exc.start} is 0x{data[exc.start]:02x}; convert it to UTF-8",
            byte_offset=exc.start,
            byte=f"0x{data[exc.start]:02x}",
        ) from exc
    nul = text.find("\0")
    if nul >= 0:
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"the bytes are not text: there is a NUL character at position {nul}; "
            "text/plain and text/markdown can be read",
            position=nul,
        )
    return _STRAY.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))

"""From the bytes of a document to a parsed text: which parser, and whether there is anything in it.

A parser is one file in ``parsers/`` with a ``parse`` (``Parser``), imported when a document first needs it.
"""

from __future__ import annotations

import importlib
import mimetypes
from collections.abc import Mapping
from email.message import Message
from typing import Final, Protocol

from services.retriever.chunking import chunk
from services.retriever.limits import Limits
from services.retriever.types import Chunk, Parsed
from weft.errors import Reason, error

PARSERS: Final[Mapping[str, str]] = {"text/plain": "text", "text/markdown": "markdown"}
_OWN_ENDINGS: Final[Mapping[str, str]] = {"md": "text/markdown", "markdown": "text/markdown", "mdx": "text/markdown"}


class Parser(Protocol):
    """A module of ``parsers/``."""

    def parse(self, data: bytes, charset: str, limits: Limits) -> Parsed:
        """Parse a document. ``charset`` is the one that was declared, or ''."""


def mime_type(source: str, declared: str, data: bytes = b"") -> str:
    """The MIME type of a document: as declared, else told from its source's ending.

    A source without an ending counts as plain text, and so does any other kind of text/.

    Raises:
        WeftError: DOCUMENT_UNREADABLE for a kind without parser.
    """
    kind = declared.partition(";")[0].strip().lower() or _guessed(source)
    if kind not in PARSERS and kind.startswith("text/") and kind != "text/html":
        kind = "text/plain"
    if kind not in PARSERS:
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"{source!r} is of type {kind}, which this release does not read; it reads {', '.join(sorted(PARSERS))}",
            source=source,
            mime_type=kind,
            supported=", ".join(sorted(PARSERS)),
        )
    return kind


def read(data: bytes, kind: str, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - frozen
    """Parse a document of a kind that ``mime_type`` gave.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when the bytes are not of that kind, DOCUMENT_EMPTY when they
            hold no text.
    """
    parser: Parser = importlib.import_module(f"services.retriever.parsers.{PARSERS[kind]}")
    parsed = parser.parse(data, charset, limits)
    if not parsed.text.strip():
        raise error(
            Reason.DOCUMENT_EMPTY,
            f"the document holds no text ({len(data)} bytes); there is nothing to search",
            size_bytes=len(data),
        )
    return parsed


def cut(data: bytes, kind: str, charset: str, limits: Limits) -> tuple[str, list[Chunk]]:
    """The title and the chunks of a document; what a reading process does (``parsing``).

    Raises:
        WeftError: as ``read``, and DOCUMENT_TOO_LARGE.
    """
    parsed = read(data, kind, charset, limits)
    chunks = chunk(parsed)
    limits.check_chunks(len(chunks))
    return parsed.title, chunks


def charset(declared: str) -> str:
    """The charset that a declared MIME type names, or ''."""
    message = Message()
    message["content-type"] = declared
    return message.get_content_charset("")


def _guessed(source: str) -> str:
    name = source.rsplit("/", 1)[-1]
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem:
        return "text/plain"
    kind = _OWN_ENDINGS.get(ending.lower()) or mimetypes.guess_type(name)[0]
    return kind or f"unknown (.{ending[:16]})"

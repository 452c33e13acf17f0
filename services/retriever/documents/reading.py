"""From the bytes of a document to a parsed text: which parser, and whether there is anything in it.

The kind of a document is what its bytes say where they say it beyond doubt (PDF and Word files are known by
their first bytes, whatever their names), else what was declared, else what the source's ending means, else,
for a source that has no ending or an unknown one, HTML if it begins so.

A parser is one file in ``parsers/`` with a ``parse`` (``Parser``), imported when a document first needs it.
"""

from __future__ import annotations

import importlib
import mimetypes
import re
from collections.abc import Mapping
from email.message import Message
from typing import Final, Protocol

from services.retriever.documents.chunking import chunk
from services.retriever.documents.limits import Limits
from services.retriever.types import Chunk, Parsed
from weft.errors import Reason, error

TEXT: Final = "text/plain"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PARSERS: Final[Mapping[str, str]] = {TEXT: "text", "text/markdown": "markdown", HTML: "html", PDF: "pdf", DOCX: "docx"}
_ENDINGS: Final[Mapping[str, str]] = {
    "md": "text/markdown", "markdown": "text/markdown", "mdx": "text/markdown", "html": HTML, "htm": HTML,
    "xhtml": HTML, "pdf": PDF, "docx": DOCX,
}  # fmt: skip
_ALIASES: Final[Mapping[str, str]] = {
    "application/xhtml+xml": HTML,
    "application/x-pdf": PDF,
    "text/x-markdown": "text/markdown",
}
_SAYS_NOTHING: Final = ("application/octet-stream", "binary/octet-stream", "application/x-download")
_PDF_MARK: Final = b"%PDF-"
_PDF_WITHIN_BYTES: Final = 1_024
_ZIP_MARK: Final = b"PK\x03\x04"
_DOCX_PART: Final = b"word/document.xml"
_ZIP_DIRECTORY_BYTES: Final = 1 << 18
_HTML_START: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)


class Parser(Protocol):
    """A module of ``parsers/``."""

    def parse(self, data: bytes, charset: str, limits: Limits) -> Parsed:
        """Parse a document. ``charset`` is the one that was declared, or ''."""


def mime_type(source: str, declared: str, data: bytes = b"") -> str:
    """The MIME type to read a document as.

    A source without an ending counts as plain text, and so does any other kind of text/.

    Raises:
        WeftError: DOCUMENT_UNREADABLE for a kind without parser.
    """
    told = declared.partition(";")[0].strip().lower()
    kind = _ALIASES.get(told, told)
    sure = True
    if not kind or kind in _SAYS_NOTHING:
        kind, sure = _of_ending(source)
    kind = _of_bytes(data, sure and kind in PARSERS) or kind
    if kind not in PARSERS and kind.startswith("text/"):
        kind = TEXT
    if kind not in PARSERS:
        raise error(
            Reason.DOCUMENT_UNREADABLE,
            f"{source!r} is of type {kind}, which this release does not read; it reads {', '.join(sorted(PARSERS))}",
            source=source,
            mime_type=kind,
            supported=", ".join(sorted(PARSERS)),
        )
    return kind


def charset(declared: str) -> str:
    """The charset that a declared MIME type names, or ''."""
    message = Message()
    message["content-type"] = declared
    return message.get_content_charset("")


def read(data: bytes, kind: str, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse a document of a kind that ``mime_type`` gave.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when the bytes are not of that kind, DOCUMENT_EMPTY when they
            hold no text, DOCUMENT_TOO_LARGE.
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
        WeftError: as ``read``.
    """
    parsed = read(data, kind, charset, limits)
    chunks = chunk(parsed)
    limits.check_chunks(len(chunks))
    return parsed.title, chunks


def _of_ending(source: str) -> tuple[str, bool]:
    """The kind that a source's ending means, and whether there is an ending that means one."""
    name = source.partition("?")[0].rsplit("/", 1)[-1] if "://" in source else source.rsplit("/", 1)[-1]
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem:
        return TEXT, False
    kind = _ENDINGS.get(ending.lower()) or mimetypes.guess_type(name)[0]
    return (kind, True) if kind else (f"unknown (.{ending[:16]})", False)


def _of_bytes(data: bytes, sure: bool) -> str | None:
    """The kind that the bytes tell, if they do; HTML only where nothing else says what it is."""
    if data[:_PDF_WITHIN_BYTES].lstrip().startswith(_PDF_MARK):
        return PDF
    if data.startswith(_ZIP_MARK) and (
        _DOCX_PART in data[-_ZIP_DIRECTORY_BYTES:] or _DOCX_PART in data[:_ZIP_DIRECTORY_BYTES]
    ):
        return DOCX
    return HTML if not sure and _HTML_START.match(data) else None

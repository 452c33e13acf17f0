"""Word documents (docx): turned into HTML by mammoth, then read as that.

A docx is a zip of XML. Before anything unpacks it, its parts' sizes are added up: what a bomb hides in a few
kilobytes is in the directory, and a part that holds more than the directory says is refused by its checksum.
Pictures are not looked at. Paragraphs styled as title or headings become headings. There are no pages: those come
about when a printer or a screen lays the text out.

The title is the one in the document's properties, else the paragraph styled so, else the first heading.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, Final

from lxml import etree

from services.retriever.documents.limits import Limits, problem_of
from services.retriever.parsers import html
from services.retriever.types import Parsed
from weft.errors import Reason, WeftError, error

_MAX_PARTS: Final = 10_000
_TEXT: Final = (".xml", ".rels")
_BODY: Final = "word/document.xml"
_PROPERTIES: Final = "docProps/core.xml"
_TITLE: Final = "{http://purl.org/dc/elements/1.1/}title"
_STYLES: Final = "\n".join(
    [
        "p[style-name='Title'] => h1:fresh",
        "p[style-name='Subtitle'] => p:fresh",
        *(
            f"p[style-name='{name} {level}'] => h{level}:fresh"
            for level in range(1, 7)
            for name in ("Heading", "heading")
        ),
        "p[style-name='HTML Preformatted'] => pre:separator('\n')",
        "p[style-name='Code'] => pre:separator('\n')",
    ]
)
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def parse(data: bytes, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse the bytes of a docx.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are none or encrypted, DOCUMENT_TOO_LARGE when they unpack to
            more than is allowed.
    """
    import mammoth

    if data.startswith(_OLE):
        raise _unreadable("is an encrypted or an old (.doc) Word document; save it as docx without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            _check(parts, limits, len(data))
            title = _title(parts)
        page = mammoth.convert_to_html(io.BytesIO(data), style_map=_STYLES, convert_image=_no_image()).value
    except (WeftError, MemoryError):
        raise
    except Exception as exc:  # a broken zip, broken XML in it, or parts that do not fit each other
        raise _unreadable(f"is a broken docx file ({problem_of(exc)}); save it anew") from exc
    return html.read(page, title)


def _check(parts: zipfile.ZipFile, limits: Limits, packed_bytes: int) -> None:
    entries = parts.infolist()
    # A flat picture packs to next to nothing and is never unpacked here: the ratio is that of what holds text.
    limits.check_expanded(sum(e.file_size for e in entries if e.filename.endswith(_TEXT)), packed_bytes)
    limits.check_expanded(sum(entry.file_size for entry in entries))
    if len(entries) > _MAX_PARTS:
        raise _unreadable(f"has {len(entries)} parts; a docx has at most {_MAX_PARTS}")
    if _BODY not in parts.namelist():
        raise _unreadable(f"is a zip file without {_BODY}, which every docx has")
    if any(entry.flag_bits & 1 for entry in entries):
        raise _unreadable("is encrypted; save it without a password")


def _title(parts: zipfile.ZipFile) -> str:
    if _PROPERTIES not in parts.namelist():
        return ""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        found = etree.fromstring(parts.read(_PROPERTIES), parser).findtext(f".//{_TITLE}")
    except etree.XMLSyntaxError:
        return ""
    return str(found or "").strip()


def _no_image() -> Any:
    from mammoth.images import img_element

    return img_element(lambda image: {"alt": image.alt_text or ""})


def _unreadable(problem: str) -> WeftError:
    return error(Reason.DOCUMENT_UNREADABLE, f"the document {problem}", problem=problem)

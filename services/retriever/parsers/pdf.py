"""PDF: pypdf's text, line by line with its size and place, put back into paragraphs under headings (``_lines``).

A PDF says where letters stand, not what they are. What is known besides is its outline (bookmarks), if it has
one, its title, and where each page ends, so that a passage can be cited by its page.

Refused with a reason that says what to do: encrypted files, files whose end is missing, scans (pictures of pages
without text). A page that can't be read makes its document fail, by number: half a document, silently, would
be worse. pypdf bounds what a stream may unpack to and how deep and long its trees may be.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from services.retriever.documents.limits import Limits, problem_of
from services.retriever.parsers import _lines
from services.retriever.parsers._lines import Entry, Line
from services.retriever.parsers.text import tidy
from services.retriever.types import Parsed
from weft.errors import Reason, WeftError, error

_END_MARK: Final = b"%%EOF"
_END_WITHIN_BYTES: Final = 4_096
_MAX_ENTRIES: Final = 5_000  # of an outline
_NO_TITLE: Final = re.compile(
    r"\s*(?:untitled.*|microsoft (?:word|powerpoint|excel) ?- ?.*|.*\.(?:docx?|indd|tex|dvi|pdf|pptx?|rtf))?\s*",
    re.IGNORECASE,
)
_LIGATURES: Final = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})


def parse(data: bytes, charset: str = "", limits: Limits = Limits()) -> Parsed:  # noqa: B008 - it is frozen
    """Parse the bytes of a PDF.

    Raises:
        WeftError: DOCUMENT_UNREADABLE when they are none, broken or encrypted; DOCUMENT_EMPTY for a scan;
            DOCUMENT_TOO_LARGE for too many pages, or streams that unpack to too much.
    """
    import pypdf
    from pypdf.errors import LimitReachedError

    if _END_MARK not in data[-_END_WITHIN_BYTES:]:
        raise _unreadable("is not a whole PDF: its end is missing; fetch or save it anew")
    most = limits.expanded_bytes(len(data))
    bounds: dict[str, Any] = {
        f"{kind}_maximum_output_length": most for kind in ("zlib", "lzw", "run_length", "array_based_stream", "brotli")
    }
    try:
        with pypdf.apply_configuration(**bounds, stream_decoding_work_maximum_length=4 * most):
            return _read(pypdf.PdfReader(io.BytesIO(data)), limits, len(data))
    except (WeftError, MemoryError):
        raise
    except LimitReachedError as exc:
        raise limits.expands(f"has a part beyond what may be unpacked ({problem_of(exc)})", len(data)) from exc
    except Exception as exc:  # pypdf lets through whatever a broken file makes Python raise
        raise _broken("is a broken PDF", exc) from exc


def _read(reader: Any, limits: Limits, packed_bytes: int) -> Parsed:
    _decrypt(reader)
    limits.check_pages(len(reader.pages))
    pages: list[list[Line]] = []
    size = pictures = 0
    for number, page in enumerate(reader.pages, 1):
        try:
            pages.append(list(_page_lines(page)))
        except (WeftError, MemoryError):
            raise
        except Exception as exc:
            if type(exc).__name__ == "LimitReachedError":
                raise
            raise _broken(f"has a page that can't be read, page {number}", exc) from exc
        size += sum(len(line.text) for line in pages[-1])
        limits.check_expanded(size, packed_bytes)
        pictures += not pages[-1]
    if pictures == len(pages):
        raise error(
            Reason.DOCUMENT_EMPTY,
            f"the document has no text on its pages ({len(pages)}): they are pictures, as a scanner makes them; run "
            "OCR over it first",
            pages=len(pages),
        )
    return _lines.composed(pages, _outline(reader), _title(reader))


def _decrypt(reader: Any) -> None:
    from pypdf.errors import DependencyError

    if not reader.is_encrypted:
        return
    try:
        opened = reader.decrypt("")  # many are closed to changes only, and open without a password
    except (DependencyError, NotImplementedError):
        opened = 0
    if not opened:
        raise _unreadable("is encrypted; save it without a password")


def _page_lines(page: Any) -> Iterator[Line]:
    pieces: list[tuple[str, float, float]] = []

    def take(text: str, cm: Sequence[float], tm: Sequence[float], font: Any, size: float) -> None:
        if text:
            scale = math.sqrt(abs(_determinant(cm) * _determinant(tm)))
            pieces.append((text, size * scale, tm[4] * cm[1] + tm[5] * cm[3] + cm[5]))

    page.extract_text(visitor_text=take)
    words: list[str] = []
    sizes: dict[float, int] = {}
    top = 0.0
    for text, size, y in [*pieces, ("\n", 0.0, 0.0)]:
        for at, part in enumerate(text.split("\n")):
            if at:
                line = " ".join(tidy("".join(words)).translate(_LIGATURES).split())
                if line:
                    yield Line(line, max(sizes, key=sizes.__getitem__), top)
                words, sizes = [], {}
            if part.strip():
                top = top if sizes else y
                rounded = round(size * 2) / 2
                sizes[rounded] = sizes.get(rounded, 0) + len(part)
            words.append(part)


def _determinant(matrix: Sequence[float]) -> float:
    return float(matrix[0] * matrix[3] - matrix[1] * matrix[2])


def _outline(reader: Any) -> list[Entry]:
    """The bookmarks that lead to a page. A broken outline is none: the text is what counts."""
    found: list[Entry] = []
    try:
        waiting = [(1, item) for item in reversed(reader.outline)]
        while waiting and len(found) < _MAX_ENTRIES:
            level, item = waiting.pop()
            if isinstance(item, list):
                waiting += [(level + 1, inner) for inner in reversed(item)]
                continue
            page = reader.get_destination_page_number(item)
            if page is not None and page >= 0:
                found.append(Entry(page, level, tidy(str(item.title))))
    except MemoryError:
        raise
    except Exception:
        return []
    return found


def _title(reader: Any) -> str:
    try:
        title = tidy(str(reader.metadata.title or "")) if reader.metadata else ""
    except MemoryError:
        raise
    except Exception:
        return ""
    return "" if _NO_TITLE.fullmatch(title) else title.strip()


def _broken(what: str, exc: Exception) -> WeftError:
    return _unreadable(f"{what} ({problem_of(exc)}); save it anew, or send its text")


def _unreadable(problem: str) -> WeftError:
    return error(Reason.DOCUMENT_UNREADABLE, f"the document {problem}", problem=problem)

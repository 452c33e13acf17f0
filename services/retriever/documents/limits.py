"""What one document may cost before it is given up.

Each limit is told with the figure that passed it, so that an operator can raise the one that was too low
and a sender knows what to split. Bytes are counted at the door, pages, expanded bytes and chunks by what
reads the document, memory by the kernel, and time by whoever waits for the process that reads (``parsing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weft.errors import Reason, WeftError, error

_MIB = 1 << 20
_MAX_PROBLEM_CHARS = 160
_HARMLESS_BYTES = 32 * _MIB  # unpacked, whatever the ratio: a Word table of empty cells packs to a 200th


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one document."""

    max_pages: int = 5_000
    max_expanded_bytes: int = 256 * _MIB
    """Of what a compressed format holds once it is unpacked."""
    max_expansion_ratio: int = 100
    """Times its own size that a compressed document may unpack to. Prose in a docx or a PDF has 5 to 30."""
    max_chunks: int = 50_000
    max_memory_bytes: int = 1024 * _MIB
    """Beyond what the reading process needs for itself."""
    timeout_s: float = 120.0

    def check_pages(self, pages: int) -> None:
        """Raises DOCUMENT_TOO_LARGE."""
        if pages > self.max_pages:
            raise too_large("pages", f"has {pages} pages", f"{self.max_pages}", pages=pages, max_pages=self.max_pages)

    def expanded_bytes(self, packed_bytes: int | None) -> int:
        """What a compressed document of that size may unpack to, bytes; of any size where there is none."""
        if packed_bytes is None:
            return self.max_expanded_bytes
        return min(self.max_expanded_bytes, max(_HARMLESS_BYTES, self.max_expansion_ratio * packed_bytes))

    def check_expanded(self, expanded_bytes: int, packed_bytes: int | None = None) -> None:
        """Raises DOCUMENT_TOO_LARGE."""
        if expanded_bytes > self.expanded_bytes(packed_bytes):
            problem = f"unpacks to {expanded_bytes} bytes or more"
            raise self.expands(problem, packed_bytes, expanded_bytes=expanded_bytes)

    def expands(self, problem: str, packed_bytes: int | None, **figures: int) -> WeftError:
        """DOCUMENT_TOO_LARGE."""
        allowed = self.expanded_bytes(packed_bytes)
        return too_large(
            "expanded_bytes",
            problem,
            f"{allowed} bytes"
            if allowed == self.max_expanded_bytes
            else f"{allowed} bytes, for one of {packed_bytes},",
            **({} if packed_bytes is None else {"packed_bytes": packed_bytes}),
            allowed_bytes=allowed,
            **figures,
            max_expanded_bytes=self.max_expanded_bytes,
            max_expansion_ratio=self.max_expansion_ratio,
        )

    def check_chunks(self, chunks: int) -> None:
        """Raises DOCUMENT_TOO_LARGE."""
        if chunks > self.max_chunks:
            raise too_large(
                "chunks", f"makes {chunks} passages", f"{self.max_chunks}", chunks=chunks, max_chunks=self.max_chunks
            )

    def out_of_memory(self) -> WeftError:
        """DOCUMENT_TOO_LARGE."""
        return too_large(
            "memory",
            f"takes more than {self.max_memory_bytes} bytes of memory to read",
            "that",
            max_memory_bytes=self.max_memory_bytes,
        )

    def out_of_time(self) -> WeftError:
        """DOCUMENT_TOO_LARGE."""
        return too_large(
            "time", f"was not read within {self.timeout_s:g} s", "that time", max_seconds=f"{self.timeout_s:g}"
        )


def problem_of(exc: BaseException) -> str:
    """What a library said of a document, fit to be shown: on one line, bounded, printable whatever it quotes."""
    told = f"{type(exc).__name__}: {exc}".encode("ascii", "backslashreplace").decode()
    told = "".join(character if character.isprintable() else " " for character in told)
    return " ".join(told.split())[:_MAX_PROBLEM_CHARS].rstrip(": ")


def too_large(limit: str, problem: str, allowed: str, **figures: Any) -> WeftError:
    """DOCUMENT_TOO_LARGE: which limit, what the document has, what is allowed, what to do."""
    message = f"the document {problem}; {allowed} is the limit: split it, or send its text"
    return error(Reason.DOCUMENT_TOO_LARGE, message, limit=limit, **figures)

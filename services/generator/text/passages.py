"""A passage as it was read: its sentences, and the words in each.

Reading is a pure function of the text and costs more than looking for a question's terms in what was read. The same
passages answer many questions, so whoever reads them keeps the last ones, see ``reader``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from services.generator.text import tokens
from services.generator.text.sentences import Kind, Sentence, split
from services.generator.text.terms import MIN_STEM_CHARS, words_of

KEPT_PASSAGES: Final = 512  # of a few KiB each, their words included
MAX_LEAD_CHARS: Final = 40

_LEAD = re.compile(r"(?:what|who|when|where|which|why|how)\b[^,;:]*[.。]$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a span in small letters, and the beginnings by which a matcher tells that none is its own."""

    words: tuple[str, ...]
    beginnings: frozenset[str]


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage, read."""

    text: str
    spans: tuple[Sentence, ...]
    """Its sentences, listings left out."""
    words: tuple[Words, ...]
    """Of each sentence, without the listing that it takes in."""
    lead_only: tuple[bool, ...]
    """Which of them lead to an answer and are none: headings, questions, "What it costs." before the costs."""
    listings: tuple[Sentence, ...]
    tokens: int


Read: TypeAlias = Callable[[str], PassageText]


def read(text: str) -> PassageText:
    """Read a passage."""
    found = split(text)
    spans = tuple(span for span in found if span.kind is not Kind.CODE)
    return PassageText(
        text,
        spans,
        tuple(_words(text[span.start : span.listing_start or span.end]) for span in spans),
        tuple(_leads(text, span) for span in spans),
        tuple(span for span in found if span.kind is Kind.CODE),
        tokens.count(text),
    )


def reader() -> Read:
    """``read`` with a memory for the last KEPT_PASSAGES texts."""
    return lru_cache(KEPT_PASSAGES)(read)


def _words(text: str) -> Words:
    found = tuple(words_of(text))
    return Words(found, frozenset(word[:MIN_STEM_CHARS] for word in found))


def _leads(text: str, span: Sentence) -> bool:
    return (
        span.kind is Kind.HEADING
        or text[span.end - 1] in "?？"
        or (span.end - span.start <= MAX_LEAD_CHARS and _LEAD.match(text, span.start, span.end) is not None)
    )

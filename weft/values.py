"""Values that every part of Weft speaks of: where in a log, which passage, what it cost, what was left out.

One definition for the SDK and the services; on the wire they are the messages of ``weft.common.v1``, and
``weft.wire`` stands between the two. Nothing is checked here: a service checks what comes in at its door.

    Passage  <- Citation        what was found, and which words of an answer rest on it
    Epoch                       how far in a store's change log somebody looked
    Usage, Ledger, Degradation  what an answer cost, where its time went, what it went without
    FinishReason                why it ended

Offsets count code points from 0, ends are exclusive. Names of things are resource names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Epoch:
    """A place in a store's change log. Opaque: hand it back as ``min_epoch`` to read at least as far."""

    log_id: str
    """32 hex digits; epochs of different logs do not compare."""
    sequence: int
    """Of the last change seen, from 1; 0 is the empty log."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that may ground an answer."""

    name: str
    """``collections/{c}/documents/{d}/chunks/{k}``"""
    text: str
    """At most 8,192 code points."""
    title: str = ""
    section: str = ""
    """Headings above the passage, outermost first, joined with " § "."""
    page: int = 0
    """From 1; 0 where the format has no pages."""
    source: str = ""
    """Path or URI, as given at ingest."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The document's own."""
    start_char: int = 0
    """Where ``text`` begins in the document's extracted text."""
    end_char: int = 0

    @property
    def document(self) -> str:
        """Resource name of the document."""
        return self.name.partition("/chunks/")[0]


@dataclass(frozen=True, slots=True)
class Citation:
    """Ties ``answer.text[start_char:end_char]`` to the passage that supports it."""

    passage: str
    """Resource name of the passage."""
    start_char: int
    end_char: int
    quote: str = ""
    """The words of the passage that carry the claim; may be empty."""
    title: str = ""
    section: str = ""
    page: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model read and wrote."""

    input_tokens: int = 0
    """The prompt's, grounding included."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that came from a cache."""
    cost_micros: int = 0
    """By the operator's price table, in millionths of its currency; 0 where it doesn't name the model."""
    currency: str = ""
    """ISO 4217: "EUR"."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that a reply went without."""

    stage: str
    """What was skipped or failed: "retrieval", "tools", "generation"…"""
    reason: str
    """Name of the reason, as in ``WeftError.reason``."""
    fallback: str
    """What stood in for it."""
    detail: str = ""
    """One sentence for a person; may be empty."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one stage spent of the deadline. Stages may overlap."""

    stage: str
    start_ms: float
    """Milliseconds after the call was accepted."""
    duration_ms: float
    budget_ms: float
    """What it was allowed to spend; 0 where it had the whole rest."""
    status: str
    """Canonical gRPC code name, "OK" for success."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """How a turn spent its deadline."""

    deadline_ms: float = 0.0
    """What the caller gave."""
    elapsed_ms: float = 0.0
    entries: tuple[LedgerEntry, ...] = ()
    """In the order in which the stages began."""


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABSTAINED = "abstained"

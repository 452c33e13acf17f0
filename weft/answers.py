"""What the SDK hands back: plain frozen dataclasses that know nothing of gRPC.

    ask     -> Answer          text, citations, tools, ledger, what was left out
    stream  -> Event…          Started · Retrieved · ToolCall · ToolResult · TextDelta · Finished(answer)
    search  -> SearchResult    hits, and how far in the change log they look
    ingest  -> IngestResult    what went in, from which epoch on it is found, what failed and why
    jobs.…  -> Job             long work: how far it is, how it ended

What services hand each other as well (passages, citations, the ledger…) is defined in ``weft.values`` and is
to be had from here. Names of things are resource names (``sessions/{s}/turns/{t}``, ``collections/{c}/documents/{d}``).
Offsets count code points. Durations say their unit in the name. ``as_dict`` turns any of these
into what ``json.dumps`` takes; the command line's ``--json`` prints exactly that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from weft.errors import WeftError
from weft.values import Citation as Citation
from weft.values import Degradation as Degradation
from weft.values import Epoch as Epoch
from weft.values import Ledger as Ledger
from weft.values import LedgerEntry as LedgerEntry
from weft.values import Passage as Passage
from weft.values import Usage as Usage


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found."""

    text: str
    score: float
    """Higher is better; comparable within one result only."""
    document: str
    """``collections/{c}/documents/{d}``"""
    metadata: Mapping[str, Any]
    """The document's own metadata."""
    passage: str = ""
    """``collections/{c}/documents/{d}/chunks/{k}``"""
    title: str = ""
    section: str = ""
    page: int = 0
    source: str = ""
    highlights: tuple[tuple[int, int], ...] = ()
    """Spans of ``text`` that match the query: start and end, end exclusive; with ``explain``."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Scores of the parts, with ``explain``; for all higher is better: "lexical" (BM25, 0 and up), "dense" (cosine, -1
    to 1; absent where words alone were compared), with ``rerank`` also "rerank" and "fused"."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, best first."""

    hits: tuple[Hit, ...]
    epoch: Epoch | None
    """How far in the change log the search looked."""
    degraded: tuple[Degradation, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is in memory rather than in a file."""

    source: str
    """Where it came from, a path or URI of 1 to 2,048 characters; two documents of a collection with
    the same source are one document."""
    content: str | bytes
    title: str = ""
    """Found in the text when empty."""
    mime_type: str = ""
    """Told from the ending of ``source`` when empty; text, Markdown, HTML, PDF and docx are known."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Kept with the document and given back with each hit; at most 16 KiB as JSON."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """The record of a document that is in."""

    name: str
    """``collections/{c}/documents/{d}``"""
    source: str
    title: str
    mime_type: str
    sha256: str
    """Of its bytes, 64 hex digits."""
    size_bytes: int
    chunks: int
    """Passages made of it."""
    metadata: Mapping[str, Any]
    updated_s: float
    """When it last changed, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents with one embedder."""

    name: str
    """``collections/{c}``"""
    embedder: str
    """Its URL; ``none:`` where words alone are compared."""
    dimension: int
    """Of its vectors; 0 without embedder."""
    documents: int
    chunks: int
    """Passages in it."""
    created_s: float
    """When it was made, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """One more document is in, or failed."""

    source: str
    outcome: str
    """"indexed", "unchanged" or "failed"."""
    chunks: int
    error: WeftError | None
    """Why it failed."""
    documents_done: int
    documents_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class FailedDocument:
    """A document that was not taken in."""

    source: str
    error: WeftError


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What came of an ingest."""

    documents: int
    """Documents that are in, unchanged ones included."""
    unchanged: int
    """Of these, those whose content was there already."""
    chunks: int
    """Passages of the documents that are in."""
    epoch: Epoch | None
    """From here on all of them are found; None where nothing went in."""
    failed: tuple[FailedDocument, ...] = ()
    job: str = ""
    """``jobs/{id}`` that does the rest, of a detached ingest; empty when all is done."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is."""

    done: int
    total: int
    """0 while not known."""
    unit: str
    message: str = ""
    """One line for a person; may be empty."""


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of long work."""

    name: str
    """``jobs/{id}``"""
    kind: str
    """"ingest", "reindex"…"""
    state: str
    """"queued", "running", "succeeded", "failed" or "cancelled"."""
    progress: JobProgress
    attempts: int
    """How often a worker began it."""
    created_s: float
    """When it was asked for, in seconds since 1970."""
    updated_s: float
    """When its state last changed, in seconds since 1970."""
    error: WeftError | None = None
    """Why it failed."""
    result: IngestResult | None = None
    """What an ingest made."""

    @property
    def ended(self) -> bool:
        """Whether it stays as it is."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Started:
    """Event: the turn has begun."""

    session: str
    turn: str
    trace_id: str
    """32 hex digits; ``weft trace`` shows it."""
    versions: Mapping[str, str]
    """Version of each service that took part so far."""
    replayed: bool
    """A stored answer is played again."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Event: passages were found."""

    passages: tuple[Passage, ...]
    epoch: Epoch | None
    query: str
    """What was searched: the question, completed from the session where it leans on it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Event: a tool is being called."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """Event: a tool has answered, or failed."""

    call_id: str
    tool: str
    result: Mapping[str, Any] | None
    """None where it failed."""
    text: str
    """The result as one sentence."""
    error: WeftError | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Event: a piece of the answer, to be appended."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn's answer and all that is known of how it came about."""

    text: str
    citations: tuple[Citation, ...]
    """By start."""
    session: str
    """``sessions/{s}``: hand it to the next ``ask`` to go on with the conversation."""
    turn: str
    trace_id: str
    finish_reason: str
    """"stop", "length", "tool_calls" or "abstained"."""
    tools: tuple[ToolResult, ...] = ()
    passages: tuple[Passage, ...] = ()
    """What was found, best first, cited or not. Where a chat model wrote "[3]" in the text, it means the third."""
    ledger: Ledger = field(default_factory=Ledger)
    degraded: tuple[Degradation, ...] = ()
    usage: Usage = field(default_factory=Usage)
    cached: bool = False
    """The answer came from a cache."""
    replayed: bool = False
    """It is the stored answer to this very request."""
    epoch: Epoch | None = None
    """How far in the change log the turn looked; None where it did not search."""
    query: str = ""
    """What was searched: the question, completed from the session where it leans on it."""

    @property
    def abstained(self) -> bool:
        """Whether the documents hold no answer; ``text`` says so."""
        return self.finish_reason == "abstained"


@dataclass(frozen=True, slots=True)
class Finished:
    """Event: the last one of a turn."""

    answer: Answer


Event = Started | Retrieved | ToolCall | ToolResult | TextDelta | Finished


def as_dict(value: Any) -> Any:
    """``value`` as dicts, lists, strings and numbers, fields by their names."""
    if isinstance(value, WeftError):
        found = {"reason": value.reason, "code": value.code.name, "message": value.message, "metadata": value.metadata}
        return found | ({"partial_text": value.partial_text} if value.partial_text else {})
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_dict(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_dict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_dict(inner) for inner in value]
    return value

"""What the retriever's rooms hand to each other: plain values, without gRPC and without a store.

A *document* is one source text with its record. It is cut into *chunks*; a chunk that answers a query
is a *hit*. Offsets are code points of the document's extracted text, ``text[start_char:end_char]``. All
are found under a ``CollectionKey``, which carries the tenant: there is no way to ask for a collection
without saying whose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.errors import WeftError

Vectors = NDArray[np.float32]  # one row per text, of length 1
DEFAULT_COLLECTION = "default"


class CollectionKey(NamedTuple):
    """Whose collection, and which."""

    tenant: str
    name: str

    @property
    def resource(self) -> str:
        """``collections/{c}``, as callers write it."""
        return f"collections/{self.name}"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A position in a change log: everything up to ``sequence`` is seen. Logs do not compare."""

    log_id: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.log_id}:{self.sequence}"


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents with one embedder."""

    key: CollectionKey
    id: int  # of this incarnation: a collection made anew under an old name has another
    embedder: str  # URL of the embedder that made its vectors
    wanted_embedder: str  # what it would have, had it been there: differs where it had to do without
    dimension: int
    created_s: float
    sequence: int  # of its last change
    document_count: int = 0
    chunk_count: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """Record of a source text."""

    name: str  # last part of the resource name
    source: str
    title: str
    mime_type: str
    sha256: str
    size_bytes: int
    chunk_count: int = 0
    metadata: Mapping[str, object] = field(default_factory=dict)
    updated_s: float = 0.0
    sequence: int = 0
    arrived_s: float = 0.0  # when its upload came in, by the store's clock: the latest of its source stands

    def same_content(self, other: Document) -> bool:
        """Whether taking ``other`` in would change nothing: the same bytes under the same description."""
        mine = (self.name, self.source, self.sha256, self.mime_type, self.metadata)
        theirs = (other.name, other.source, other.sha256, other.mime_type, other.metadata)
        # A title that the caller did not give is found in the text: the same bytes have the same one.
        return mine == theirs and other.title in ("", self.title)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. ``section`` is the path of headings above it, outermost first; ``page`` is the first
    that it stands on, from 1, or 0 where there are no pages."""

    number: int
    text: str
    start_char: int
    end_char: int
    section: tuple[str, ...] = ()
    page: int = 0


class BlockKind(Enum):
    """What a stretch of a parsed text is."""

    HEADING = auto()
    PROSE = auto()
    CODE = auto()


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a parsed text, ``start`` and ``end`` in code points. ``level`` is a heading's, from 1.
    Its first ``mark`` code points only say what it is: ``## ``, ``- ``."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser found: the text that offsets count in, its blocks in order, and a title or ''.
    ``pages`` says where each page begins, in a kind that has pages."""

    text: str
    blocks: tuple[Block, ...]
    title: str = ""
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document that begins to come in. ``refused`` is set where it is turned away by what it says of itself."""

    source: str
    title: str = ""
    mime_type: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    refused: WeftError | None = None


class Outcome(Enum):
    """What became of a document."""

    INDEXED = auto()
    UNCHANGED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of one document, and how far the ingest is."""

    source: str
    outcome: Outcome
    chunks: int
    epoch: Epoch
    documents_done: int
    bytes_done: int
    error: WeftError | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents a search may look at. Two are equal where their texts are, which makes them keys."""

    text: str
    matches: Callable[[Document], bool] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to a collection."""

    key: CollectionKey
    text: str
    top_k: int = 5
    max_per_document: int = 0  # 0: no cap
    explain: bool = False
    min_epoch: Epoch | None = None
    filter: Filter | None = None
    allow_cached: bool = True
    rerank: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found, with its document. ``parts`` holds each side's own score, with ``explain``."""

    document: Document
    chunk: Chunk
    score: float
    parts: Mapping[str, float]
    highlights: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Lack:
    """What an answer had to do without, why, and what stood in."""

    stage: str
    reason: str
    fallback: str
    detail: str


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a query: hits, best first, and how far in the log it looks."""

    hits: tuple[Hit, ...]
    lacks: tuple[Lack, ...]
    epoch: Epoch
    cached: bool = False


_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")


def document_name(source: str) -> str:
    """The name of the document that comes from ``source``: readable, and its own for every source.

    >>> document_name("docs/Getting Started.md")
    'getting-started-md-5d2a74a63b42'
    """
    slug = _NOT_IN_SLUG.sub("-", source.rsplit("/", 1)[-1].lower()).strip("-")[:40].strip("-") or "document"
    return f"{slug}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"

"""What the domain needs from outside, as protocols: a log, indexes, embedders, parsers.

An implementation is one file in ``logs/``, ``indexes/``, ``embedders/`` or ``parsers/``, found by the scheme of
its URL (parsers: by MIME type, ``reading``). Nothing in the domain imports one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors

Slots = NDArray[np.int32]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as the log holds it. ``vectors`` has a row per chunk, or no column without embedder."""

    key: CollectionKey
    collection_id: int
    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Content:
    """A document that only wants to be published: its chunks are those of ``batch``, if there is one, and the last."""

    document: Document
    last: Sequence[Chunk]
    vectors: Vectors  # of the last
    batch: int | None = None  # staged before
    copied: bool = False  # it stands like this in another collection: when it arrived decides nothing here


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the log: all that was touched after one position and up to ``sequence``, as it stands now.

    The log says what was touched, its tables say how that stands: a document changed five times in
    between is read once. With ``more``, the log goes on after ``sequence``, and a document may stand here
    as a later page leaves it, or be gone already. So whoever applied a page knows everything up to
    ``sequence`` and perhaps something newer; the later page brings that again, to no effect.
    ``gone_documents`` are (collection id, document name).
    """

    sequence: int
    more: bool = False
    collections: tuple[Collection, ...] = ()
    gone_collections: tuple[int, ...] = ()
    documents: tuple[StoredDocument, ...] = ()
    gone_documents: tuple[tuple[int, str], ...] = ()


READ_CHUNKS = 4_096  # of a page of the log: about 10 MB of texts and vectors of 384 columns


class Log(Protocol):
    """The change log with the tables it leads to: the one truth of all replicas.

    Sequence numbers are given in commit order, from 1. Every method may raise WeftError with
    STORE_CORRUPT or DEPENDENCY_UNAVAILABLE.
    """

    @property
    def log_id(self) -> str:
        """Identity of the log, 32 hex digits; a store made anew has another."""

    async def wait_changed(self, after: int, timeout_s: float) -> bool:
        """Wait until the log goes beyond sequence ``after``, or so long; returns whether it does.

        A commit of this process ends the wait at once, one of another within some milliseconds.

        Raises:
            WeftError: STORE_CORRUPT, as ``read`` does.
        """

    async def read(self, after: int, max_chunks: int = READ_CHUNKS) -> Changes:
        """What changed after sequence ``after``, from 0 on everything: a page of up to ``max_chunks`` chunks.

        A larger document comes whole, as a page of its own. What has no chunks counts as one.

        Raises:
            WeftError: STORE_CORRUPT when the log ends before ``after``: it lost what was read from it, as a
                store does that was set back to a backup.
        """

    async def create_collection(
        self, key: CollectionKey, embedder: str, wanted_embedder: str, dimension: int
    ) -> Collection:
        """Make a collection, or return the one of that name as it is."""

    async def get_collection(self, key: CollectionKey) -> Collection | None:
        """The collection, or None."""

    async def list_collections(self, tenant: str, after: str, limit: int) -> list[Collection]:
        """A tenant's collections by name, from the first name past ``after``."""

    async def delete_collection(self, key: CollectionKey) -> int | None:
        """Delete it with all that is in it; the sequence of that, or None where there is none."""

    async def switch(self, old: Collection, new: Collection) -> int | None:
        """Give ``new``, made under another name, the name of ``old``, and delete ``old``, at once.

        ``new`` takes over when ``old`` was made, too: so one tells a collection that was moved from one that was
        made anew. Returns the sequence, or None, and nothing is done, where either has changed since it was read.
        """

    async def touched(self, collection: Collection, after: int, limit: int) -> list[tuple[int, str]]:
        """Sequence and name of documents put or deleted after a sequence, oldest first; names may come again."""

    async def get_stored(self, collection: Collection, name: str) -> StoredDocument | None:
        """A document with its chunks and vectors, or None."""

    async def get_document(self, collection: Collection, name: str) -> Document | None:
        """The document's record, or None."""

    async def get_documents(self, collection: Collection, names: Sequence[str]) -> dict[str, Document]:
        """The records of those of ``names`` that are there; none where the collection was deleted or moved."""

    async def list_documents(self, collection: Collection, after: str, limit: int) -> list[Document]:
        """Records by name, from the first name past ``after``."""

    async def delete_document(self, collection: Collection, name: str) -> int | None:
        """Delete it; the sequence of that, or None where there is none.

        Raises:
            WeftError: COLLECTION_NOT_FOUND, when the collection was deleted or moved since it was read.
        """

    async def stage(self, collection: Collection, batch: int | None, chunks: Sequence[Chunk], vectors: Vectors) -> int:
        """Put chunks into a batch that nobody sees yet; ``batch`` None begins one. Returns the batch."""

    async def publish(self, collection: Collection, contents: Sequence[Content]) -> list[Document | None]:
        """Give documents, each of another name, their content: all or none, in one step.

        What arrived last stands: an upload that was worked off later than one that arrived after it, or than the
        deletion of its document, changes nothing. Deletions are known for ``DELETED_LIFE_S``; an ``arrived_s`` of 0
        is after all of them.

        Returns the records as they now stand: a document's former one where that has the same content or arrived
        later, None where it was deleted later.

        Raises:
            WeftError: COLLECTION_NOT_FOUND when the collection went away meanwhile.
        """

    async def confirm(self, collection: Collection, documents: Sequence[Document]) -> list[bool]:
        """Note of documents that they arrived again, in ``arrived_s``, as these records say that they are.

        Returns of each whether it does stand like that still; nothing is noted of the others.
        """

    async def discard(self, batch: int) -> None:
        """Drop a staged batch."""

    async def sweep(self) -> bool:
        """Remove a little of what nobody leads to any more; returns whether there may be more."""

    async def close(self) -> None:
        """Let go of the store."""


class VectorIndex(Protocol):
    """Dense side of a segment: built once over all its vectors, then never changed."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What has to be kept to open it again with ``VectorIndexes.load``."""

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None) -> tuple[Slots, Scores]:
        """The ``k`` nearest ``allowed`` rows (None: all) to the one row of ``query``, best first, with cosines.

        The cosines are those of ``cosines.cosines``; an exact index settles ties by row.
        """

    def vectors(self, rows: Slots) -> Vectors:
        """The vectors of ``rows``, one each."""


class VectorIndexes(Protocol):
    """Makes the vector indexes of a replica's own segments; what an index URL opens, unless a ``SharedIndex``."""

    @property
    def kind(self) -> str:
        """Names the layout of ``VectorIndex.arrays``: what was kept under another can't be loaded."""

    def build(self, vectors: Vectors, *, settled: bool) -> VectorIndex | None:
        """An index of ``vectors``. What isn't ``settled`` is soon joined with others: it has to be made at once.

        None where replicas keep no vectors, since a ``SharedIndex`` has them.
        """

    def outgrown(self, index: VectorIndex) -> bool:
        """Whether its vectors should be indexed anew, settled."""

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> VectorIndex:
        """The index whose ``arrays`` were kept; they may lie in a mapped file."""


class Place(NamedTuple):
    """A passage as a shared index knows it. A document that changed has another ``sequence``: other passages."""

    document: str
    sequence: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Near:
    """What a shared index found: passages, best first, and the cosines of those that were asked about."""

    sequence: int  # the watermark of the moment that all of it is from
    places: tuple[Place, ...]
    cosines: Scores
    asked: Scores  # NaN where the index doesn't have the passage


@dataclass(frozen=True, slots=True)
class WriteLease:
    """The right to write to a shared index for a while."""

    fence: int  # grows with each that is given to another


@runtime_checkable
class SharedIndex(Protocol):
    """Dense side of all collections in a store that all replicas search, in place of ``VectorIndexes``.

    It follows the log at one remove: whoever holds its one lease applies the log's changes, and the index keeps with
    them the *watermark*, the sequence that it has seen. Passages are kept by the id of a collection's incarnation,
    never by its name: to move a collection or to make it anew needs nothing here, and what belongs to
    one collection is no candidate in another's search. What the index holds can be made again from the log.

    What a store has to be able to do: filter by document, and refuse a write under an old fence. One without
    transactions writes the watermark last; the same changes again must do no harm.

    Every method but ``close`` may raise DEPENDENCY_UNAVAILABLE or STORE_CORRUPT, at once or after a bounded time; the
    next call tries again by itself. INVALID_FIELD says that the store is another log's, or can't be one.
    """

    async def start(self, log_id: str) -> None:
        """Make the store's tables where they aren't there. Tells early what is wrong.

        Raises:
            WeftError: INVALID_FIELD when the store is filled from another log than this.
        """

    async def watermark(self, after: int, timeout_s: float) -> int:
        """The sequence that the index has seen, as soon as it isn't ``after``, or so long after."""

    async def search(
        self, collection: Collection, vector: Vectors, k: int, documents: Sequence[str] | None, asked: Sequence[Place]
    ) -> Near:
        """The ``k`` passages nearest to the one row of ``vector``, best first, ties by document name and chunk.

        Of ``documents`` alone, unless None. ``asked`` are passages whose cosines are wanted as well. All is from one
        moment, or its ``sequence`` is the earliest of them. Cosines are right to about six digits. A collection
        that isn't there yet has no passages.
        """

    async def claim(self, owner: str, lease_s: float) -> WriteLease | None:
        """Take the lease, or prolong it; None while another owner has it."""

    async def apply(self, lease: WriteLease, after: int, changes: Changes) -> bool:
        """Apply what changed after sequence ``after``, all of it or nothing, and set the watermark to the page's end.

        False, and nothing is done, where the lease went to another or the watermark isn't ``after``.
        """

    async def clear(self, lease: WriteLease) -> bool:
        """Forget everything and begin at sequence 0: the log lost what had been applied. False as in ``apply``."""

    async def give_up(self, lease: WriteLease) -> None:
        """Let another have the lease now."""

    async def close(self) -> None:
        """Let go of the store."""


class Embedder(Protocol):
    """Makes vectors of texts. Calls come from worker threads, several at once."""

    @property
    def url(self) -> str:
        """The URL that names it in a collection's record."""

    @property
    def dimension(self) -> int:
        """Length of its vectors; 0 for none."""

    @property
    def query_batch(self) -> int:
        """How many queries it gains from embedding at once; 1 where one after the other takes as long."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per passage, of length 1. The same text gives the same vector, whatever its company."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same for queries, which some models embed in another way than passages."""

    def knowledge(self, text: str) -> float:
        """How much of ``text`` it knows the words of: 0 for a language it never learned, 1 for its own."""

    def close(self) -> None:
        """Let go of what it holds."""


class Reranker(Protocol):
    """Reads a query and a passage together. Calls come from worker threads, several at once."""

    @property
    def url(self) -> str:
        """The URL that opened it."""

    def scores(self, query: str, passages: Sequence[str]) -> Scores:
        """How well each passage answers the query: higher is better, in the model's own range."""


@dataclass(frozen=True, slots=True)
class EmbedderFiles:
    """What an embedder is given when it is opened, beside its URL."""

    cache_dir: Path | None  # where prepared models lie; None for the platform's place
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)  # by host

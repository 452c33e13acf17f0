"""A segment: some documents of a collection, packed into arrays with an index for each side. It never changes.

    documents   names, records, which rows are theirs      (in the order of their names)
    chunks      texts and places, one row to a chunk       (documents' order, then numbers)
    words       postings                                   (``bm25``)
    dense       vectors and what finds them                (an index plugin; None without embedder)

All of it is arrays, so a segment that was just built, one that was joined from others and one that lies in a
mapped file are the same thing, and none of them holds a Python object per chunk. ``Entry``s are made when
somebody asks for a row.

Rows stand in the order of document name and chunk number. So ties between rows of a segment fall alike on
every replica by falling by row, and joining keeps each segment's rows in their order.

What was deleted later is no business of the segment: the view keeps that beside it.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import StoredDocument, VectorIndex, VectorIndexes
from services.retriever.segments.bm25 import Postings, term_key
from services.retriever.segments.lexicon import terms
from services.retriever.segments.packed import Mask, Rows, Texts, unhurried
from services.retriever.types import Chunk, Document

_RECORDS_KEPT: Final = 512  # documents' records that stay decoded, per segment
_RECORDS_A_BREATH: Final = 100
_CHUNKS_A_BREATH: Final = 8  # about a millisecond's reading
_MASKS_KEPT: Final = 16  # filters' answers that stay, per segment


class Entry(NamedTuple):
    """A chunk and the document it is of."""

    document: Document
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Documents:
    """Records of a segment's documents, by number in the order of their names."""

    names: Texts
    records: Texts  # JSON
    firsts: Rows  # a document's rows begin here; one more, where the last's end
    keys: NDArray[np.uint64]  # of the names, ascending
    by_key: NDArray[np.int32]  # whose key that is
    _decoded: dict[int, Document] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, documents: Sequence[Document], chunk_counts: Sequence[int]) -> Documents:
        """Pack records that stand in order."""
        names = Texts.of([document.name for document in documents])
        records = Texts.of([_record(document) for document in documents])
        firsts = np.cumsum([0, *chunk_counts]).astype(np.int32)
        return cls(names, records, firsts, *sorted_keys(names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Document:
        document = self._decoded.get(number)
        if document is None:
            document = Document(**json.loads(self.records[number]))
            if len(self._decoded) >= _RECORDS_KEPT:
                self._decoded.clear()
            self._decoded[number] = document
        return document

    def find(self, names: Sequence[str], keys: NDArray[np.uint64]) -> list[int]:
        """The numbers of those of ``names`` that are here; ``keys`` are their keys."""
        if not len(self.keys):
            return []
        at = self.keys.searchsorted(keys)
        at[at == len(self.keys)] = 0
        found = []
        for hit in np.flatnonzero(self.keys[at] == keys).tolist():
            place, key = int(at[hit]), keys[hit]
            while place < len(self.keys) and self.keys[place] == key:  # two names may share a key
                number = int(self.by_key[place])
                if self.names[number] == names[hit]:
                    found.append(number)
                place += 1
        return found


@dataclass(frozen=True, slots=True)
class Chunks:
    """Texts of a segment's rows, and where they stand in their documents."""

    texts: Texts
    documents: NDArray[np.int32]  # number of each row's document
    numbers: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    pages: NDArray[np.int32]
    sections: NDArray[np.int32]
    paths: Texts  # what ``sections`` number: JSON lists of headings

    @classmethod
    def of(cls, chunks: Sequence[Chunk], documents: Sequence[int]) -> Chunks:
        """Pack chunks that stand in order."""
        paths: dict[tuple[str, ...], int] = {}
        sections = [paths.setdefault(tuple(chunk.section), len(paths)) for chunk in chunks]
        return cls(
            Texts.of([chunk.text for chunk in chunks]),
            np.array(documents, np.int32),
            np.array([chunk.number for chunk in chunks], np.int32),
            np.array([chunk.start_char for chunk in chunks], np.int64),
            np.array([chunk.end_char for chunk in chunks], np.int64),
            np.array([chunk.page for chunk in chunks], np.int32),
            np.array(sections, np.int32),
            Texts.of([json.dumps(path, ensure_ascii=False) for path in paths]),
        )

    def __getitem__(self, row: int) -> Chunk:
        return Chunk(
            int(self.numbers[row]),
            self.texts[row],
            int(self.starts[row]),
            int(self.ends[row]),
            tuple(json.loads(self.paths[int(self.sections[row])])),
            int(self.pages[row]),
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """See the module."""

    documents: Documents
    chunks: Chunks
    words: Postings
    dense: VectorIndex | None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same for the same rows, wherever they lie
    path: Path | None = None  # the file they are mapped from
    _masks: Masks = field(default_factory=lambda: Masks(), compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.chunks.numbers)

    def entry(self, row: int) -> Entry:
        """What stands in a row."""
        return Entry(self.documents[int(self.chunks.documents[row])], self.chunks[row])

    def place(self, row: int) -> tuple[bytes, int]:
        """What orders rows across segments: the document's name and the chunk's number."""
        return self.documents.names.raw(int(self.chunks.documents[row])), int(self.chunks.numbers[row])

    def row_of(self, number: int, sequence: int, chunk: int) -> int | None:
        """The row of a document's chunk; None where the document is of another sequence."""
        if self.documents[number].sequence != sequence:
            return None
        first, last = self.documents.firsts[number : number + 2].tolist()
        row = first + int(self.chunks.numbers[first:last].searchsorted(chunk))
        return row if row < last and self.chunks.numbers[row] == chunk else None

    def mapped(self, other: Segment) -> Segment:
        """``other``, which has the same rows in a file, with what this one remembers."""
        return replace(other, _masks=self._masks)

    def rows_of(self, chosen: Mask) -> Mask:
        """The rows of ``chosen`` documents."""
        return chosen.take(self.chunks.documents)

    def matching(self, key: Hashable, predicate: Callable[[Document], bool]) -> Mask:
        """The rows of documents that ``predicate`` holds for; remembered under ``key``."""
        mask = self._masks.get(key)
        if mask is None:
            records = unhurried(self.documents.records.each(), _RECORDS_A_BREATH)
            chosen = np.fromiter((predicate(Document(**json.loads(record))) for record in records), np.bool_)
            mask = self.rows_of(chosen)
            self._masks.put(key, mask)
        return mask


class Masks:
    """Answers of the last few filters. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._masks: OrderedDict[Hashable, Mask] = OrderedDict()

    def get(self, key: Hashable) -> Mask | None:
        """The answer, if it is still here."""
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
            return self._masks.get(key)

    def put(self, key: Hashable, mask: Mask) -> None:
        """Keep an answer; the one not asked for the longest goes."""
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > _MASKS_KEPT:
                self._masks.popitem(last=False)


def build(stored: Sequence[StoredDocument], indexes: VectorIndexes, dimension: int) -> Segment | None:
    """A segment of these documents; None where they have no chunk among them."""
    put = sorted((one for one in stored if one.chunks), key=lambda one: one.document.name)
    if not put:
        return None
    counts = [len(one.chunks) for one in put]
    chunks = unhurried(((one.document.title, chunk) for one in put for chunk in one.chunks), _CHUNKS_A_BREATH)
    texts = [terms(indexed_text(title, chunk)) for title, chunk in chunks]
    dense = indexes.build(np.concatenate([one.vectors for one in put]), settled=False) if dimension else None
    numbers = np.repeat(np.arange(len(put)), counts).tolist()
    return Segment(
        Documents.of([one.document for one in put], counts),
        Chunks.of([chunk for one in put for chunk in one.chunks], numbers),
        Postings.of(texts),
        dense,
    )


def sorted_keys(names: Texts) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """The keys of names in ascending order, and whose each is."""
    keys = name_keys([str(raw, "utf-8", "surrogatepass") for raw in names.each()])
    order = np.argsort(keys, kind="stable")
    return keys[order], order.astype(np.int32)


def name_keys(names: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each name, to look names up by. The name itself is compared after."""
    return np.fromiter(map(term_key, names), np.uint64, len(names))


def indexed_text(title: str, chunk: Chunk) -> str:
    """What both sides index of a chunk: its text under its title and headings, each said once."""
    above = [line for line in dict.fromkeys((title, *chunk.section)) if line and not chunk.text.startswith(line)]
    return "\n".join((*above, chunk.text))


def _record(document: Document) -> str:
    values: dict[str, Any] = {one.name: getattr(document, one.name) for one in fields(document)}
    values["metadata"] = dict(document.metadata)
    return json.dumps(values, ensure_ascii=False)

"""What a replica holds of a collection: chunks in numbered slots, and an index over them for each side.

A ``View`` never changes. ``changed`` makes the next one, sharing whatever it can with the last; searches
go on reading the view they began with. A new chunk takes the next free slot; a removed one leaves its
slot empty, and when more slots are empty than full the view is built anew without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.retriever.lexicon import terms
from services.retriever.ports import LexicalIndex, StoredDocument, VectorIndex, VectorIndexes
from services.retriever.types import Chunk, Collection, Document, Vectors

_LEAST_SLOTS_TO_REBUILD: Final = 256


class Entry(NamedTuple):
    """A chunk and the document it is of."""

    document: Document
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Makers:
    """Where empty indexes come from."""

    vectors: VectorIndexes
    lexical: LexicalIndex  # the empty one


@dataclass(frozen=True, slots=True)
class View:
    """One state of a collection on this replica."""

    collection: Collection
    makers: Makers
    dense: VectorIndex | None  # None without embedder
    lexical: LexicalIndex
    entries: Sequence[Entry | None] = ()  # by slot
    live: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    slots_of: Mapping[str, range] = field(default_factory=dict)  # by document name

    @classmethod
    def empty(cls, collection: Collection, makers: Makers) -> View:
        """The view of a collection without documents."""
        dense = makers.vectors.empty(collection.dimension) if collection.dimension else None
        return cls(collection, makers, dense, makers.lexical)

    def changed(self, collection: Collection, put: Sequence[StoredDocument], gone: Sequence[str]) -> View:
        """The next view: documents of ``put`` in, their former selves and those of ``gone`` out."""
        entries, slots_of = list(self.entries), dict(self.slots_of)
        removed: dict[int, list[str]] = {}
        for name in (*gone, *(stored.document.name for stored in put)):
            for slot in slots_of.pop(name, ()):
                removed[slot] = _terms(self.entry(slot))
                entries[slot] = None
        added: dict[int, list[str]] = {}
        for stored in put:
            first = len(entries)
            for chunk in stored.chunks:
                entry = Entry(stored.document, chunk)
                added[len(entries)] = _terms(entry)
                entries.append(entry)
            slots_of[stored.document.name] = range(first, len(entries))
        live = np.concatenate((self.live, np.ones(len(added), np.bool_)))
        live[list(removed)] = False
        rows = [stored.vectors for stored in put if len(stored.vectors)]
        dense = self.dense.added(np.concatenate(rows)) if self.dense is not None and rows else self.dense
        lexical = self.lexical.changed(added=added, removed=removed) if added or removed else self.lexical
        view = replace(
            self,
            collection=collection,
            dense=dense,
            lexical=lexical,
            entries=entries,
            live=live,
            slots_of=slots_of,
        )
        empty = len(entries) - int(view.live.sum())
        return view._rebuilt() if empty > max(_LEAST_SLOTS_TO_REBUILD, len(entries) // 2) else view

    def entry(self, slot: int) -> Entry:
        """What lies in a live slot."""
        entry = self.entries[slot]
        if entry is None:
            raise IndexError(f"slot {slot} is empty")
        return entry

    def _rebuilt(self) -> View:
        stored = [
            StoredDocument(
                self.collection.key,
                self.collection.id,
                document=self.entry(slots[0]).document,
                chunks=tuple(self.entry(slot).chunk for slot in slots),
                vectors=self._vectors(slots),
            )
            for slots in self.slots_of.values()
            if slots
        ]
        return View.empty(self.collection, self.makers).changed(self.collection, stored, ())

    def _vectors(self, slots: range) -> Vectors:
        if self.dense is None:
            return np.zeros((len(slots), 0), np.float32)
        return self.dense.vectors(np.array(slots, np.int32))


def indexed_text(title: str, chunk: Chunk) -> str:
    """What both sides index of a chunk: its text under its title and headings, each said once."""
    above = [line for line in dict.fromkeys((title, *chunk.section)) if line and not chunk.text.startswith(line)]
    return "\n".join((*above, chunk.text))


def _terms(entry: Entry) -> list[str]:
    return terms(indexed_text(entry.document.title, entry.chunk))

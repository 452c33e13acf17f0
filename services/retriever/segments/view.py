"""What a replica holds of a collection: a short list of segments, and which of their documents still stand.

A ``View`` never changes. ``changed`` makes the next one: what was put becomes a small segment of its own, what
went or was replaced is marked in the segment where it lies. Nothing else is touched, so a change costs what it
brings and not what is there, and searches go on reading the view they began with. A few of the smallest segments
are joined on the way; ``merging`` joins the others later.

To a search the segments are one row of *slots*: a segment's rows follow those of the segments before it. Slots
mean something in this view alone. ``version`` is what caches key on: it is another one after every change of the
collection, and the same one after a merge, which moves passages to other slots but changes no answer.

Scores and their order don't depend on how the passages came to lie in segments: BM25 counts over all that stand,
cosines are computed in one way (``cosines``), and ties fall by document name and chunk number. Two replicas at one
position of the log give the same answers, to the last bit, where the vector index is exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import Place, Scores, Slots, StoredDocument, VectorIndexes
from services.retriever.segments.bm25 import Weighed, keys_of, term_key, weigh
from services.retriever.segments.cosines import cosines
from services.retriever.segments.joining import tidied
from services.retriever.segments.packed import Mask, Rows, distinct
from services.retriever.segments.part import Part
from services.retriever.segments.segment import Entry, build, name_keys
from services.retriever.types import Collection, Document, Vectors

__all__ = ["Entry", "Version", "View"]
NO_SLOTS: Final[Slots] = np.zeros(0, np.int32)


class Version(NamedTuple):
    """Which state of which incarnation of a collection; the number grows with each change."""

    collection_id: int
    number: int


@dataclass(frozen=True, slots=True)
class View:
    """One state of a collection on this replica. Make the first with ``empty``."""

    collection: Collection
    indexes: VectorIndexes
    parts: tuple[Part, ...]
    version: Version
    firsts: tuple[int, ...]  # slot of each part's first row; one more, where the last ends
    live_count: int  # passages that stand
    live_length: int

    @classmethod
    def empty(cls, collection: Collection, indexes: VectorIndexes) -> View:
        """The view of a collection without documents."""
        return cls(collection, indexes, (), Version(collection.id, 0), (0,), 0, 0)

    @property
    def size(self) -> int:
        """How many slots there are, those that no longer stand included."""
        return self.firsts[-1]

    # -- changes ----------------------------------------------------------------------------------------

    def changed(self, collection: Collection, put: Sequence[StoredDocument], gone: Sequence[str]) -> View:
        """The next view: documents of ``put`` in, their former selves and those of ``gone`` out."""
        names = [*gone, *(stored.document.name for stored in put)]
        keys = name_keys(names)
        parts = [self._without(part, names, keys) for part in self.parts] if names else list(self.parts)
        segment = build(put, self.indexes, self.collection.dimension)
        if segment is not None:
            parts = tidied([*parts, Part.of(segment)], self.indexes)
        version = Version(collection.id, self.version.number + 1)
        return replace(self, collection=collection, version=version).with_parts(parts)

    def with_parts(self, parts: Sequence[Part]) -> View:
        """The same passages in other segments; those of which nothing stands are left out."""
        kept = tuple(part for part in parts if part.live_count)
        firsts = tuple(np.cumsum([0, *(len(part.segment) for part in kept)]).tolist())
        live_count, live_length = sum(part.live_count for part in kept), sum(part.live_length for part in kept)
        return replace(self, parts=kept, firsts=firsts, live_count=live_count, live_length=live_length)

    def _without(self, part: Part, names: Sequence[str], keys: NDArray[np.uint64]) -> Part:
        found = part.segment.documents.find(names, keys)
        return part.without(found) if found else part

    # -- searching --------------------------------------------------------------------------------------

    def search_words(
        self, words: Mapping[str, float], k: int, allowed: Mask | None = None, also: Slots = NO_SLOTS
    ) -> tuple[Slots, Scores]:
        """The ``k`` best slots by BM25 that share a term with ``words``, best first. ``allowed``: a mask of slots.

        Slots ``also`` come before them, in their order, whatever their scores: it costs little to score them on the
        way. No slot comes twice.
        """
        query = self._weighed(words)
        asked = np.zeros(len(also), np.float32)
        found: list[tuple[Rows, Scores]] = []
        homes = self._spread(also) if len(also) else {}
        for number, (part, mask) in enumerate(self._masked(allowed)):
            rows, at = homes.get(number, (NO_SLOTS, NO_SLOTS))
            best, scores, asked[at] = part.segment.words.search(query, k, mask, rows)
            found.append((best, scores))
        slots, scores = self._best(k, found)
        if not len(also):
            return slots, scores
        known = set(also.tolist())
        new = [at for at, slot in enumerate(slots.tolist()) if slot not in known]
        return np.concatenate((also, slots[new])), np.concatenate((asked, scores[new]))

    def search_dense(self, vector: Vectors, k: int, allowed: Mask | None = None) -> tuple[Slots, Scores]:
        """The ``k`` slots nearest to the one row of ``vector``, best first, with their cosines."""
        found = [
            part.segment.dense.search(vector, k, mask)
            for part, mask in self._masked(allowed)
            if part.segment.dense is not None
        ]
        return self._best(k, found)

    def scores_of(self, words: Mapping[str, float], slots: Slots) -> Scores:
        """BM25 of given slots, 0 where they share no term with ``words``."""
        query = self._weighed(words)
        scores = np.zeros(len(slots), np.float32)
        for number, (rows, at) in self._spread(slots).items():
            scores[at] = self.parts[number].segment.words.scores_of(query, rows)
        return scores

    def cosines_of(self, vector: Vectors, slots: Slots) -> Scores:
        """Cosines of given slots, the same that ``search_dense`` gives."""
        return cosines(self.vectors(slots), vector)

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors at ``slots``, a row each; without embedder they have no column."""
        rows_found = np.zeros((len(slots), self.collection.dimension), np.float32)
        for number, (rows, at) in self._spread(slots).items():
            dense = self.parts[number].segment.dense
            if dense is not None:
                rows_found[at] = dense.vectors(rows)
        return rows_found

    def matching(self, key: Hashable, predicate: Callable[[Document], bool]) -> Mask:
        """Which slots are of documents that ``predicate`` holds for.

        Each segment asks once per document and remembers the answer under ``key``, which has to name the predicate.
        """
        masks = [part.segment.matching(key, predicate) for part in self.parts]
        return np.concatenate(masks) if masks else np.zeros(0, np.bool_)

    def names(self, allowed: Mask, most: int) -> list[str] | None:
        """Names of the documents that ``allowed`` rows which stand are of; None where they are more than ``most``."""
        found: list[str] = []
        for part, mask in self._masked(allowed):
            numbers = distinct(part.segment.chunks.documents[mask])
            if len(found) + len(numbers) > most:
                return None
            found += [part.segment.documents.names[number] for number in numbers.tolist()]
        return found

    def slots_of(self, places: Sequence[Place]) -> Slots:
        """Where passages stand; -1 for those that don't stand here, or not in that version."""
        names = list({place.document for place in places})
        keys = name_keys(names)
        homes: dict[str, tuple[Part, int, int]] = {}
        for part, first in zip(self.parts, self.firsts, strict=False):
            for number in part.segment.documents.find(names, keys):
                if part.documents is None or part.documents[number]:
                    homes[part.segment.documents.names[number]] = (part, first, number)
        slots = np.full(len(places), -1, np.int32)
        for at, place in enumerate(places):
            if place.document in homes:
                part, first, number = homes[place.document]
                row = part.segment.row_of(number, place.sequence, place.chunk)
                slots[at] = -1 if row is None else first + row
        return slots

    def share(self, term: str) -> float:
        """The share of passages that hold ``term``: 1 for a word that tells nothing apart."""
        key = np.array([term_key(term)], np.uint64)
        return sum(int(part.frequencies(key)[0]) for part in self.parts) / max(1, self.live_count)

    def entry(self, slot: int) -> Entry:
        """What lies in a slot."""
        part, row = self._at(slot)
        return part.segment.entry(row)

    def place(self, slot: int) -> tuple[bytes, int]:
        """What settles ties: name of the slot's document, number of its chunk. Cheaper than ``entry``."""
        part, row = self._at(slot)
        return part.segment.place(row)

    def _at(self, slot: int) -> tuple[Part, int]:
        at = bisect_right(self.firsts, slot) - 1
        return self.parts[at], slot - self.firsts[at]

    def _weighed(self, words: Mapping[str, float]) -> Weighed:
        keys, times = keys_of(words)
        frequencies = np.zeros(len(keys), np.int64)
        for part in self.parts:
            frequencies += part.frequencies(keys)
        return weigh(keys, times, frequencies, self.live_count, self.live_length)

    def _masked(self, allowed: Mask | None) -> list[tuple[Part, Mask | None]]:
        if allowed is None:
            return [(part, part.rows) for part in self.parts]
        return [
            (part, part.allowed(allowed[first : first + len(part.segment)]))
            for part, first in zip(self.parts, self.firsts, strict=False)
        ]

    def _spread(self, slots: Slots) -> dict[int, tuple[Rows, NDArray[np.integer] | slice]]:
        """By number of the part that some of ``slots`` lie in: their rows there, and which of ``slots`` they are."""
        if len(self.parts) == 1:
            return {0: (slots, slice(None))}
        home = np.searchsorted(np.array(self.firsts), slots, side="right") - 1
        spread: dict[int, tuple[Rows, NDArray[np.integer] | slice]] = {}
        for number in set(home.tolist()):
            at = np.flatnonzero(home == number)
            spread[number] = ((slots[at] - self.firsts[number]).astype(np.int32), at)
        return spread

    def _best(self, k: int, found: Sequence[tuple[Rows, Scores]]) -> tuple[Slots, Scores]:
        """The ``k`` best of what the parts found; of equals at the edge, those first by ``place``."""
        if not found:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        if len(found) == 1:
            return found[0]
        firsts = zip(found, self.firsts, strict=False)
        slots = np.concatenate([rows + np.int32(first) for (rows, _), first in firsts])
        scores = np.concatenate([scores for _, scores in found])
        order = np.argsort(-scores, kind="stable")
        if len(order) > k:
            edge = scores[order[k - 1]]
            if scores[order[k]] == edge:
                better = order[scores[order] > edge]
                equal = sorted(order[scores[order] == edge].tolist(), key=lambda at: self.place(int(slots[at])))
                order = np.array([*better.tolist(), *equal[: k - len(better)]], np.int64)
            order = order[:k]
        return slots[order], scores[order]

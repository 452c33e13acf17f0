"""Lexical index: BM25 over postings held in arrays, replaced and never changed.

Each term maps to its *postings*: the slots that hold it, ascending, and how often. A change makes a
new index that shares every posting the change does not touch, so a search that runs beside it keeps
reading the old one undisturbed, and adding a document costs the copying of one dictionary plus its
own terms' postings, not a rebuild.

Removal takes a slot out of its postings for good, so document frequencies are exact and two replicas
that reached the same state by different ways score alike.

    score(q, d) = sum over terms t of q:  idf(t) * tf * (K1 + 1) / (tf + K1 * (1 - B + B * |d| / mean))
    idf(t)      = ln(1 + (N - df + 0.5) / (df + 0.5))

Terms are added from the rarest to the most common. As soon as what is left cannot lift a slot that no
rarer term touched into the best ``k`` (its upper bound is the sum of idf * (K1 + 1)), the long postings
of the common terms are read only at the slots that can still get there. The result is the same, the cost
is not.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import Scores, Slots

K1: Final = 1.2
B: Final = 0.75
_LONG: Final = 4_096  # postings longer than this are worth the check whether they can be cut short
_ROUNDING: Final = 1.001  # sums in float32 must not lose a slot at the very edge
_MAX_COUNT: Final = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Postings:
    """Where a term occurs: ascending slots, and how often in each."""

    slots: Slots
    counts: NDArray[np.uint16]

    def at(self, slots: Slots) -> tuple[Slots, NDArray[np.uint16]]:
        """Those of ``slots`` that hold the term, and how often each does."""
        place = np.searchsorted(self.slots, slots)
        place[place == len(self.slots)] = 0
        hit = self.slots[place] == slots
        return slots[hit], self.counts[place[hit]]


@dataclass(frozen=True, slots=True)
class Bm25Index:
    """One state of a collection's lexical index. Make the first with ``EMPTY``."""

    postings: Mapping[str, Postings]
    lengths: NDArray[np.uint32]  # terms per slot; 0 where the slot is empty
    norms: NDArray[np.float32]  # what a slot's length adds to the denominator
    live: int  # slots that hold a text

    def changed(self, *, added: Mapping[int, Sequence[str]], removed: Mapping[int, Sequence[str]]) -> Bm25Index:
        """A new index without the texts of ``removed`` and with those of ``added``: slot to terms.

        A slot in ``added`` must be empty; slots past the end grow the index.
        """
        gains: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        losses: defaultdict[str, list[int]] = defaultdict(list)
        size = max(len(self.lengths), max(added, default=-1) + 1)
        lengths = np.zeros(size, np.uint32)
        lengths[: len(self.lengths)] = self.lengths
        for slot, words in removed.items():
            lengths[slot] = 0
            for term in set(words):
                losses[term].append(slot)
        for slot in sorted(added):
            lengths[slot] = len(added[slot])
            for term, count in Counter(added[slot]).items():
                slots, counts = gains[term]
                slots.append(slot)
                counts.append(min(count, _MAX_COUNT))
        postings = dict(self.postings)
        for term, gone in losses.items():
            old = postings[term]
            keep = ~np.isin(old.slots, np.array(gone, np.int32), assume_unique=True)
            if keep.any():
                postings[term] = Postings(old.slots[keep], old.counts[keep])
            else:
                del postings[term]
        for term, (slots, counts) in gains.items():
            postings[term] = _merged(postings.get(term), np.array(slots, np.int32), np.array(counts, np.uint16))
        live = self.live - len(removed) + len(added)
        return Bm25Index(postings, lengths, _norms(lengths, live), live)

    def search(self, query: Sequence[str], k: int) -> tuple[Slots, Scores]:
        """The ``k`` best slots that share a term with ``query``, best first, ties by slot."""
        scores, floor = self._accumulate(query, k)
        best = np.flatnonzero(scores >= floor if floor else scores)
        if len(best) > k:
            # Whatever ties with the k-th stays in until the sort, so that ties fall by slot.
            best = best[scores[best] >= _kth_best(scores[best], k)]
        order = np.lexsort((best, -scores[best]))[:k]
        return best[order].astype(np.int32), scores[best[order]]

    def scores_of(self, query: Sequence[str], slots: Slots) -> Scores:
        """The scores of given slots, 0 where they share no term with ``query``."""
        scores = np.zeros(len(self.lengths), np.float32)
        for term, times in Counter(query).items():
            entry = self.postings.get(term)
            if entry is not None:
                at, counts = entry.at(slots)
                scores[at] += self._part(times * self._idf(entry) * (K1 + 1), counts, at)
        return scores[slots]

    def share(self, term: str) -> float:
        """The share of texts that hold ``term``: 1 for a word that tells nothing apart."""
        entry = self.postings.get(term)
        return len(entry.slots) / max(1, self.live) if entry else 0.0

    def _accumulate(self, query: Sequence[str], k: int) -> tuple[Scores, float]:
        """Scores by slot, and a floor that the best ``k`` reach; below it, sums may be cut short."""
        scores, floor = np.zeros(len(self.lengths), np.float32), 0.0
        parts = [(entry, times) for term, times in Counter(query).items() if (entry := self.postings.get(term))]
        parts.sort(key=lambda part: len(part[0].slots))
        ceilings = [times * self._idf(entry) * (K1 + 1) for entry, times in parts]
        sample = [entry.slots for entry, _ in parts if len(entry.slots) <= _LONG]
        rare = np.unique(np.concatenate(sample)) if sample else np.zeros(0, np.int32)
        for number, (entry, _) in enumerate(parts):
            rest = sum(ceilings[number:])
            # Scores only grow: the k-th best of any slots is a lower bound of what the best k must reach.
            if len(entry.slots) > _LONG and len(rare) >= k and rest < (bound := _kth_best(scores[rare], k)):
                floor = bound
                able = np.flatnonzero(scores >= floor - rest * _ROUNDING).astype(np.int32)
                for (common, _), ceiling in zip(parts[number:], ceilings[number:], strict=True):
                    at, counts = common.at(able)
                    scores[at] += self._part(ceiling, counts, at)
                break
            scores[entry.slots] += self._part(ceilings[number], entry.counts, entry.slots)
        return scores, floor

    def _part(self, ceiling: float, counts: NDArray[np.uint16], slots: Slots) -> Scores:
        tf: Scores = counts.astype(np.float32)
        below = np.take(self.norms, slots)
        below += tf
        tf *= np.float32(ceiling)
        tf /= below
        return tf

    def _idf(self, entry: Postings) -> float:
        df = len(entry.slots)
        return math.log(1 + (self.live - df + 0.5) / (df + 0.5))


EMPTY: Final = Bm25Index({}, np.zeros(0, np.uint32), np.zeros(0, np.float32), 0)


def _norms(lengths: NDArray[np.uint32], live: int) -> NDArray[np.float32]:
    mean = max(1.0, float(lengths.sum(dtype=np.int64)) / max(1, live))
    return (K1 * (1 - B + B / mean * lengths)).astype(np.float32)


def _kth_best(scores: Scores, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _merged(old: Postings | None, slots: Slots, counts: NDArray[np.uint16]) -> Postings:
    if old is None:
        return Postings(slots, counts)
    if slots[0] > old.slots[-1]:  # the usual case: new slots come after old ones
        return Postings(np.concatenate((old.slots, slots)), np.concatenate((old.counts, counts)))
    both = np.concatenate((old.slots, slots))
    order = np.argsort(both, kind="stable")
    return Postings(both[order], np.concatenate((old.counts, counts))[order])

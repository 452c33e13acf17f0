"""Lexical side of a segment: BM25 over postings in arrays, built once and never changed.

A term is known by the first 64 bits of its BLAKE2 digest: no strings are kept, and segments are joined by
sorting numbers. (Of a million different words two fall together once in forty million collections.) Each term
has *postings*: the rows that hold it, ascending, and how often.

    score(q, d) = sum over terms t of q:  weight(t) * idf(t) * tf * (K1 + 1) / (tf + K1 * (1 - B + B * |d| / mean))
    idf(t)      = ln(1 + (N - df + 0.5) / (df + 0.5))

N, df and the mean length are those of the whole collection, of its living rows alone: ``weigh`` puts them into
a ``Weighed`` query, and every segment scores by that one. So a row's score does not depend on which segments
there are, to the last bit: terms are added in one order everywhere, from the rarest to the most common.

As soon as what is left of the terms cannot lift a row that no rarer term touched into the best ``k`` (its upper
bound is the sum of weight * idf * (K1 + 1)), the long postings of the common terms are read only at the rows that can
still get there. The result is the same, the cost is not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import Scores
from services.retriever.segments.packed import Mask, Rows, distinct, unhurried

# Chunks are short passages: what stands in one twice says little more than once. Tuned by others on MS MARCO's
# passages (Anserini, for MRR); 1.2 and 0.75 suit whole documents.
K1: Final = 0.6
B: Final = 0.62
_LONG: Final = 4_096  # postings longer than this are worth the check whether they can be cut short
_ROUNDING: Final = 1.001  # sums in float32 must not lose a row at the very edge
_MAX_COUNT: Final = np.iinfo(np.uint16).max
_JOINED_AT_ONCE: Final = 1 << 22  # postings sorted together when segments are joined: 32 MB a copy
_TEXTS_A_BREATH: Final = 32
_ROW_BITS: Final = 24
_COUNT_BITS: Final = 16
MAX_ROWS: Final = 1 << _ROW_BITS


@lru_cache(maxsize=1 << 16)
def term_key(term: str) -> int:
    """The number a term is known by."""
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Weighed:
    """A query as it counts in one state of a collection, its terms from the rarest to the most common."""

    keys: NDArray[np.uint64]
    ceilings: tuple[float, ...]  # what each term can give at most
    base: float  # a row's length adds base + slope * length to the denominator
    slope: float


def keys_of(query: Mapping[str, float]) -> tuple[NDArray[np.uint64], list[float]]:
    """The keys of a query's terms, and how much each counts."""
    return np.fromiter(map(term_key, query), np.uint64, len(query)), list(query.values())


def weigh(
    keys: NDArray[np.uint64], times: Sequence[float], frequencies: NDArray[np.int64], rows: int, length: int
) -> Weighed:
    """Weigh a query: ``frequencies`` are its terms' df in a collection of ``rows`` rows and ``length`` terms."""
    known = sorted((int(df), int(key), n) for df, key, n in zip(frequencies, keys, times, strict=True) if df)
    mean = max(1.0, length / max(1, rows))
    return Weighed(
        np.array([key for _, key, _ in known], np.uint64),
        tuple(n * math.log(1 + (rows - df + 0.5) / (df + 0.5)) * (K1 + 1) for df, _, n in known),
        K1 * (1 - B),
        K1 * B / mean,
    )


@dataclass(frozen=True, slots=True)
class Postings:
    """The words of a segment's rows."""

    keys: NDArray[np.uint64]  # of its terms, ascending
    ends: NDArray[np.int64]  # where each term's postings begin; one more, where the last end
    rows: Rows
    counts: NDArray[np.uint16]
    lengths: NDArray[np.float32]  # terms per row
    _kept: dict[str, tuple[tuple[float, float], NDArray[np.float32]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> Postings:
        """The postings of rows that hold these terms."""
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        each = [np.array([numbers[term] for term in text], np.int64) for text in unhurried(texts, _TEXTS_A_BREATH)]
        found = np.concatenate(each) if each else np.zeros(0, np.int64)
        lengths = np.array([len(text) for text in texts], np.int64)
        row = np.repeat(np.arange(len(texts)), lengths)
        keys, rank = np.unique(np.array([term_key(term) for term in numbers], np.uint64), return_inverse=True)
        cells, counts = np.unique(rank[found] << _ROW_BITS | row, return_counts=True)
        return cls(
            keys,
            np.searchsorted(cells >> _ROW_BITS, np.arange(len(keys) + 1)),
            (cells & (MAX_ROWS - 1)).astype(np.int32),
            np.minimum(counts, _MAX_COUNT).astype(np.uint16),
            lengths.astype(np.float32),
        )

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where in ``self.keys`` each of ``keys`` stands, -1 where it doesn't."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        at = self.keys.searchsorted(keys)
        at[at == len(self.keys)] = 0
        at[self.keys[at] != keys] = -1
        return at

    def frequency(self, at: int, alive: Mask | None) -> int:
        """How many rows hold the term at ``at``: of all, or of those ``alive``."""
        first, last = int(self.ends[at]), int(self.ends[at + 1])
        return last - first if alive is None else int(np.count_nonzero(alive.take(self.rows[first:last])))

    def search(self, query: Weighed, k: int, allowed: Mask | None, also: Rows) -> tuple[Rows, Scores, Scores]:
        """The ``k`` best ``allowed`` rows that share a term with ``query``, best first, ties by row.

        Returns rows, their scores, and the scores of the rows ``also``, 0 where they share no term.
        """
        scores, floor = self._accumulate(query, k, allowed, also)
        asked = scores[also]
        if allowed is not None:
            scores *= allowed
        best = np.flatnonzero(scores >= floor if floor else scores)
        if len(best) > k:
            # Whatever ties with the k-th stays in until the sort, so that ties fall by row.
            best = best[scores[best] >= _kth_best(scores[best], k)]
        found = scores[best]
        order = np.argsort(-found, kind="stable")[:k]
        return best[order].astype(np.int32), found[order], asked

    def scores_of(self, query: Weighed, rows: Rows) -> Scores:
        """The scores of given rows, 0 where they share no term with ``query``."""
        scores = np.zeros(len(rows), np.float32)
        norms = self._norms(query)[rows]
        for ceiling, at in zip(query.ceilings, self.find(query.keys).tolist(), strict=True):
            if at < 0:
                continue
            holders, counts = self._at(at)
            place = holders.searchsorted(rows)
            place[place == len(holders)] = 0
            hit = np.flatnonzero(holders[place] == rows)
            if len(hit):
                scores[hit] += _part(ceiling, counts[place[hit]], norms[hit])
        return scores

    def _accumulate(self, query: Weighed, k: int, allowed: Mask | None, also: Rows) -> tuple[Scores, float]:
        """Scores by row, and a floor that the best ``k`` reach; below it, sums may be cut short, but for ``also``."""
        scores, floor = np.zeros(len(self.lengths), np.float32), 0.0
        norms = self._norms(query)
        places = self.find(query.keys)
        if self._short(scores, norms, query, places):
            return scores, floor
        parts = [
            (ceiling, *self._at(at)) for ceiling, at in zip(query.ceilings, places.tolist(), strict=True) if at >= 0
        ]
        rare: Rows | None = None
        for number, (ceiling, rows, counts) in enumerate(parts):
            # Scores only grow: the k-th best of any rows is a lower bound of what the best k must reach.
            if len(rows) > _LONG:
                if rare is None:
                    rare = _rare([rows for _, rows, _ in parts], allowed)
                rest = sum(part[0] for part in parts[number:])
                if len(rare) >= k and rest < (bound := _kth_best(scores[rare], k)):
                    floor = bound
                    wanted = scores >= floor - rest * _ROUNDING
                    wanted[also] = True
                    able = np.flatnonzero(wanted).astype(np.int32)
                    for common, holders, often in parts[number:]:
                        place = holders.searchsorted(able)
                        place[place == len(holders)] = 0
                        hit = holders[place] == able
                        at = able[hit]
                        scores[at] += _part(common, often[place[hit]], norms.take(at))
                    break
            scores[rows] += _part(ceiling, counts, norms.take(rows))
        return scores, floor

    def _short(self, scores: Scores, norms: Scores, query: Weighed, places: NDArray[np.int64]) -> bool:
        """Add up all terms in one go where that are few postings, in the same order; returns whether they were few."""
        there = np.flatnonzero(places >= 0)
        if not len(there):
            return True
        firsts = self.ends[places[there]]
        lengths = self.ends[places[there] + 1] - firsts
        ends = lengths.cumsum()
        if ends[-1] > _LONG:
            return False
        cells = np.repeat(firsts - (ends - lengths), lengths) + np.arange(ends[-1])
        rows = self.rows[cells]
        ceilings = np.array(query.ceilings, np.float32)[there].repeat(lengths)
        np.add.at(scores, rows, _part(ceilings, self.counts[cells], norms.take(rows)))
        return True

    def _norms(self, query: Weighed) -> NDArray[np.float32]:
        """What each row's length adds to the denominator: made once for each state of the collection."""
        kept = self._kept.get("norms")
        if kept is None or kept[0] != (query.base, query.slope):
            norms = self.lengths * np.float32(query.slope)
            norms += np.float32(query.base)
            kept = self._kept["norms"] = ((query.base, query.slope), norms)
        return kept[1]

    def _at(self, at: int) -> tuple[Rows, NDArray[np.uint16]]:
        first, last = int(self.ends[at]), int(self.ends[at + 1])
        return self.rows[first:last], self.counts[first:last]


def _part(ceiling: float | Scores, counts: NDArray[np.uint16], norms: NDArray[np.float32]) -> Scores:
    """What one term gives to the rows that hold it so often. ``norms`` is spent."""
    tf: Scores = counts.astype(np.float32)
    norms += tf
    tf *= ceiling  # a float counts as float32 here
    tf /= norms
    return tf


def _rare(postings: Iterable[Rows], allowed: Mask | None) -> Rows:
    sample = [rows for rows in postings if len(rows) <= _LONG]
    rare = distinct(np.concatenate(sample)) if sample else np.zeros(0, np.int32)
    return rare if allowed is None else rare[allowed[rare]]


def _kth_best(scores: Scores, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def joined(sources: Sequence[tuple[Postings, Rows]], size: int) -> Postings:
    """One of several: each with the new row of each of its rows, -1 for those that stay behind."""
    lengths = np.zeros(size, np.float32)
    for source, moved in sources:
        lengths[moved[moved >= 0]] = source.lengths[moved >= 0]
    keys = distinct(np.concatenate([source.keys for source, _ in sources]))
    places = [np.append(source.keys.searchsorted(keys), len(source.keys)) for source, _ in sources]
    before = np.sum([source.ends[at] for (source, _), at in zip(sources, places, strict=True)], axis=0)
    rows, counts, frequencies = [], [], []
    first = 0
    while first < len(keys):
        last = max(first + 1, int(before.searchsorted(before[first] + _JOINED_AT_ONCE, side="right")) - 1)
        cells = np.concatenate(
            [_cells(source, moved, at[first : last + 1]) for (source, moved), at in zip(sources, places, strict=True)]
        )
        cells.sort()
        counts.append((cells & _MAX_COUNT).astype(np.uint16))
        cells >>= np.uint64(_COUNT_BITS)
        rows.append((cells & np.uint64(MAX_ROWS - 1)).astype(np.int32))
        cells >>= np.uint64(_ROW_BITS)
        frequencies.append(np.bincount(cells.astype(np.int64), minlength=last - first))
        first = last
    df = np.concatenate(frequencies) if frequencies else np.zeros(0, np.int64)
    ends = np.zeros(np.count_nonzero(df) + 1, np.int64)
    np.cumsum(df[df > 0], out=ends[1:])
    return Postings(
        keys[df > 0],
        ends,
        np.concatenate(rows) if rows else np.zeros(0, np.int32),
        np.concatenate(counts) if counts else np.zeros(0, np.uint16),
        lengths,
    )


def _cells(source: Postings, moved: Rows, at: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Some terms' postings as numbers that sort by term and row: term, new row, count from high to low bits.

    ``at`` says for each term where in ``source`` its postings are, and once more for the term that follows.
    """
    first, last = int(source.ends[at[0]]), int(source.ends[at[-1]])
    term = np.repeat(np.arange(len(at) - 1, dtype=np.uint64), np.diff(source.ends[at]))
    row = moved[source.rows[first:last]]
    stays = row >= 0
    cells = term[stays] << np.uint64(_ROW_BITS)
    cells |= row[stays].astype(np.uint64)
    cells <<= np.uint64(_COUNT_BITS)
    cells |= source.counts[first:last][stays]
    return cells

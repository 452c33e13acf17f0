"""An inverted file: a large segment's vectors in lists of near ones, of which a search reads only the nearest.

Built once for a segment: k-means finds about ``2 * sqrt(rows)`` centres, every vector goes into the list of its
nearest centre, and the lists lie one after the other in one array. A search compares the query with the centres,
reads the lists of the nearest ``probes`` of them, and scores the best again (``cosines``). Nothing is ever deleted
here: what no longer stands is not ``allowed``.

``probes`` is measured when the index is built and not guessed: some of the segment's own vectors are looked up in
all of it, and their ten nearest must lie in the probed lists in ``RECALL`` of the cases. Vectors that fall into
no clusters would need most of the lists; ``build`` then gives None, and the segment stays flat.

A filter that leaves a share of the rows gets so many more lists; one that leaves fewer rows than a plain search
reads is answered from all of those, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import Scores
from services.retriever.segments.cosines import cosines
from services.retriever.segments.packed import Mask, Rows
from services.retriever.types import Vectors

RECALL: Final = 0.98
_NEIGHBOURS: Final = 10
_SAMPLE: Final = 256
_LEAST_PROBES: Final = 8
_MORE: Final = 16  # candidates beyond those asked for: the last digits of their scores are settled here
_ITERATIONS: Final = 10
_POINTS_PER_CENTRE: Final = 64
_ASSIGNED_AT_ONCE: Final = 16_384


@dataclass(frozen=True, slots=True)
class IvfIndex:
    """See the module."""

    faiss: Any
    matrix: Vectors  # list after list
    firsts: NDArray[np.int64]  # where each list begins; one more, where the last ends
    centres: Vectors
    row_at: Rows  # by place in ``matrix``
    place_of: Rows  # by row
    probes: NDArray[np.int64]  # one number

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What has to be kept to open it again."""
        names = ("matrix", "firsts", "centres", "row_at", "place_of", "probes")
        return {name: getattr(self, name) for name in names}

    def search(self, query: Vectors, k: int, allowed: Mask | None) -> tuple[Rows, Scores]:
        """Nearly always the ``k`` nearest ``allowed`` rows to the one row of ``query``, best first."""
        query = np.ascontiguousarray(query, np.float32)
        places = self._candidates(query, allowed)
        if not len(places):
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        if len(places) > k + _MORE:
            places = self._nearest(query, places, k + _MORE)
        rows, scores = self.row_at[places], cosines(self.matrix[places], query)
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of ``rows``."""
        return self.matrix[self.place_of[rows]]

    def _candidates(self, query: Vectors, allowed: Mask | None) -> NDArray[np.int64]:
        """Places to look at."""
        lists, probes = len(self.centres), int(self.probes[0])
        if allowed is not None:
            share = np.count_nonzero(allowed) / len(allowed)
            if share * lists <= probes:
                return np.sort(self.place_of[allowed]).astype(np.int64)
            probes = min(lists, int(probes / share) + 1)
        near = cosines(self.centres, query)
        chosen = np.sort(np.argpartition(-near, probes - 1)[:probes]) if probes < lists else np.arange(lists)
        begins = self.firsts[chosen]
        lengths = self.firsts[chosen + 1] - begins
        ends = np.cumsum(lengths)
        places: NDArray[np.int64] = np.repeat(begins - (ends - lengths), lengths) + np.arange(int(ends[-1]))
        return places if allowed is None else places[allowed[self.row_at[places]]]

    def _nearest(self, query: Vectors, places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        swig = self.faiss.swig_ptr
        near, best = np.empty((1, count), np.float32), np.empty((1, count), np.int64)
        self.faiss.omp_set_num_threads(1)
        self.faiss.knn_inner_products_by_idx(
            swig(query), swig(self.matrix), swig(places), query.shape[1], 1, len(self.matrix), len(places), count,
            swig(near), swig(best),
        )  # fmt: skip
        return best[0]


def build(faiss: Any, vectors: Vectors) -> IvfIndex | None:
    """An inverted file of ``vectors``; None where it would be no faster than looking at all of them."""
    faiss.omp_set_num_threads(1)  # it is made beside searches
    lists = int(2 * len(vectors) ** 0.5)
    means = faiss.Kmeans(
        vectors.shape[1],
        lists,
        niter=_ITERATIONS,
        spherical=True,
        max_points_per_centroid=_POINTS_PER_CENTRE,
        min_points_per_centroid=1,
        seed=1,
    )
    means.train(vectors)
    centres = np.ascontiguousarray(means.centroids, np.float32)
    home = np.empty(len(vectors), np.int32)
    for first in range(0, len(vectors), _ASSIGNED_AT_ONCE):
        block = vectors[first : first + _ASSIGNED_AT_ONCE]
        home[first : first + len(block)] = faiss.knn(block, centres, 1, faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    probes = _probes(faiss, vectors, centres, home)
    if probes > lists // 2:
        return None
    row_at = np.argsort(home, kind="stable").astype(np.int32)
    place_of = np.empty_like(row_at)
    place_of[row_at] = np.arange(len(row_at), dtype=np.int32)
    firsts = np.searchsorted(home[row_at], np.arange(lists + 1))
    return IvfIndex(faiss, vectors[row_at], firsts, centres, row_at, place_of, np.array([probes]))


def load(faiss: Any, arrays: Mapping[str, NDArray[Any]]) -> IvfIndex:
    """The index that ``arrays`` were kept of."""
    return IvfIndex(faiss, **arrays)


def _probes(faiss: Any, vectors: Vectors, centres: Vectors, home: NDArray[np.int32]) -> int:
    """How many lists hold ``RECALL`` of the nearest neighbours of the segment's own vectors."""
    sample = np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64)
    queries = np.ascontiguousarray(vectors[sample])
    _, near = faiss.knn(queries, vectors, _NEIGHBOURS + 1, faiss.METRIC_INNER_PRODUCT)
    rank = np.argsort(np.argsort(-(queries @ centres.T), axis=1), axis=1)  # of each list, for each query
    needed = np.take_along_axis(rank, home[near], axis=1)[near != sample[:, None]]  # each is its own neighbour, too
    return max(_LEAST_PROBES, int(np.quantile(needed, RECALL, method="higher")) + 1)

"""``faiss:`` nearest neighbours by inner product over a segment's vectors, which lie in one array.

Vectors have length 1, so the inner product is the cosine. Up to ``SCAN_ALL`` rows, or where a filter leaves no
more than those, every row is scored here; above, FAISS looks through the array and hands on more candidates than
were asked for. These are scored again (``cosines``), and where the last of them might tie with the last of
the best, all that come near it are fetched, so that what is found depends on the vectors alone.

A settled segment of ``IVF_ROWS`` and more gets an inverted file (``_ivf``), which reads a fraction of it and misses
about one or two neighbours in a hundred.

FAISS brings its own threads; one is right here, since searches run beside each other in the service's
bounded pool.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mesh.plugins import Url
from services.retriever.indexes import _ivf
from services.retriever.ports import Scores, VectorIndex
from services.retriever.segments.cosines import cosines
from services.retriever.segments.packed import Mask, Rows
from services.retriever.types import Vectors

SCAN_ALL: Final = 512
IVF_ROWS: Final = 32_768  # flat takes 2 to 3 ms there; docs/adr/0009
_MORE: Final = 16  # candidates beyond those asked for
_NEAR: Final = 1e-5  # FAISS and ``cosines`` round differently, by less than this


@dataclass(frozen=True, slots=True)
class FlatIndex:
    """A segment's vectors, all of them looked at in every search: exact."""

    faiss: Any  # the library: its Python classes take more than its type stubs say
    matrix: Vectors
    final: bool  # it is not worth trying whether an inverted file would do better

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What has to be kept to open it again."""
        return {"matrix": self.matrix, "final": np.array([self.final])}

    def search(self, query: Vectors, k: int, allowed: Mask | None) -> tuple[Rows, Scores]:
        """The ``k`` nearest ``allowed`` rows to the one row of ``query``, best first, ties by row."""
        count = len(self.matrix) if allowed is None else int(np.count_nonzero(allowed))
        if count <= SCAN_ALL:
            if allowed is None:
                return _best(np.arange(count, dtype=np.int32), cosines(self.matrix, query), k)
            return self._scored(np.flatnonzero(allowed).astype(np.int32), query, k)
        wanted = min(k + _MORE, count)
        query = np.ascontiguousarray(query, np.float32)
        selector = self._selector(allowed)
        near = np.empty((1, wanted), np.float32)
        rows = np.empty((1, wanted), np.int64)
        swig = self.faiss.swig_ptr
        self.faiss.omp_set_num_threads(1)  # the setting is the thread's own, and searches run on many
        self.faiss.knn_inner_product(
            swig(query),
            swig(self.matrix),
            query.shape[1],
            1,
            len(self.matrix),
            wanted,
            swig(near),
            swig(rows),
            selector,
        )
        found, scores = self._scored(rows[0].astype(np.int32), query, k)
        if wanted < count and near[0, -1] > scores[-1] - _NEAR:
            found, scores = self._scored(self._all_above(float(scores[-1]) - _NEAR, query, selector), query, k)
        return found, scores

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of ``rows``."""
        return self.matrix[rows]

    def _scored(self, rows: Rows, query: Vectors, k: int) -> tuple[Rows, Scores]:
        return _best(rows, cosines(self.matrix[rows], query), k)

    def _all_above(self, floor: float, query: Vectors, selector: Any) -> Rows:
        swig, result = self.faiss.swig_ptr, self.faiss.RangeSearchResult(1)
        self.faiss.range_search_inner_product(
            swig(query), swig(self.matrix), query.shape[1], 1, len(self.matrix), floor, result, selector
        )
        count = int(self.faiss.rev_swig_ptr(result.lims, 2)[1])
        rows: Rows = self.faiss.rev_swig_ptr(result.labels, count).astype(np.int32)
        return rows

    def _selector(self, allowed: Mask | None) -> Any:
        if allowed is None:
            return None
        return self.faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


@dataclass(frozen=True, slots=True)
class FaissIndexes:
    """Makes indexes."""

    faiss: Any
    kind: str = "faiss-1"

    def build(self, vectors: Vectors, *, settled: bool) -> VectorIndex:
        """An index of ``vectors``."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        large = len(vectors) >= IVF_ROWS
        lists = _ivf.build(self.faiss, vectors) if large and settled else None
        return FlatIndex(self.faiss, vectors, settled or not large) if lists is None else lists

    def outgrown(self, index: VectorIndex) -> bool:
        """Whether ``index`` was made for fewer rows than it has."""
        return isinstance(index, FlatIndex) and not index.final

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> VectorIndex:
        """The index that ``arrays`` were kept of."""
        if "firsts" in arrays:
            return _ivf.load(self.faiss, arrays)
        return FlatIndex(self.faiss, arrays["matrix"], bool(arrays["final"][0]))


def open(url: Url) -> FaissIndexes:
    """Open ``faiss:``; it takes no options."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells of each kind of processor it isn't built for
    import faiss

    return FaissIndexes(faiss)

"""``faiss:`` exact nearest neighbours by inner product, in memory, replaced and never changed.

Vectors have length 1, so the inner product is the cosine. FAISS may search beside a search but not
beside a change: adding copies the index, adds to the copy, and leaves the old one to those who still
read it. Slots that are no longer live stay in until the collection is built anew, and a search passes
over them. FAISS brings its own threads; one is right here, since searches run beside each other in the
service's bounded pool.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.plugins import Url
from services.retriever.ports import Scores, Slots, VectorIndex
from services.retriever.types import Vectors


@dataclass(frozen=True, slots=True)
class FaissIndex:
    """One state of a collection's dense index."""

    faiss: Any  # the library: its Python classes take more than its type stubs say
    flat: Any  # an IndexFlatIP

    def added(self, vectors: Vectors) -> VectorIndex:
        """A new index with ``vectors`` in the slots that follow the last."""
        copy = self.faiss.clone_index(self.flat)
        copy.add(np.ascontiguousarray(vectors, np.float32))
        return FaissIndex(self.faiss, copy)

    def search(self, query: Vectors, k: int, live: NDArray[np.bool_]) -> tuple[Slots, Scores]:
        """The ``k`` nearest ``live`` slots to the one row of ``query``, best first, with their cosines."""
        k = min(k, int(live.sum()))
        if k == 0:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        self.faiss.omp_set_num_threads(1)  # the setting is the thread's own, and searches run on many
        params = None if live.all() else self._only(live)
        scores, slots = self.flat.search(query, k, params=params)
        return slots[0].astype(np.int32), scores[0]

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors at ``slots``, a row each."""
        rows: Vectors = self.flat.reconstruct_batch(np.asarray(slots, np.int64))
        return rows

    def _only(self, live: NDArray[np.bool_]) -> Any:
        """Search parameters that pass over what is not ``live``."""
        return self.faiss.SearchParameters(sel=self.faiss.IDSelectorBitmap(np.packbits(live, bitorder="little")))


@dataclass(frozen=True, slots=True)
class FaissIndexes:
    """Makes indexes."""

    faiss: Any

    def empty(self, dimension: int) -> VectorIndex:
        """An index of ``dimension`` columns without rows."""
        return FaissIndex(self.faiss, self.faiss.IndexFlatIP(dimension))


def open(url: Url) -> FaissIndexes:
    """Open ``faiss:``; it takes no options."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells of each kind of processor it isn't built for
    import faiss

    return FaissIndexes(faiss)

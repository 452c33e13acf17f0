"""The one way cosines are computed, so that two replicas get the same bits.

A matrix product rounds a row differently by where in the matrix it stands, since its kernels take several
rows at a time. Two replicas hold the same passages in other places, and nearly equal scores would come out
in another order. ``numpy.einsum`` sums each row by itself, in one way. Indexes may find candidates as
they like; what they hand on was scored here.
"""

from __future__ import annotations

import numpy as np

from services.retriever.ports import Scores
from services.retriever.types import Vectors


def cosines(rows: Vectors, query: Vectors) -> Scores:
    """The inner products of ``rows`` with the one row of ``query``. All have length 1."""
    scores: Scores = np.einsum("ij,j->i", rows, query[0])
    return scores

"""Joins the dense and the lexical side of a search into one order.

Both sides' scores of the same candidates are brought to one scale (mean 0, deviation 1) and averaged:

    fused = w * z(cosine) + (1 - w) * z(BM25)         w = HALF * knowledge

``knowledge`` is what the collection's embedder knows of the query: the share of its letters that stand in
words the embedder has whole. In a language that it never learned its neighbours are noise, and fusing by
rank, or with a fixed weight, would let that noise push right answers down. So w goes from one half, where
the embedder knows every word, to nothing where it knows none; no language is named anywhere.

Candidates are the best of each side; each gets its score on the other side too, so a passage that one
side put last is not mistaken for one it never saw.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from services.retriever.ports import Scores

HALF: Final = 0.5  # two sides, neither favoured
MIN_CANDIDATES: Final = 50  # of each side: the scale is measured on these
CANDIDATES_PER_HIT: Final = 4


def candidate_count(top_k: int) -> int:
    """How many of each side's best to look at."""
    return max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k)


def fuse(cosines: Scores, bm25: Scores, knowledge: float) -> Scores:
    """Fused scores of the same candidates on both sides. Higher is better."""
    weight = HALF * min(1.0, max(0.0, knowledge))
    fused: Scores = weight * _standardised(cosines) + (1 - weight) * _standardised(bm25)
    return fused


def _standardised(scores: Scores) -> Scores:
    deviation = float(scores.std()) if len(scores) else 0.0
    if deviation < 1e-9:  # all alike: this side says nothing
        return np.zeros_like(scores)
    result: Scores = (scores - scores.mean()) / deviation
    return result

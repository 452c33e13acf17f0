"""Fusion: the dense side counts for as much as the embedder knows of the query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.search.fusion import candidate_count, fuse

SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30)


def order(scores: np.ndarray) -> list[int]:
    return np.argsort(-scores, kind="stable").tolist()


def test_without_knowledge_the_words_alone_decide() -> None:
    cosines, bm25 = np.array([0.9, 0.1, 0.5], np.float32), np.array([1.0, 3.0, 2.0], np.float32)
    assert order(fuse(cosines, bm25, 0.0)) == [1, 2, 0]


def test_with_full_knowledge_both_sides_count_alike() -> None:
    cosines, bm25 = np.array([0.9, 0.1, 0.2], np.float32), np.array([1.0, 9.0, 2.0], np.float32)
    assert fuse(cosines, bm25, 1.0).tolist() == pytest.approx(fuse(bm25, cosines, 1.0).tolist(), rel=1e-4)


def test_a_side_that_scores_all_alike_does_not_matter() -> None:
    bm25 = np.array([1.0, 3.0, 2.0], np.float32)
    assert order(fuse(np.full(3, 0.5, np.float32), bm25, 1.0)) == [1, 2, 0]
    assert order(fuse(bm25, np.zeros(3, np.float32), 1.0)) == [1, 2, 0]


@given(SCORES, st.floats(0, 1), st.floats(0.125, 100), st.floats(-10, 10))
def test_the_scale_of_a_side_does_not_matter(scores: list[float], knowledge: float, by: float, plus: float) -> None:
    cosines = np.array(scores, np.float32)
    bm25 = np.arange(len(scores), dtype=np.float32)
    fused = fuse(cosines, bm25, knowledge)
    assert np.isfinite(fused).all()
    if cosines.std() > 0.01:
        assert fuse(cosines, bm25 * np.float32(by) + np.float32(plus), knowledge) == pytest.approx(fused, abs=1e-2)


def test_there_are_candidates_enough_to_measure_a_scale_on() -> None:
    assert candidate_count(1) == 50
    assert candidate_count(100) == 400

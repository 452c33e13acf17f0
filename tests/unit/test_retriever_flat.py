"""The exact vector index: what it finds depends on the vectors alone."""

from __future__ import annotations

import numpy as np
import pytest

from services.retriever.indexes.faiss import SCAN_ALL
from services.retriever.ports import VectorIndex
from services.retriever.segments.cosines import cosines
from services.retriever.segments.packed import Mask
from services.retriever.types import Vectors
from tests.support.retrieval import indexes

DIMENSION = 48


def unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count: int, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32))


def index(vectors: Vectors) -> VectorIndex:
    return indexes().build(vectors, settled=True)


def expected(vectors: Vectors, query: Vectors, k: int, allowed: Mask | None = None) -> list[int]:
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    scores = cosines(vectors[rows], query)
    return rows[np.lexsort((rows, -scores))[:k]].tolist()


@pytest.mark.parametrize("count", [1, 10, SCAN_ALL, SCAN_ALL + 1, 3_000])
@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.9])
def test_the_nearest_allowed_rows_are_found(count: int, share: float | None) -> None:
    vectors = random_vectors(count)
    allowed = None if share is None else np.random.default_rng(1).random(count) < share
    for seed in range(5):
        query = random_vectors(1, 100 + seed)
        rows, scores = index(vectors).search(query, 7, allowed)
        assert rows.tolist() == expected(vectors, query, 7, allowed)
        assert scores.tolist() == cosines(vectors[rows], query).tolist()


def test_equal_rows_fall_by_place_even_where_they_are_many() -> None:
    vectors = np.repeat(random_vectors(20), 200, axis=0)[np.random.default_rng(2).permutation(4_000)]
    for seed in range(5):
        query = random_vectors(1, seed)
        rows, _ = index(vectors).search(query, 50, None)
        assert rows.tolist() == expected(vectors, query, 50)


def test_a_row_scores_alike_wherever_it_stands() -> None:
    vectors, query = random_vectors(500), random_vectors(1, 9)
    order = np.random.default_rng(3).permutation(500)[:313]
    assert cosines(vectors[order], query).tolist() == cosines(vectors, query)[order].tolist()


def test_an_index_opens_again_from_its_arrays() -> None:
    vectors, query = random_vectors(600), random_vectors(1, 5)
    again = indexes().load(index(vectors).arrays)
    assert again.search(query, 5, None)[0].tolist() == expected(vectors, query, 5)
    assert again.vectors(np.array([3, 0], np.int32)).tolist() == vectors[[3, 0]].tolist()

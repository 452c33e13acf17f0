"""The inverted file of large segments: how much it finds, filters, and when it isn't made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.retriever.indexes import _ivf, faiss
from services.retriever.indexes._ivf import IvfIndex
from services.retriever.indexes.faiss import FlatIndex
from services.retriever.ports import VectorIndex
from services.retriever.replicas import merging
from services.retriever.replicas.replica import State
from services.retriever.segments.joining import join
from services.retriever.segments.packed import Mask
from services.retriever.types import Vectors
from tests.support.retrieval import KEY, indexes
from tests.unit.test_retriever_view import answers, stored, view_of

DIMENSION = 32
ROWS = 6_000


def unit(rows: NDArray[Any]) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, seed: int) -> Vectors:
    """Vectors about the same 60 centres; their clusters overlap."""
    centres = np.random.default_rng(0).standard_normal((60, DIMENSION))
    chance = np.random.default_rng(seed)
    return unit(centres[chance.integers(0, 60, count)] + 0.7 * chance.standard_normal((count, DIMENSION)))


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return clustered(ROWS, 1)


@pytest.fixture
def index(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> IvfIndex:
    monkeypatch.setattr(faiss, "IVF_ROWS", 2_000)
    built = indexes().build(vectors, settled=True)
    assert isinstance(built, IvfIndex)
    return built


def recall(index: VectorIndex, vectors: Vectors, allowed: Mask | None = None) -> float:
    flat = FlatIndex(indexes().faiss, vectors, True)  # type: ignore[attr-defined]
    shares = []
    for query in clustered(100, 2):
        expected = flat.search(query[None], 10, allowed)[0]
        found = index.search(query[None], 10, allowed)[0]
        shares.append(len(set(found.tolist()) & set(expected.tolist())) / max(1, len(expected)))
    return float(np.mean(shares))


def test_it_finds_what_a_flat_index_finds_in_nearly_all_cases(index: IvfIndex, vectors: Vectors) -> None:
    assert recall(index, vectors) >= 0.95
    assert int(index.probes[0]) < len(index.centres) / 2


@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.3, 0.9])
def test_a_filter_takes_nothing_from_what_is_found(index: IvfIndex, vectors: Vectors, share: float) -> None:
    allowed = np.random.default_rng(3).random(ROWS) < share
    assert recall(index, vectors, allowed) >= 0.95 or not allowed.any()
    rows, scores = index.search(vectors[:1], 50, allowed)
    assert allowed[rows].all()
    assert len(rows) == min(50, allowed.sum())
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_vectors_come_back_by_row(index: IvfIndex, vectors: Vectors) -> None:
    rows = np.array([5_999, 0, 17], np.int32)
    assert np.array_equal(index.vectors(rows), vectors[rows])
    again = indexes().load(index.arrays)
    assert isinstance(again, IvfIndex)
    for one, other in zip(again.search(vectors[9:10], 10, None), index.search(vectors[9:10], 10, None), strict=True):
        assert one.tolist() == other.tolist()


def test_vectors_without_clusters_stay_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "IVF_ROWS", 2_000)
    vectors = unit(np.random.default_rng(4).standard_normal((2_500, 64)))
    built = indexes().build(vectors, settled=True)
    assert isinstance(built, FlatIndex)
    assert not indexes().outgrown(built)


def test_equal_vectors_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "IVF_ROWS", 2_000)
    vectors = np.repeat(clustered(3, 5), 1_000, axis=0)
    built = indexes().build(vectors, settled=True)
    rows, scores = built.search(vectors[:1], 10, None)
    assert scores.tolist() == [scores[0]] * 10
    assert np.array_equal(vectors[rows], vectors[:10])


def test_a_segment_that_grew_in_haste_gets_its_index_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "IVF_ROWS", 300)
    monkeypatch.setattr(_ivf, "_LEAST_PROBES", 2)
    view = view_of(*(stored(f"d{n}", *(f"w{n % 7} w{m}" for m in range(4))) for n in range(100)))
    job = merging.due(view, quiet=False)
    assert job is not None
    after = merging.with_joined(State(1, {KEY: view}), job, join(job.parts, indexes(), settled=True)).views[KEY]
    assert merging.due(after, quiet=True) is None
    assert {name for name, *_ in answers(after, "w3 w1")} == {name for name, *_ in answers(view, "w3 w1")}

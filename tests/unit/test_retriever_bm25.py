"""BM25: what it ranks, and that its short cuts change nothing."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from services.retriever.ports import Scores
from services.retriever.segments import bm25
from services.retriever.segments.bm25 import K1, B, Postings, Weighed, joined, keys_of, weigh
from services.retriever.segments.packed import Mask, Rows


class Index:
    """One segment's postings, searched as a collection of their own."""

    def __init__(self, postings: Postings) -> None:
        self.postings = postings

    def weighed(self, query: list[str]) -> Weighed:
        keys, times = keys_of(Counter(query))
        found = self.postings.find(keys).tolist()
        df = np.array([self.postings.frequency(at, None) if at >= 0 else 0 for at in found], np.int64)
        lengths = self.postings.lengths
        return weigh(keys, times, df, len(lengths), int(lengths.sum()))

    def search(self, query: list[str], k: int, allowed: Mask | None = None) -> tuple[Rows, Scores]:
        return self.postings.search(self.weighed(query), k, allowed, np.zeros(0, np.int32))[:2]

    def scores_of(self, query: list[str], rows: Rows) -> Scores:
        return self.postings.scores_of(self.weighed(query), rows)


def index(*texts: str) -> Index:
    return Index(Postings.of([text.split() for text in texts]))


def test_a_rare_word_counts_for_more_than_a_common_one() -> None:
    built = index("the cat", "the dog", "the cow", "the bridge")
    slots, scores = built.search(["the", "bridge"], 4)
    assert slots[0] == 3
    assert scores[0] > 2 * scores[1]


def test_a_text_without_a_word_of_the_query_is_not_found() -> None:
    slots, _ = index("one two", "three").search(["two"], 10)
    assert slots.tolist() == [0]


def test_nothing_is_found_in_an_empty_index() -> None:
    slots, scores = index().search(["word"], 10)
    assert len(slots) == len(scores) == 0


def test_scores_follow_the_formula() -> None:
    texts = ["a b b c", "b d", "e f g h i"]
    mean = sum(len(text.split()) for text in texts) / 3
    built = index(*texts)
    for slot, text in enumerate(texts):
        tf = Counter(text.split())["b"]
        idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
        expected = idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * len(text.split()) / mean)) if tf else 0.0
        assert built.scores_of(["b"], np.array([slot], np.int32))[0] == pytest.approx(expected, rel=1e-5)


def test_joined_postings_are_those_of_the_texts_together() -> None:
    one, other = index("a b", "x b y", "b c c"), index("c d", "a a")
    moved = np.array([2, -1, 0], np.int32), np.array([3, 1], np.int32)
    together = joined([(one.postings, moved[0]), (other.postings, moved[1])], 4)
    direct = index("b c c", "a a", "a b", "c d").postings
    for field in ("keys", "ends", "rows", "counts", "lengths"):
        assert getattr(together, field).tolist() == getattr(direct, field).tolist(), field


def test_postings_joined_in_small_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    texts = [chance.choices([f"w{n}" for n in range(50)], k=20) for _ in range(60)]
    halves = [Postings.of(texts[:30]), Postings.of(texts[30:])]
    moved = [np.arange(30, dtype=np.int32), np.arange(30, 60, dtype=np.int32)]
    monkeypatch.setattr(bm25, "_JOINED_AT_ONCE", 17)
    together = joined(list(zip(halves, moved, strict=True)), 60)
    direct = Postings.of(texts)
    for field in ("keys", "ends", "rows", "counts", "lengths"):
        assert getattr(together, field).tolist() == getattr(direct, field).tolist(), field


def test_rows_that_are_not_allowed_are_not_found() -> None:
    built = index("a b", "a", "a c")
    rows, _ = built.search(["a"], 5, np.array([True, False, True]))
    assert sorted(rows.tolist()) == [0, 2]


def test_cutting_common_words_short_finds_what_counting_them_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "_LONG", 20)  # so that a test of a few hundred texts takes the short cut
    chance = random.Random(7)
    vocabulary = [f"w{n}" for n in range(300)]
    weights = [1 / (n + 1) for n in range(300)]
    texts = [chance.choices(vocabulary, weights, k=chance.randint(5, 60)) for _ in range(400)]
    built = Index(Postings.of(texts))
    everywhere = np.arange(len(texts), dtype=np.int32)
    for number in range(100):
        query = chance.choices(vocabulary, weights, k=8)
        allowed = np.array([chance.random() < 0.5 for _ in texts]) if number % 2 else None
        slots, scores = built.search(query, 10, allowed)
        every = built.scores_of(query, everywhere)
        also = np.array(chance.sample(range(len(texts)), 9), np.int32)
        assert built.postings.search(built.weighed(query), 10, allowed, also)[2].tolist() == every[also].tolist()
        if allowed is not None:
            every[~allowed] = 0
        best = np.lexsort((everywhere, -every))[: len(slots)]
        assert slots.tolist() == best.tolist()
        assert scores.tolist() == every[best].tolist()


def test_ties_fall_by_slot() -> None:
    slots, _ = index(*["same words"] * 30).search(["same"], 5)
    assert slots.tolist() == [0, 1, 2, 3, 4]

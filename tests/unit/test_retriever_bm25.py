"""BM25: what it ranks, and that its short cuts change nothing."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from services.retriever import bm25
from services.retriever.bm25 import EMPTY, K1, B, Bm25Index


def index(*texts: str) -> Bm25Index:
    return EMPTY.changed(added={slot: text.split() for slot, text in enumerate(texts)}, removed={})


def test_a_rare_word_counts_for_more_than_a_common_one() -> None:
    built = index("the cat", "the dog", "the cow", "the bridge")
    slots, scores = built.search(["the", "bridge"], 4)
    assert slots[0] == 3
    assert scores[0] > 2 * scores[1]


def test_a_text_without_a_word_of_the_query_is_not_found() -> None:
    slots, _ = index("one two", "three").search(["two"], 10)
    assert slots.tolist() == [0]


def test_nothing_is_found_in_an_empty_index() -> None:
    slots, scores = EMPTY.search(["word"], 10)
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


def test_a_change_leaves_the_index_it_was_made_of_as_it_was() -> None:
    old = index("a b", "b c")
    before = old.search(["b"], 5)
    old.changed(added={2: ["b", "b"]}, removed={0: ["a", "b"]})
    after = old.search(["b"], 5)
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_the_same_texts_score_alike_however_they_got_there() -> None:
    direct = index("a b", "b c c")
    roundabout = EMPTY.changed(added={0: ["a", "b"], 1: ["x", "b", "y"]}, removed={})
    roundabout = roundabout.changed(added={}, removed={1: ["x", "b", "y"]})
    roundabout = roundabout.changed(added={1: ["b", "c", "c"]}, removed={})
    for word in "abcxy":
        one, other = direct.search([word], 5), roundabout.search([word], 5)
        assert one[0].tolist() == other[0].tolist()
        assert one[1].tolist() == pytest.approx(other[1].tolist())


def test_cutting_common_words_short_finds_what_counting_them_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "_LONG", 20)  # so that a test of a few hundred texts takes the short cut
    chance = random.Random(7)
    vocabulary = [f"w{n}" for n in range(300)]
    weights = [1 / (n + 1) for n in range(300)]
    texts = [chance.choices(vocabulary, weights, k=chance.randint(5, 60)) for _ in range(400)]
    built = EMPTY.changed(added=dict(enumerate(texts)), removed={})
    everywhere = np.arange(len(texts), dtype=np.int32)
    for _ in range(100):
        query = chance.choices(vocabulary, weights, k=8)
        slots, scores = built.search(query, 10)
        every = built.scores_of(query, everywhere)
        best = np.lexsort((everywhere, -every))[: len(slots)]
        assert scores.tolist() == pytest.approx(every[best].tolist(), rel=1e-4)
        assert every[slots].tolist() == pytest.approx(every[best].tolist(), rel=1e-4)


def test_ties_fall_by_slot() -> None:
    slots, _ = index(*["same words"] * 30).search(["same"], 5)
    assert slots.tolist() == [0, 1, 2, 3, 4]


def test_share_tells_words_that_tell_nothing() -> None:
    built = index("the cat", "the dog")
    assert built.share("the") == 1.0
    assert built.share("cat") == 0.5
    assert built.share("cow") == 0.0

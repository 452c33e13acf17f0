"""Terms of texts in several scripts, and where they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.lexicon import spans, terms


def test_words_are_folded_and_lose_their_plural() -> None:
    assert terms("Bridges, QUERIES and 3.5% of the class's buses") == (
        ["bridge", "query", "and", "3", "5", "of", "the", "class", "s", "buse"]
    )


@pytest.mark.parametrize("word", ["class", "bus", "is", "gas", "shoes", "trees"])
def test_what_the_three_rules_except_stays(word: str) -> None:
    assert terms(word) == [word]


def test_compatibility_forms_meet_their_plain_ones() -> None:
    assert terms("Ｆｕｌｌ ﬁne") == terms("full fine")


def test_chinese_gives_characters_and_pairs() -> None:
    assert terms("丢了308分") == ["丢", "了", "丢了", "308", "分"]


def test_a_line_of_two_scripts_is_read_by_both_rules() -> None:
    assert terms("在NFL中") == ["在", "nfl", "中"]


def test_vowel_signs_stay_with_their_word() -> None:
    assert terms("हिन्दी में") == ["हिन्दी", "में"]


def test_underscores_part_words() -> None:
    assert terms("max_chars") == ["max", "char"]


@given(st.text(max_size=200))
def test_every_span_lies_in_the_text_in_order_and_is_one_of_its_terms(text: str) -> None:
    known, end = set(terms(text)), 0
    for span in spans(text):
        assert 0 <= span.start < span.end <= len(text)
        assert span.end > end
        assert span.term in known
        end = span.end

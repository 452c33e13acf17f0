"""Terms of texts in several scripts, and where they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.segments.lexicon import SINGLE_WEIGHT, spans, terms, weighted


def test_words_are_folded_and_lose_their_plural() -> None:
    assert terms("Bridges, QUERIES and 3.5% of the class's buses") == (
        ["bridge", "bridg", "query", "and", "3", "5", "of", "the", "class", "s", "buse"]
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
    assert terms("हिन्दी में") == ["हिन्दी", "हिन्द", "में"]


def test_underscores_part_words() -> None:
    assert terms("max_chars") == ["max", "char"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("defended", "defensive"), ("Häuser", "Häusern"), ("государства", "государство"), ("house", "houses")],
)
def test_forms_of_a_word_share_a_term(one: str, other: str) -> None:
    assert set(terms(one)) & set(terms(other))


def test_words_with_digits_and_short_ones_have_no_stem() -> None:
    assert terms("a1b2c3d4 river 20261121") == ["a1b2c3d4", "river", "20261121"]


@pytest.mark.parametrize("gap", [" ", "\n", "\r\n", "\u3000"])
def test_in_chinese_a_blank_or_the_end_of_a_line_parts_no_word(gap: str) -> None:
    text = f"黑豹{gap}队"
    assert terms(text) == ["黑", "豹", "队", "黑豹", "豹队"]
    assert [text[span.start : span.end] for span in spans(text)] == ["黑豹", f"豹{gap}队"]


@pytest.mark.parametrize("text", ["黑豹\n\n队", "黑豹  队"])
def test_a_paragraphs_end_parts_them(text: str) -> None:
    assert "豹队" not in terms(text)


def test_a_blank_parts_korean_words() -> None:
    assert "수비" in terms("팬서스 수비는")
    assert "스수" not in terms("팬서스 수비는")


def test_a_querys_terms_count_once_and_single_characters_less() -> None:
    assert weighted("the fox and the 豹队") == {
        "the": 1, "fox": 1, "and": 1, "豹": SINGLE_WEIGHT, "队": SINGLE_WEIGHT, "豹队": 1
    }  # fmt: skip


@given(st.text(max_size=200))
def test_every_span_lies_in_the_text_in_order_and_is_one_of_its_terms(text: str) -> None:
    known, end = set(terms(text)), 0
    for span in spans(text):
        assert 0 <= span.start < span.end <= len(text)
        assert span.end >= end
        assert span.term in known
        end = span.end

"""Sentences, terms, parts and tokens: what `extractive:` reads with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.text import passages, sentences, terms, tokens
from services.generator.text.parts import MAX_PARTS, parts
from services.generator.text.sentences import MAX_LISTING_CHARS, MAX_SENTENCE_CHARS, Kind

MIXED = st.text(alphabet=st.sampled_from(list("aB1 .?!:;\n\t#|-*`~。！？：，中文会话'’\"()é🙂")), max_size=400)


def texts(passage: str) -> list[str]:
    return [passage[span.start : span.end] for span in sentences.split(passage)]


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Bach lived in St. Louis. He left.", ["Dr. Bach lived in St. Louis.", "He left."]),
        ("J. S. Bach paid $3.50 for it. Twice.", ["J. S. Bach paid $3.50 for it.", "Twice."]),
        ("It runs, e.g. on a laptop. No more.", ["It runs, e.g. on a laptop.", "No more."]),
        ('"Really?" he asked. "Yes."', ['"Really?" he asked.', '"Yes."']),
        ("会话会过期。端口是9500！真的吗？", ["会话会过期。", "端口是9500！", "真的吗？"]),
        ("他说：“走。”然后走了。", ["他说：“走。”", "然后走了。"]),
        ("one line\nof wrapped prose. Next.", ["one line\nof wrapped prose.", "Next."]),
        ("no punctuation at all", ["no punctuation at all"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_prose_is_cut_at_full_stops_and_not_at_abbreviations(passage: str, expected: list[str]) -> None:
    assert texts(passage) == expected


def test_list_items_are_sentences_without_their_markers() -> None:
    assert texts("- first item\n- second item\n\n1. third") == ["first item", "second item", "third"]


def test_a_sentence_that_ends_in_a_colon_takes_in_what_it_introduces() -> None:
    passage = "Start the demo with:\n\n```\nmake demo\n# not. a! heading?\n```\nThen wait."
    assert texts(passage) == ["Start the demo with:\n\n```\nmake demo\n# not. a! heading?\n```", "Then wait."]


def test_headings_and_the_row_above_a_tables_rule_are_headings() -> None:
    passage = "## Ports\n\n| service | port |\n|---|---|\n| mesh | 9500 |\n"
    assert [(passage[s.start : s.end], s.kind) for s in sentences.split(passage)] == [
        ("Ports", Kind.HEADING),
        ("| service | port |", Kind.HEADING),
        ("| mesh | 9500 |", Kind.TABLE),
    ]


def test_a_listing_ends_at_its_own_fence_and_not_at_another() -> None:
    passage = "1. ````\n   ```\n   # code\n   ```\n   ````\n\nWords.\n\n~~~ sh\nls\n```\n~~~\nMore."
    assert [(passage[s.start : s.end], s.kind) for s in sentences.split(passage)] == [
        ("````\n   ```\n   # code\n   ```\n   ````", Kind.CODE),
        ("Words.", Kind.PROSE),
        ("~~~ sh\nls\n```\n~~~", Kind.CODE),
        ("More.", Kind.PROSE),
    ]


@pytest.mark.parametrize(
    ("passage", "limit"),
    [
        ("word " * 2_000, MAX_SENTENCE_CHARS),
        ("字" * 3_000, MAX_SENTENCE_CHARS),
        ("x" * 3_000, MAX_SENTENCE_CHARS),
        ("```\n" + "a = 1\n" * 500 + "```", MAX_LISTING_CHARS),
    ],
)
def test_no_sentence_is_too_long_and_nothing_is_lost(passage: str, limit: int) -> None:
    found = texts(passage)
    assert max(map(len, found)) <= limit
    assert "".join("".join(found).split()) == "".join(passage.split())


@given(MIXED)
def test_sentences_lie_in_the_passage_in_order_and_apart(passage: str) -> None:
    end = 0
    for span in sentences.split(passage):
        assert end <= span.start < span.end <= len(passage)
        assert not passage[span.start].isspace() or span.kind is Kind.CODE
        assert not passage[span.end - 1].isspace()
        end = span.end


@given(st.one_of(MIXED, st.text(st.characters(max_codepoint=127))))
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens.tokens(text)) == text
    assert tokens.count(text) == len(tokens.tokens(text)) == sum(length for _, length in tokens.phrases(text))
    assert "".join(piece for piece, _ in tokens.phrases(text)) == text


def test_a_word_a_number_a_character_and_a_sign_are_tokens() -> None:
    assert tokens.tokens("It costs 42 €, 会话!") == ["It", " costs", " 42", " €", ",", " 会", "话", "!"]


@pytest.mark.parametrize(("limit", "expected"), [(None, "a b c"), (3, "a b c"), (2, "a b"), (1, "a")])
def test_a_text_is_cut_at_a_number_of_tokens(limit: int | None, expected: str) -> None:
    assert tokens.cut_at_tokens("a b c", limit) == expected


def test_the_earliest_stop_string_ends_a_text() -> None:
    assert tokens.cut_at_stop("one two three", ["three", "two"]) == "one "
    assert tokens.cut_at_stop("one two three", ["four"]) == "one two three"


def keys(question: str) -> set[str]:
    return {term.key for term in terms.read(question).terms}


def test_asking_words_are_no_terms() -> None:
    assert keys("What is the default port of the control plane?") == keys("default port, control plane")
    assert keys("会话什么时候过期？") == keys("会话 过期")
    assert not keys("What is it?")
    assert not keys("为什么呢？")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("expires", "expired"),
        ("explorers", "explored"),
        ("policies", "policy"),
        ("stopping", "stopped"),
        ("Luther's", "Luther"),
        ("died", "die"),
    ],
)
def test_forms_of_a_word_meet(one: str, other: str) -> None:
    assert keys(f"the {one}") == keys(f"the {other}")


def test_names_and_numbers_are_proper_but_a_capital_at_the_beginning_is_not() -> None:
    found = {term.key: term.proper for term in terms.read("Oceans of Kublai Khan in 1271").terms}
    assert found == {"ocean": False, "kublai": True, "khan": True, "1271": True}


def test_a_question_of_a_megabyte_has_a_bounded_number_of_terms() -> None:
    long = " ".join(f"word{index}x" for index in range(20_000))
    assert len(terms.read(long).terms) == terms.MAX_TERMS
    assert len(terms.read("".join(chr(0x4E00 + index) for index in range(20_000))).terms) == terms.MAX_TERMS


def test_a_matcher_finds_terms_words_of_their_family_and_pairs_of_characters() -> None:
    question = terms.read("decision on 会话")
    matcher = terms.Matcher(question.terms)
    text = "They decided 会话状态."
    assert matcher.find(text, 0, len(text)) == {0: terms.KIN, 1: 1.0}
    assert matcher.find(text, 0, 4) == {}
    assert matcher.pairs_in("They decided.") == []


@pytest.mark.parametrize(
    "question", ["Which decision on 会话 was explored?", "How do I list the leases?", "An x1 of 2,000 it's"]
)
def test_a_passage_read_before_holds_the_same_terms_as_one_that_is_searched_now(question: str) -> None:
    text = (
        "# Leases\nThey decided 会话状态. Explorers' 2,000 leases; an X1, it's so! 会话很长。Run this:\n"
        "```\nlist leases\n```\n"
        "| lease | ends |\n|---|---|\n| a | 2,000 |\nWhat it costs.\nNothing at all."
    )
    matcher, passage = terms.Matcher(terms.read(question).terms), passages.read(text)
    pairs = matcher.pairs_in(text)
    searched = []
    for span, read in zip(passage.spans, passage.words, strict=True):
        end = span.listing_start or span.end
        now = matcher.find(text, span.start, end)
        assert matcher.find_in(read.words, text, span.start, end, pairs) == now
        assert now == {} or pairs or not matcher.beginnings.isdisjoint(read.beginnings)
        searched.append(now)
    assert any(searched)
    assert passages.reader()(text) == passage


def test_english_words_are_read_alike_alone_and_among_others() -> None:
    text = "it's the 1,000th of 1990s' 3.5 x86_64 a1 9:30"
    assert terms._ASCII_WORD.findall(text) == terms.WORD.findall(text)


def test_a_follow_up_is_about_what_its_completed_form_adds() -> None:
    question = "And when does it close?"
    about = terms.read(question).about(terms.context(question, f"{question} (library open today)"))
    assert [(term.key, term.context) for term in about.terms] == [("clos", False), ("librar", True), ("open", True)]
    own, *context = (term.weight for term in about.terms)
    assert sum(context) <= terms.MAX_CONTEXT_SHARE * own
    assert context == sorted(context, reverse=True)


def test_a_question_without_terms_of_its_own_asks_for_all_of_its_context() -> None:
    about = terms.read("And why?").about(terms.context("And why?", "And why? (library open)"))
    assert [(term.key, term.weight, term.context) for term in about.terms] == [
        ("librar", 1.0, False),
        ("open", 1.0, False),
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How do I start the mesh?", True),
        ("Which command starts it?", True),
        ("Is there an example?", True),
        ("如何启动？", True),
        ("How does a session end?", False),
        ("What happens when a canary dies?", False),
        ("会话什么时候过期？", False),
    ],
)
def test_only_some_questions_may_be_answered_by_a_listing(question: str, expected: bool) -> None:
    assert terms.read(question).asks_for_code is expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is 12 times 7, and when does it end?", ["What is 12 times 7", "when does it end?"]),
        ("Convert 5 miles to km and tell me what an epoch is.", ["Convert 5 miles to km", "tell me what an epoch is."]),
        ("12乘以7等于几，以及会话多久过期？", ["12乘以7等于几", "会话多久过期？"]),
        ("In 1774, who discovered oxygen?", ["In 1774, who discovered oxygen?"]),
        ("How do xDS and gRPC work together?", ["How do xDS and gRPC work together?"]),
        ("在曼宁之前，谁最年长？", ["在曼宁之前，谁最年长？"]),
        ("I have 3 apples. How many are 4 times as many?", ["I have 3 apples. How many are 4 times as many?"]),
        ("hello", ["hello"]),
    ],
)
def test_a_question_that_asks_several_things_is_taken_apart(question: str, expected: list[str]) -> None:
    assert parts(question) == expected


@given(MIXED)
def test_parts_are_few_and_never_none(question: str) -> None:
    assert 1 <= len(parts(question)) <= MAX_PARTS

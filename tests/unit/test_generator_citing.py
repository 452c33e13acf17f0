"""Marks in a text, and what they speak of."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import pytest

from services.generator.citing import MAX_CITATIONS, citations, cited
from services.generator.types import End, Message, ModelEvent, Piece, Prompt, Request, Resume, Role
from weft.values import Citation, FinishReason, Passage, Usage

PASSAGES = tuple(
    Passage(f"collections/c/documents/d/chunks/{n}", f"Passage {n}.", f"Title {n}", "S", n, f"{n}.md")
    for n in (1, 2, 3)
)
END = End(FinishReason.STOP, Usage(5, 5))

CLAIMS: dict[str, list[tuple[str, int]]] = {
    "Sessions expire after one hour [1].": [("Sessions expire after one hour", 1)],
    "Sessions expire[1]. They renew.[2]": [("Sessions expire", 1), ("They renew.", 2)],
    "It ends. Sessions expire. [1] They renew. [3]": [("Sessions expire.", 1), ("They renew.", 3)],
    "Sessions expire [1], and renew [2].": [("Sessions expire", 1), ("and renew", 2)],
    "Sessions expire [1, 3].": [("Sessions expire", 1), ("Sessions expire", 3)],
    "Sessions expire [1][2].": [("Sessions expire", 1), ("Sessions expire", 2)],
    "Sessions expire [1] [2].": [("Sessions expire", 1), ("Sessions expire", 2)],
    "Sessions expire [1-3].": [("Sessions expire", n) for n in (1, 2, 3)],
    "[2] says that sessions expire. More.": [("says that sessions expire", 2)],
    "It costs 3.5 MB, e.g.this [1].": [("It costs 3.5 MB, e.g.this", 1)],
    "Rules:\n- **Sessions** expire [1]\n- They renew [2]\n": [("Sessions** expire", 1), ("They renew", 2)],
    "1. Sessions expire [1]\n2. They renew [2]": [("Sessions expire", 1), ("They renew", 2)],
    "会话一小时后过期【1】。可以续期［2］。": [("会话一小时后过期", 1), ("可以续期", 2)],
    "会话过期。[1]可以续期。[2]": [("会话过期。", 1), ("可以续期。", 2)],
    "The lion 🦁 sleeps [1].": [("The lion 🦁 sleeps", 1)],
    "No such thing [7]. Nor [0].": [],
    "Call `xs[1]` and see.": [],
    "So:\n```\nxs[1]\n```\nIt works [2].": [("It works", 2)],
    "See [1](https://example.org) there.": [],
    "[1]": [],
    "  [1] [2] ": [],
    "": [],
    "Unclosed ``` xs[1]": [],
    "Half [1": [],
}


@pytest.mark.parametrize(("text", "wanted"), CLAIMS.items(), ids=CLAIMS.keys())
def test_a_mark_speaks_of_the_words_it_stands_behind(text: str, wanted: list[tuple[str, int]]) -> None:
    found = citations(text, PASSAGES)
    assert [(text[c.start_char : c.end_char], c.page) for c in found] == wanted


def test_a_citation_says_where_the_passage_is_from() -> None:
    (found,) = citations("Sessions expire [2].", PASSAGES)
    assert found == Citation("collections/c/documents/d/chunks/2", 0, 15, "", "Title 2", "S", 2, "2.md")


def test_the_same_claim_is_cited_once_and_there_is_an_end_to_it() -> None:
    assert len(citations("Sessions expire [1][1].", PASSAGES)) == 1
    assert len(citations("x [1] " * 10_000, PASSAGES)) == MAX_CITATIONS


@pytest.mark.parametrize("scrap", ["[", "[1,", "`", "```", "[1]`", "[1]--", "[9] x ", ". ", "\n", "[1", 'a." '])
def test_no_text_takes_long(scrap: str) -> None:
    text = (scrap * 200_000)[:200_000]
    started_s = time.monotonic()
    citations(text, PASSAGES)
    assert time.monotonic() - started_s < 2  # 0.05 s and less where this was written


async def ended(*events: ModelEvent, **options: object) -> End:
    async def model() -> AsyncGenerator[ModelEvent, None]:
        for event in events:
            yield event

    request = Request((Message(Role.USER, "Why?"),), passages=PASSAGES, **options)  # type: ignore[arg-type]
    *before, end = [event async for event in cited(model(), request)]
    assert tuple(before) == events[:-1]  # untouched, and as they came
    assert isinstance(end, End)
    return end


async def test_a_mark_may_come_in_any_number_of_pieces() -> None:
    text = "Sessions expire [1]. They renew [2, 3]."
    whole = await ended(Prompt((1,)), Piece(text, (4,)), END)
    assert [c.page for c in whole.citations] == [1, 2, 3]
    for size in (1, 2, 3, 7):
        pieces = [Piece(text[at : at + size]) for at in range(0, len(text), size)]
        assert await ended(*pieces, END) == whole


async def test_a_resumed_answer_is_cited_from_its_beginning_where_its_text_is_known() -> None:
    begun, rest = "Sessions expire [1]. They ", "renew [2]."
    whole = await ended(Piece(begun + rest), END)
    resumed = await ended(Piece(rest), END, resume=Resume((), (1, 2), len(begun), begun))
    assert resumed == whole
    unknown = await ended(Piece(rest), END, resume=Resume((), (1, 2), len(begun)))
    assert [(c.page, c.start_char, c.end_char) for c in unknown.citations] == [(2, len(begun), len(begun) + 5)]


async def test_the_sentence_for_no_answer_is_an_abstention() -> None:
    said = Piece(" The documents hold no answer to this question.\n")
    assert (await ended(said, END)).reason is FinishReason.ABSTAINED
    assert (await ended(Piece("文档中没有这个问题的答案。"), END)).reason is FinishReason.ABSTAINED
    assert (await ended(said, END, grounded_only=False)).reason is FinishReason.STOP
    assert (await ended(said, Piece("But I guess so."), END)).reason is FinishReason.STOP


async def test_lists_of_a_json_answer_are_no_citations() -> None:
    assert (await ended(Piece('{"a": [1, 2]}'), END, json_schema={"type": "object"})).citations == ()


async def test_a_models_own_citations_are_left_alone() -> None:
    own = End(FinishReason.STOP, Usage(), (Citation("x", 0, 1),))
    assert await ended(Piece("Sessions expire [1]."), own) == own

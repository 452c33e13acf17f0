"""`extractive:` answers in sentences of the passages, cites each, and abstains."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.plugins import Url
from services.generator.models import extractive
from services.generator.types import End, Message, Piece, Request, Role, Sampling, ToolCall
from weft.errors import InvalidArgument
from weft.values import Citation, FinishReason, Passage, Usage

SESSIONS = Passage(
    "collections/c/documents/sessions/chunks/0",
    "Sessions live in SQLite. A session expires after one hour without a turn, and each turn begins the hour anew. "
    "Another turn of the same session waits.",
    title="Sessions",
    section="Life § End",
    page=3,
    source="docs/sessions.md",
)
PORTS = Passage(
    "collections/c/documents/ports/chunks/0",
    "# Ports\n\nThe control plane listens on port 9500. Services take a free port each.\n\n"
    "Choose another with:\n\n```\nWEFT_MESH=127.0.0.1:9600 weft up\n```\n",
    title="Ports",
)
ZH = Passage("collections/c/documents/zh/chunks/0", "会话在一小时没有新的对话后过期。控制平面监听9500端口。")
PASSAGES = (SESSIONS, PORTS, ZH)


@dataclass(frozen=True)
class Answer:
    text: str
    reason: FinishReason
    citations: tuple[Citation, ...]
    usage: Usage
    pieces: list[str]


def user(text: str) -> Message:
    return Message(Role.USER, text)


def tool(text: str, name: str = "calculator") -> Message:
    return Message(Role.TOOL, text, tool_call_id="1", name=name)


async def answer(*messages: Message, passages: Sequence[Passage] = PASSAGES, **options: object) -> Answer:
    model = extractive.open(Url.parse("extractive:"))
    request = Request(messages=messages, passages=tuple(passages), **options)  # type: ignore[arg-type]
    events = [event async for event in model.generate(request)]
    end = events[-1]
    assert isinstance(end, End)
    pieces = [event.text for event in events if isinstance(event, Piece)]
    return Answer("".join(pieces), end.reason, end.citations, end.usage, pieces)


async def test_an_answer_is_a_sentence_of_a_passage_with_everything_that_leads_back_to_it() -> None:
    said = await answer(user("When does a session expire?"))
    sentence = "A session expires after one hour without a turn, and each turn begins the hour anew."
    assert said.text == sentence
    assert said.reason is FinishReason.STOP
    assert said.citations == (
        Citation(SESSIONS.name, 0, len(sentence), sentence, "Sessions", "Life § End", 3, "docs/sessions.md"),
    )


async def test_chinese_is_answered_in_chinese() -> None:
    said = await answer(user("会话什么时候过期？"))
    assert said.text == "会话在一小时没有新的对话后过期。"
    assert [citation.passage for citation in said.citations] == [ZH.name]


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "Who won the World Cup in 2018?",
        "When does the Eiffel Tower close?",
        "Which port does Kubernetes listen on in Paris?",
        "hello",
        "What is it?",
    ],
)
async def test_it_abstains_where_the_passages_hold_no_answer(question: str) -> None:
    said = await answer(user(question))
    assert said.reason is FinishReason.ABSTAINED
    assert said.text == "The documents hold no answer to this question."
    assert said.citations == ()


async def test_it_abstains_in_the_language_of_the_question() -> None:
    said = await answer(user("法国的首都是哪里？"))
    assert (said.reason, said.text) == (FinishReason.ABSTAINED, "文档中没有这个问题的答案。")


async def test_it_abstains_without_passages() -> None:
    assert (await answer(user("When does a session expire?"), passages=())).reason is FinishReason.ABSTAINED


async def test_it_says_the_best_there_is_where_it_need_not_be_grounded() -> None:
    said = await answer(user("Which port does Kubernetes listen on in Paris?"), grounded_only=False)
    assert said.reason is FinishReason.STOP
    assert said.citations


async def test_a_listing_comes_with_the_sentence_that_introduces_it() -> None:
    said = await answer(user("How do I choose another port?"))
    assert "```\nWEFT_MESH=127.0.0.1:9600 weft up\n```" in said.text


async def test_the_sentence_below_a_question_answers_it() -> None:
    faq = Passage(
        "p", "How many people maintain the project?\n\nForty-two.\n\nWhere do they live?\n\nAll over the world."
    )
    said = await answer(user("How many people maintain the project?"), passages=(faq,))
    assert said.text == "Forty-two."


async def test_words_that_only_lead_to_an_answer_are_none() -> None:
    page = Passage(
        "p", "Why. The old one leaked.\n\nWhat it costs. Two more lamps and a longer pipe.", title="The pipe"
    )
    assert (
        await answer(user("What does the pipe cost?"), passages=(page,))
    ).text == "Two more lamps and a longer pipe."


async def test_a_sentence_reads_better_than_a_tables_row() -> None:
    table = Passage("p", "| variable | meaning |\n|---|---|\n| LEASE_S | seconds until a dead owner's lease ends |")
    prose = Passage("q", "When its owner is dead, a lease ends after five seconds.")
    question = user("When does the lease of a dead owner end?")
    assert (await answer(question, passages=(table, prose))).text.startswith(prose.text)
    assert (await answer(question, passages=(table,))).text == "| LEASE_S | seconds until a dead owner's lease ends |"


async def test_a_definition_is_preferred_to_a_mention() -> None:
    text = "The reply carries an epoch. An epoch is a position in the change log. Caches key on the epoch."
    said = await answer(user("What is an epoch?"), passages=(Passage("p", text),))
    assert said.text.startswith("An epoch is a position in the change log.")


async def test_the_title_counts_as_part_of_the_passage() -> None:
    body = "It was founded in 1850 by two brothers."
    question = user("When was Acme founded?")
    assert (await answer(question, passages=(Passage("p", body, title="Acme"),))).text == body
    assert (await answer(question, passages=(Passage("p", body, title="Other"),))).reason is FinishReason.ABSTAINED


async def test_what_was_said_is_not_said_again_from_another_passage() -> None:
    twin = Passage("collections/c/documents/copy/chunks/0", SESSIONS.text)
    less = Passage("collections/c/documents/less/chunks/0", "After one hour without a turn, a session expires.")
    said = await answer(user("When does a session expire?"), passages=(SESSIONS, twin, less))
    assert [citation.passage for citation in said.citations] == [SESSIONS.name]


async def test_the_result_of_a_tool_leads_and_the_passages_need_not_answer() -> None:
    said = await answer(
        user("What is 12 times 7?"),
        Message(Role.ASSISTANT, "", (ToolCall("1", "calculator", {"expression": "12 * 7"}),)),
        tool("12 × 7 = 84."),
    )
    assert (said.text, said.reason, said.citations) == ("12 × 7 = 84.", FinishReason.STOP, ())


async def test_several_results_and_a_cited_sentence_make_one_answer() -> None:
    said = await answer(
        user("What is 12 times 7, what day is tomorrow, and when does a session expire?"),
        tool("12 × 7 = 84."),
        tool("Tomorrow is Sunday.", "calendar"),
    )
    assert said.text.startswith("12 × 7 = 84.\nTomorrow is Sunday.\nA session expires after one hour")
    (citation,) = said.citations
    assert said.text[citation.start_char : citation.end_char] == citation.quote
    assert citation.start_char == len("12 × 7 = 84.\nTomorrow is Sunday.\n")


async def test_two_questions_in_one_get_an_answer_each() -> None:
    said = await answer(user("When does a session expire and which port does the control plane listen on?"))
    assert "expires after one hour" in said.text
    assert "port 9500" in said.text
    assert {citation.passage for citation in said.citations} >= {SESSIONS.name, PORTS.name}


async def test_what_a_tool_merely_quotes_is_still_looked_for() -> None:
    said = await answer(
        user("When does a session expire?"),
        tool("1 passage about “When does a session expire?”; the best, in Guide: “…”", "document_search"),
    )
    assert [citation.passage for citation in said.citations] == [SESSIONS.name]


async def test_results_of_earlier_turns_are_history() -> None:
    said = await answer(
        user("What is 1 + 1?"), tool("1 + 1 = 2."), Message(Role.ASSISTANT, "2"), user("When does a session expire?")
    )
    assert "1 + 1" not in said.text


async def test_a_question_that_names_nothing_leans_on_the_one_before() -> None:
    said = await answer(
        user("When does a session expire?"), Message(Role.ASSISTANT, "After an hour."), user("And how is that?")
    )
    assert "expires" in said.text


async def test_why_is_answered_by_a_reason_or_not_at_all() -> None:
    before = (user("When does the bridge close?"), Message(Role.ASSISTANT, "The bridge closes at ten."))
    fact = Passage("p", "The bridge closes at ten. The bridge was built by the town.")
    reason = Passage("q", "The bridge closes at ten because its lamps are weak.")
    assert (await answer(*before, user("Why?"), passages=(fact,))).reason is FinishReason.ABSTAINED
    assert (await answer(*before, user("Why?"), passages=(fact, reason))).text == reason.text


async def test_a_follow_up_is_answered_by_its_own_words_and_the_session_says_what_about() -> None:
    library = Passage("p", "The library opens at nine. It closes at six.")
    cafe = Passage("q", "The café opens at seven. It closes at four.")
    asked = (user("When does the library open?"), Message(Role.ASSISTANT, "At nine."), user("And when does it close?"))
    query = "And when does it close? (library open)"
    assert (await answer(*asked, passages=(cafe, library), query=query)).text == "It closes at six."


async def test_what_only_the_session_spoke_of_answers_nothing() -> None:
    asked = (user("When does the library open?"), Message(Role.ASSISTANT, "At nine."), user("And the swimming pool?"))
    said = await answer(
        *asked, passages=(Passage("p", "The library opens at nine."),), query="And the swimming pool? (library open)"
    )
    assert said.reason is FinishReason.ABSTAINED


async def test_a_tools_result_for_a_follow_up_needs_no_passage() -> None:
    said = await answer(
        user("When does a session expire?"),
        Message(Role.ASSISTANT, "After an hour."),
        user("And what is 12 times 7?"),
        tool("12 × 7 = 84."),
        query="And what is 12 times 7? (session expire)",
    )
    assert said.text == "12 × 7 = 84."


LISTING = Passage(
    "p", "# From Python\n\n```python\nanswer = await c.ask('What happens when a canary dies?')\n```\n\nIt is typed.\n"
)


async def test_a_listing_is_no_answer_to_a_question_for_facts_nor_what_stands_in_it() -> None:
    assert (await answer(user("What happens when a canary dies?"), passages=(LISTING,))).citations == ()


async def test_a_listing_answers_where_one_is_asked_for_and_no_sentence_does() -> None:
    said = await answer(user("How do I ask from Python when a canary dies?"), passages=(LISTING,))
    assert said.text == LISTING.text[15:-15]
    prose = Passage("q", "From Python you ask when a canary dies by `await c.ask(…)`.")
    said = await answer(user("How do I ask from Python when a canary dies?"), passages=(LISTING, prose))
    assert said.text == prose.text


async def test_usage_counts_what_was_read_and_written() -> None:
    said = await answer(user("Which port?"), passages=(Passage("p", "The port is 9500."),))
    assert said.usage == Usage(input_tokens=3 + 5, output_tokens=5)


async def test_max_tokens_cuts_the_text_and_its_citation() -> None:
    said = await answer(user("When does a session expire?"), sampling=Sampling(max_tokens=3))
    assert (said.text, said.reason) == ("A session expires", FinishReason.LENGTH)
    assert [(c.start_char, c.end_char, c.quote) for c in said.citations] == [(0, 17, "A session expires")]


async def test_an_answer_comes_in_several_pieces() -> None:
    said = await answer(user("When does a session expire?"))
    assert len(said.pieces) >= 2


WORDS = st.sampled_from(
    [
        "session",
        "expire",
        "port",
        "9500",
        "one.",
        "The?",
        "is\n",
        "plane!",
        "-",
        "#",
        "```",
        "|",
        ":",
        "会话",
        "过期。",
        "🙂",
    ]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=5), TEXTS)
def test_whatever_the_passages_each_citation_is_a_piece_of_its_passage(bodies: list[str], question: str) -> None:
    passages = [Passage(str(index), body) for index, body in enumerate(bodies)]
    said = asyncio.run(answer(user(question), passages=passages))
    assert said.text
    assert [c.start_char for c in said.citations] == sorted(c.start_char for c in said.citations)
    for citation in said.citations:
        assert said.text[citation.start_char : citation.end_char] == citation.quote
        assert citation.quote in bodies[int(citation.passage)]


def test_the_url_takes_no_parameters() -> None:
    with pytest.raises(InvalidArgument, match="takes no parameters"):
        extractive.open(Url.parse("extractive:?threshold=0"))


async def test_a_large_request_lets_others_have_their_turn() -> None:
    passages = [Passage(str(index), "A session is a session of words. " * 240) for index in range(64)]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    await answer(user("When does a session expire?"), passages=passages)
    task.cancel()
    assert turns >= 30

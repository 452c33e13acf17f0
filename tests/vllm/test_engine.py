"""vLLM's engine in the generator's process: answers that go on exactly, schemas, tools, leaving, load."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from services.generator.ports import Model
from services.generator.types import (
    End,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Prompt,
    Request,
    Resume,
    Role,
    Sampling,
    ToolOffer,
)
from tests.support.generator import STARTED
from tests.support.tiny_llama import ANSWER_TOKENS, SPELT, SPELT_AT
from tests.support.vllm_engine import MAX_RUNNING
from weft.errors import Reason, WeftError
from weft.values import FinishReason

STOPPED_WITHIN_S = 0.2
QUESTIONS = [f"Question {number}: when does the café open on day {number}?" for number in range(20)]


@pytest.fixture
def model(vllm_url: str) -> Model:
    return STARTED[vllm_url]


def asking(question: str = "Why?", *, resume: Resume | None = None, **sampling: Any) -> Request:
    return Request((Message(Role.USER, question),), sampling=Sampling(**sampling), resume=resume)


class Told:
    """What a model said."""

    def __init__(self, events: list[ModelEvent]) -> None:
        prompt, *pieces, end = events
        assert isinstance(prompt, Prompt)
        assert isinstance(end, End)
        self.prompt, self.end = prompt.token_ids, end
        self.pieces = [piece for piece in pieces if isinstance(piece, Piece)]
        self.text = "".join(piece.text for piece in self.pieces)
        self.token_ids = tuple(token_id for piece in self.pieces for token_id in piece.token_ids)

    def chars(self, tokens: int) -> int:
        """Return how many characters the first tokens have, at least."""
        chars = 0
        for piece in self.pieces:
            tokens -= len(piece.token_ids)
            if tokens < 0:
                break
            chars += len(piece.text)
        return chars

    def broken(self, tokens: int, chars: int) -> Resume:
        return Resume(self.prompt, self.token_ids[:tokens], chars)


async def told(model: Model, request: Request) -> Told:
    async with aclosing(model.generate(request)) as events:
        return Told([event async for event in events])


async def until(so: Callable[[], bool]) -> None:
    """Wait until it is so: what the scheduler tells comes with its next step, and wakes nobody."""
    async with asyncio.timeout(20):
        while not so():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def refused(model: Model, request: Request) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await told(model, request)
    return caught.value


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def undisturbed(vllm_url: str) -> list[Told]:
    """The answers to QUESTIONS, each alone."""
    return [await told(STARTED[vllm_url], asking(question)) for question in QUESTIONS]


# -- going on ---------------------------------------------------------------------------------------------


async def test_an_answer_is_as_long_as_the_model_makes_it_and_varied(model: Model) -> None:
    answer = await told(model, asking())
    assert len(answer.token_ids) == ANSWER_TOKENS
    assert answer.end.usage.output_tokens == ANSWER_TOKENS + 1  # and the one that ends it
    assert answer.end.usage.input_tokens == len(answer.prompt)
    assert len(set(answer.token_ids)) > ANSWER_TOKENS / 2


async def test_thirty_two_at_once_answer_as_one_alone_does(model: Model, undisturbed: list[Told]) -> None:
    together = await asyncio.gather(*(told(model, asking(QUESTIONS[at % 20])) for at in range(32)))
    assert [answer.text for answer in together] == [undisturbed[at % 20].text for at in range(32)]
    assert {answer.end.usage.output_tokens for answer in together} == {ANSWER_TOKENS + 1}


@pytest.mark.parametrize("among", [1, 20], ids=["alone", "among-twenty"])
async def test_twenty_of_twenty_broken_answers_go_on_as_if_nothing_had_happened(
    model: Model, undisturbed: list[Told], among: int
) -> None:
    places = random.Random(11)
    at_once = asyncio.Semaphore(among)

    async def goes_on(question: str, whole: Told) -> bool:
        tokens = places.randrange(1, ANSWER_TOKENS)
        chars = places.randrange(whole.chars(tokens) + 1)
        async with at_once:
            rest = await told(model, asking(question, resume=whole.broken(tokens, chars)))
        assert rest.end.usage.input_tokens == len(whole.prompt) + tokens
        assert rest.end.usage.output_tokens == ANSWER_TOKENS + 1 - tokens
        return (whole.text[:chars] + rest.text, whole.token_ids[:tokens] + rest.token_ids) == (
            whole.text,
            whole.token_ids,
        )

    equal = await asyncio.gather(*map(goes_on, QUESTIONS, undisturbed))
    assert equal == [True] * 20


async def test_a_character_of_several_tokens_comes_whole_wherever_the_answer_broke_off(model: Model) -> None:
    answer = await told(model, asking())
    assert all("\ufffd" not in piece.text for piece in answer.pieces)
    # Not which piece has which of its tokens: a reader that was busy gets several steps at once, cut anywhere.
    before = answer.text.index(SPELT.decode())
    assert len(set(answer.token_ids[SPELT_AT : SPELT_AT + len(SPELT)])) == len(SPELT)
    for tokens in range(SPELT_AT, SPELT_AT + len(SPELT) + 1):
        rest = await told(model, asking(resume=answer.broken(tokens, before), max_tokens=SPELT_AT + 8))
        assert answer.text.startswith(answer.text[:before] + rest.text)
        assert rest.text.startswith(SPELT.decode())


async def test_an_answer_that_had_all_its_tokens_only_ends(model: Model) -> None:
    answer = await told(model, asking(max_tokens=9))
    rest = await told(model, asking(resume=answer.broken(9, 3), max_tokens=9))
    assert (rest.text, rest.end.reason) == (answer.text[3:], FinishReason.LENGTH)
    assert rest.end.usage.output_tokens == 0


# -- how tokens are chosen ----------------------------------------------------------------------------------


async def test_a_seed_repeats_an_answer_and_another_one_does_not(model: Model) -> None:
    first, same, other = [
        (await told(model, asking(temperature=1.0, seed=seed, max_tokens=40))).text for seed in (5, 5, 2**64 - 1)
    ]
    assert first == same != other


async def test_penalties_change_what_is_said(model: Model) -> None:
    numbers = {"type": "array", "items": {"enum": list(range(1, 10))}, "minItems": 30, "maxItems": 30}

    async def different(penalty: float) -> int:
        sampling = Sampling(frequency_penalty=penalty, presence_penalty=penalty)
        said = await told(model, Request((Message(Role.USER, "Why?"),), sampling=sampling, json_schema=numbers))
        return len(set(json.loads(said.text)))

    assert await different(-2.0) < await different(2.0)


async def test_usage_stops_at_the_token_that_completes_a_stop_string(model: Model) -> None:
    usual = await told(model, asking())
    stop = usual.text[30:34]
    ends_at = usual.text.index(stop)
    stopped = await told(model, asking(stop=("never said", stop)))
    assert (stopped.text, stopped.end.reason) == (usual.text[:ends_at], FinishReason.STOP)
    needed, text = 0, ""
    for piece in usual.pieces:
        if stop in text:
            break
        needed, text = needed + len(piece.token_ids), text + piece.text
    assert stopped.end.usage.output_tokens == needed


async def test_pieces_closer_together_than_is_asked_for_are_joined_and_nothing_else_changes(model: Model) -> None:
    usual = await told(model, asking())
    joined = await told(model, replace(asking(), piece_interval_s=0.05))
    assert (joined.text, joined.token_ids, joined.end) == (usual.text, usual.token_ids, usual.end)
    assert len(joined.pieces[0].token_ids) == len(usual.pieces[0].token_ids) == 1  # the first one waits for no other
    assert len(joined.pieces) < len(usual.pieces) / 2
    stop = usual.text[30:34]
    one, other = [
        await told(model, replace(asking(stop=(stop,)), piece_interval_s=interval_s)) for interval_s in (0.0, 0.05)
    ]
    assert (one.text, one.token_ids, one.end) == (other.text, other.token_ids, other.end)


async def test_the_more_urgent_of_two_that_wait_goes_first(model: Model) -> None:
    order: list[str] = []

    async def wait_for(name: str, priority: int) -> None:
        request = Request((Message(Role.USER, name),), sampling=Sampling(max_tokens=4), priority=priority)
        async with aclosing(model.generate(request)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    order.append(name)
                    return

    busy = [asyncio.create_task(told(model, asking(max_tokens=60 if at else 20))) for at in range(MAX_RUNNING)]
    await until(lambda: model.load().running == MAX_RUNNING)
    later = asyncio.create_task(wait_for("usual", 0))
    await until(lambda: model.load().waiting > 0)
    await asyncio.gather(wait_for("urgent", 9), later, *busy)
    assert order == ["urgent", "usual"]


# -- schemas and tools ----------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}, "day": {"enum": ["Monday", "每天"]}, "hour": {"enum": [9, 17]}},
    "required": ["open", "day", "hour"],
    "additionalProperties": False,
}


async def test_output_is_held_to_a_schema_also_among_others(model: Model) -> None:
    asked = [Request((Message(Role.USER, question),), json_schema=SCHEMA) for question in QUESTIONS[:8]]
    answers = await asyncio.gather(*(told(model, request) for request in asked), told(model, asking()))
    for answer in answers[:-1]:
        found = json.loads(answer.text)
        assert isinstance(found["open"], bool)
        assert found["day"] in ("Monday", "每天")
        assert found["hour"] in (9, 17)
        assert answer.end.reason == FinishReason.STOP
    assert answers[-1].text == (await told(model, asking())).text


TOOLS = (
    ToolOffer("clock", "Tells the time.", {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}}),
    ToolOffer(
        "add",
        "Adds two digits.",
        {
            "type": "object",
            "properties": {"a": {"enum": [1, 2, 3]}, "b": {"enum": [1, 2, 3]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    ),
)


async def test_a_model_asks_for_tools_as_their_schemas_say_or_speaks(model: Model) -> None:
    def offering(question: str) -> Request:
        return Request((Message(Role.USER, question),), tools=TOOLS, sampling=Sampling(max_tokens=500))

    answers = await asyncio.gather(*(told(model, offering(question)) for question in QUESTIONS))
    called = [answer for answer in answers if answer.end.tool_calls]
    assert called, "none of twenty questions made the model call a tool"
    for answer in called:
        assert answer.end.reason == FinishReason.TOOL_CALLS
        assert answer.text == ""
        assert len({call.id for call in answer.end.tool_calls}) == len(answer.end.tool_calls)
        for call in answer.end.tool_calls:
            if call.name == "add":
                assert {*call.arguments} == {"a", "b"}
                assert {*call.arguments.values()} <= {1, 2, 3}
            else:
                assert call.name == "clock"
    for answer in answers:
        assert answer.end.usage.output_tokens > 1
        assert not answer.text.startswith("{")


async def test_a_tool_whose_schema_is_none_is_named(model: Model) -> None:
    for schema, field in (({"type": "nonsense"}, "tools[1].input_schema"), ({"not": {}}, "tools")):
        tools = (TOOLS[0], ToolOffer("broken", "", schema))
        err = await refused(model, Request((Message(Role.USER, "Why?"),), tools=tools))
        assert (err.reason, err.field) == (Reason.SCHEMA_INVALID, field)


NO_SCHEMAS = {
    "no type": {"type": "nonsense"},
    "no pattern": {"type": "string", "pattern": "("},
    "nowhere": {"$ref": "#/nowhere"},
    "elsewhere": {"$ref": "http://127.0.0.1:9/x.json"},
    "nothing fits": {"enum": []},
    "not supported": {"not": {"type": "string"}},
    "too large": {"const": "x" * 20_000},
}


@pytest.mark.parametrize("schema", NO_SCHEMAS.values(), ids=NO_SCHEMAS.keys())
async def test_a_schema_that_is_none_is_refused_and_harms_nobody(model: Model, schema: dict[str, Any]) -> None:
    err = await refused(model, Request((Message(Role.USER, "Why?"),), json_schema=schema))
    assert (err.reason, err.field) == (Reason.SCHEMA_INVALID, "response_format.json_schema")
    assert (await told(model, asking(max_tokens=4))).end.usage.output_tokens == 4


@pytest.mark.parametrize("pattern", ["(a|aa){1,5000}", "((a{1,500}){1,500}){1,500}", "(.*a){40}.{1000}"])
async def test_a_pattern_made_to_take_long_delays_nobody(model: Model, pattern: str) -> None:
    started_s = time.monotonic()
    schema = {"type": "string", "pattern": pattern}
    request = Request((Message(Role.USER, "Why?"),), json_schema=schema, sampling=Sampling(max_tokens=8))
    await asyncio.gather(told(model, request), told(model, asking(max_tokens=8)), return_exceptions=True)
    assert time.monotonic() - started_s < 10  # 0.2 s where this was written; with another grammar engine 31 s


# -- leaving, and load ------------------------------------------------------------------------------------------


async def test_who_leaves_frees_the_engine_within_200_ms(model: Model) -> None:
    took_s = []
    for _ in range(5):
        stays = asyncio.create_task(told(model, asking()))  # so that the scheduler goes on telling its load
        leaves = model.generate(asking("And I leave."))
        await anext(leaves)
        await anext(leaves)
        await until(lambda: model.load().running == 2)
        started_s = time.monotonic()
        await leaves.aclose()
        await until(lambda: model.load().running == 1)
        if not stays.done():  # else the engine was free anyway
            took_s.append(time.monotonic() - started_s)
        await stays
    print(f"\nengine free after leaving: {', '.join(f'{s * 1_000:.1f}' for s in took_s)} ms")
    assert len(took_s) >= 3
    assert statistics.median(took_s) < STOPPED_WITHIN_S


async def test_load_is_what_the_scheduler_has_running_and_waiting(model: Model) -> None:
    assert (model.load().running, model.load().waiting, model.load().kv_cache) == (0, 0, 0.0)
    tasks = [asyncio.create_task(told(model, asking())) for _ in range(MAX_RUNNING + 5)]
    loads: list[ModelLoad] = []

    def all_there() -> bool:  # they come in over several steps
        loads.append(model.load())
        return (loads[-1].running, loads[-1].waiting) == (MAX_RUNNING, 5)

    await until(all_there)
    assert 0 < (loads[-1].kv_cache or 0) <= 1
    await asyncio.gather(*tasks)
    assert (model.load().running, model.load().waiting) == (0, 0)

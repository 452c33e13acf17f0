"""openai:// by token ids: what is asked anew, what is asked on, what can't be. The server says what it is told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.generator.types import End, Message, Piece, Request, Resume, Role, Sampling
from tests.support.raw_http import DONE, STREAM, Says, event, http, raw, used
from tests.unit.test_generator_openai import WANTED, answer, refusal
from weft.errors import Reason
from weft.values import FinishReason


def told(status: int, body: Any) -> Says:
    return raw(http(status, body if isinstance(body, str) else json.dumps(body)))


IDS = "&resume=token_ids"
RENDERED = told(200, {"tokens": [1, 2, 3], "max_model_len": 10})


def resuming(*output: int, chars: int = 0, **more: Any) -> Request:
    return Request((Message(Role.USER, "When?"),), resume=Resume((1, 2, 3), output, chars), **more)


def decoded(text: str) -> Says:
    return told(200, {"prompt": text})


def came(text: str, *ids: int, finish: str | None = None, stop: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "token_ids": list(ids), "finish_reason": finish, "stop_reason": stop}
    return event({"choices": [choice]})


async def test_a_prompt_that_leaves_no_room_is_told_with_the_counts() -> None:
    long = told(200, {"tokens": list(range(10)), "max_model_len": 10})
    err = await refusal(long, more=IDS)
    assert err.reason == Reason.CONTEXT_TOO_LONG
    assert (err.metadata["prompt_tokens"], err.metadata["context_tokens"]) == ("10", "10")
    request = Request(WANTED.messages, sampling=Sampling(max_tokens=8))
    assert (await refusal(RENDERED, request=request, more=IDS)).reason == Reason.CONTEXT_TOO_LONG


@pytest.mark.parametrize("body", ["[]", "{}", '{"tokens": [-1], "max_model_len": 9}', "x", '{"tokens": "1"}'])
async def test_ids_that_are_none_are_the_servers_failure(body: str) -> None:
    assert (await refusal(told(200, body), more=IDS)).reason == Reason.MODEL_UNAVAILABLE


async def test_ids_wait_for_their_text_and_the_last_one_is_none_of_it() -> None:
    stream = came("", 7) + came("é", 8) + came("", 9, finish="stop") + used(3, 3)
    server, events = await answer(RENDERED, raw(STREAM, stream), more=IDS)
    assert events[1] == Piece("é", (7, 8))
    assert len(events) == 3
    assert server.bodies[1]["prompt"] == [1, 2, 3]
    assert (server.bodies[1]["max_tokens"], server.bodies[1]["return_token_ids"]) == (7, True)


async def test_a_character_in_its_middle_is_computed_again_and_its_ids_are_passed_over() -> None:
    says = [RENDERED, decoded("p"), decoded("pab\ufffd"), decoded("pab\ufffd"), decoded("pab")]
    stream = raw(STREAM, came("", 5), came("é", 6, 7), came("!", 8, finish="length"), used(5, 4), DONE)
    server, events = await answer(*says, stream, request=resuming(4, 5, 6, chars=2), more=IDS)
    assert server.bodies[-1]["prompt"] == [1, 2, 3, 4]
    assert server.bodies[-1]["max_tokens"] == 6
    assert events[1:3] == [Piece("é", (7,)), Piece("!", (8,))]


async def test_an_answer_that_goes_on_otherwise_is_not_continued() -> None:
    says = [RENDERED, decoded("p"), decoded("pab\ufffd"), decoded("pab")]
    err = await refusal(*says, raw(STREAM, came("x", 9)), request=resuming(4, 5, chars=2), more=IDS)
    assert err.reason == Reason.MODEL_UNAVAILABLE
    assert "otherwise" in err.message


async def test_a_stop_string_that_began_before_the_break_is_seen() -> None:
    request = resuming(4, 5, chars=4, sampling=Sampling(stop=("nine!",)))
    says = [RENDERED, decoded("p"), decoded("pat ni"), raw(STREAM, came("ne", 6), came("! and", 7, 8), 60.0)]
    _, events = await answer(*says, request=request, more=IDS)
    assert [event.text for event in events if isinstance(event, Piece)] == [""]
    assert isinstance(events[-1], End)
    assert events[-1].reason is FinishReason.STOP


async def test_an_answer_at_its_limit_is_not_asked_for_again() -> None:
    request = resuming(4, 5, chars=1, sampling=Sampling(max_tokens=2))
    server, events = await answer(RENDERED, decoded("p"), decoded("pabc"), request=request, more=IDS)
    assert events[1] == Piece("bc")
    assert isinstance(events[-1], End)
    assert events[-1].reason is FinishReason.LENGTH
    assert len(server.heads) == 3


async def test_an_answer_that_must_fit_a_schema_is_not_continued() -> None:
    err = await refusal(RENDERED, request=resuming(4, json_schema={"type": "object"}), more=IDS)
    assert err.reason == Reason.RESUME_UNSUPPORTED

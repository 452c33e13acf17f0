"""openai:// and servers that refuse, stall, lie and break off: each ends in the right error, in time, and no crash."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from mesh import deadline
from mesh.deadline import Deadline
from mesh.plugins import Url
from services.generator.models import openai
from services.generator.openai.sse import MAX_EVENT_BYTES
from services.generator.openai.upstream import TRIES
from services.generator.types import End, Piece, Request, ToolCall
from tests.support.raw_http import (
    CHUNKED,
    DONE,
    STREAM,
    WHOLE,
    Says,
    chunk,
    event,
    http,
    raw,
    said,
    used,
)
from tests.unit.test_generator_openai import WANTED, answer, asking, refusal
from weft.errors import Reason, WeftError

NINE = said("Nine ")
TEXT = [Piece("Nine "), Piece("o'clock")]


def refused(status: int, told: Any, **headers: str) -> Says:
    return raw(http(status, told if isinstance(told, str) else json.dumps(told), **headers))


def because(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", **more}}


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (
            because(
                "This model's maximum context length is 64 tokens. However, your prompt contains at least 65 input "
                "tokens, which exceeds this limit even without any output tokens.",
                param="input_tokens",
            ),
            {"context_tokens": "64", "wanted_tokens": "65"},
        ),
        (
            because(
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. "
                "Please reduce the length of the messages.",
                code="context_length_exceeded",
            ),
            {"context_tokens": "8192", "wanted_tokens": "9001"},
        ),
        (
            {
                "error": {
                    "code": 400,
                    "message": "the request exceeds the available context size, try increasing it",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 5000,
                    "n_ctx": 4096,
                }
            },
            {"context_tokens": "4096", "wanted_tokens": "5000"},
        ),
        (
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
                "Given: 2000 `inputs` tokens and 100 `max_new_tokens`",
                "error_type": "validation",
            },
            {"context_tokens": "2048", "wanted_tokens": "2000"},
        ),
        (because("Too many tokens, somewhere."), {}),
    ],
    ids=["vllm", "openai", "llama.cpp", "tgi", "without counts"],
)
async def test_a_context_too_long_is_told_with_the_counts(told: Any, counts: dict[str, str]) -> None:
    err = await refusal(refused(400, told))
    assert err.reason == Reason.CONTEXT_TOO_LONG
    assert {name: err.metadata[name] for name in counts} == counts


@pytest.mark.parametrize("status", [400, 422])
async def test_what_else_is_wrong_with_a_request_names_the_field(status: int) -> None:
    err = await refusal(refused(status, because("temperature must be small", param="temperature")))
    assert (err.reason, err.field) == (Reason.INVALID_FIELD, "sampling.temperature")
    assert "temperature must be small" in err.message


async def test_a_schema_that_is_none_is_told_as_such() -> None:
    request = Request(WANTED.messages, json_schema={"type": "nonsense"})
    told = because("Grammar error: Unknown type: nonsense")
    assert (await refusal(refused(400, told), request=request)).reason == Reason.SCHEMA_INVALID
    assert (await refusal(refused(400, told))).reason == Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "WEFT_GENERATOR__API_KEYS"),
        (403, "WEFT_GENERATOR__API_KEYS"),
        (404, "knows no model 'm'"),
        (402, "status 402"),
        (308, "redirects"),
    ],
)
async def test_what_the_operator_must_mend_is_said_and_not_tried_again(status: int, says: str) -> None:
    async with asking(refused(status, because("no sk-secret is known"), location="http://127.0.0.1:1/else")) as (
        server,
        model,
    ):
        with pytest.raises(WeftError, match=says) as caught:
            await anext(model.generate(WANTED))
        assert caught.value.reason == Reason.MODEL_UNAVAILABLE
        assert "sk-secret" not in caught.value.message + str(caught.value.metadata)
        assert len(server.heads) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failure_that_passes_is_tried_again(status: int) -> None:
    server, events = await answer(refused(status, "later"), raw(STREAM, WHOLE))
    assert events[:2] == TEXT
    assert len(server.heads) == 2


async def test_one_that_stays_is_told_after_some_tries() -> None:
    async with asking(refused(503, because("warming up"))) as (server, model):
        with pytest.raises(WeftError, match="warming up") as caught:
            await anext(model.generate(WANTED))
        assert (caught.value.reason, len(server.heads)) == (Reason.MODEL_UNAVAILABLE, TRIES)


async def test_a_server_that_wants_more_time_gets_it_and_no_second_try() -> None:
    async with asking(refused(429, "slow down", retry_after="30")) as (server, model):
        with pytest.raises(WeftError) as caught:
            await anext(model.generate(WANTED))
        assert (caught.value.reason, caught.value.retry_after_s) == (Reason.MODEL_UNAVAILABLE, 30.0)
        assert len(server.heads) == 1


@pytest.mark.parametrize("raw_after", ["soon", "-1", "9" * 400, "Fri, 31 Dec 1999 23:59:59 GMT", "١"])
async def test_a_retry_after_that_says_nothing_is_passed_over(raw_after: str) -> None:
    server, events = await answer(refused(429, "x", retry_after=raw_after), raw(STREAM, WHOLE))
    assert (events[:2], len(server.heads)) == (TEXT, 2)


async def test_a_refusal_of_any_size_and_kind_is_told_shortly() -> None:
    for body in ("x" * 1_000_000, "[" * 60_000, '{"error": {"message": 7}}', "\x00\x1b[31m", '{"error": null}', ""):
        err = await refusal(refused(400, body))
        assert err.reason == Reason.INVALID_FIELD
        assert err.message.isprintable()


async def test_nobody_there_is_told_after_some_tries() -> None:
    async with asking(raw()) as (server, model):
        server_port = server.port
    model = openai.open(Url.parse(f"openai://127.0.0.1:{server_port}/v1?model=m"))
    with pytest.raises(WeftError, match="can't be reached") as caught:
        await anext(model.generate(WANTED))
    assert caught.value.reason == Reason.MODEL_UNAVAILABLE
    await model.close()


# -- answers that are none -------------------------------------------------------------------------------

GARBAGE = {
    "not json": b"data: no json\n\n",
    "a list": b"data: []\n\n",
    "a number": b"data: 7\n\n",
    "deep": b"data: " + b"[" * 100_000 + b"\n\n",
    "choices of text": event({"choices": "many"}),
    "content of numbers": event({"choices": [{"delta": {"content": 7}}]}),
    "a lone surrogate": b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',
    "broken utf-8": b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
    "a negative usage": event({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}}),
    "a huge usage": event({"choices": [], "usage": {"prompt_tokens": 10**30, "completion_tokens": 1}}),
    "a huge number": b"data: " + b"9" * 100_000 + b"\n\n",
    "many calls": said(tool_calls=[{"index": index, "function": {"name": "x"}} for index in range(1_000)]),
    "an endless line": b"data: " + b"x" * (MAX_EVENT_BYTES + 1),
    "an endless event": b"data: xxxxxxx\n" * (MAX_EVENT_BYTES // 8),
    "its own error": event(because("out of memory", code=500)) + DONE,
    "nothing but its end": DONE,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_the_servers_failure_before_the_first_token_and_after(garbage: bytes) -> None:
    for before in (b"", NINE):
        err = await refusal(raw(STREAM, before, garbage))
        assert err.reason == Reason.MODEL_UNAVAILABLE


@pytest.mark.parametrize(
    "arguments",
    ['{"x": ', "[1]", '"text"', "[" * 50_000, "7", '{"x": 1' + "0" * 400 + "}", '{"x": Infinity}'],
    ids=["cut", "a list", "a text", "deep", "a number", "a huge number", "no number"],
)
async def test_tool_calls_that_are_none_are_the_servers_failure(arguments: str) -> None:
    part = {"index": 0, "id": "a", "function": {"name": "clock", "arguments": arguments}}
    err = await refusal(raw(STREAM, said(tool_calls=[part]), said(finish="tool_calls"), DONE))
    assert err.reason == Reason.MODEL_UNAVAILABLE


async def test_half_a_character_in_a_tool_calls_arguments_is_replaced() -> None:
    part = {"index": 0, "id": "a", "function": {"name": "clock", "arguments": r'{"zone": ["\ud83d", "\ud83e\udd81"]}'}}
    _, events = await answer(raw(STREAM, said(tool_calls=[part]), said(finish="tool_calls"), DONE))
    end = events[-1]
    assert isinstance(end, End)
    assert end.tool_calls == (ToolCall("a", "clock", {"zone": ["\ufffd", "🦁"]}),)


@pytest.mark.parametrize(
    "response",
    [
        http(200, "<html>Log in</html>", "text/html"),
        http(200, '{"choices": []}'),
        http(200, WHOLE, "text/event-stream", content_encoding="gzip"),
        b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE,
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + b"x: y\r\n" * 50_000,
        b"HTTP/1.1 999999999 OK\r\n\r\n",
        CHUNKED + b"not a number\r\n",
        b"",
    ],
    ids=["a page", "json", "gzip", "no type", "mail", "many headers", "a strange status", "bad chunks", "nothing"],
)
async def test_what_is_no_stream_of_events_is_the_servers_failure(response: bytes) -> None:
    assert (await refusal(raw(response))).reason == Reason.MODEL_UNAVAILABLE


async def test_an_answer_that_its_filter_stopped_is_not_taken_for_a_whole_one() -> None:
    err = await refusal(raw(STREAM, NINE, said(finish="content_filter"), used(1, 1), DONE))
    assert (err.reason, err.field) == (Reason.INVALID_FIELD, "messages")


# -- streams that are cut, and servers that say nothing --------------------------------------------------


@pytest.mark.parametrize(
    "cut",
    [STREAM + NINE, CHUNKED + chunk(NINE), STREAM + NINE + NINE[:20], STREAM + NINE + DONE, STREAM + NINE + used(1, 1)],
    ids=["closed", "in the middle of chunks", "in an event", "done without a reason", "usage without a reason"],
)
async def test_a_stream_cut_after_its_first_token_is_not_tried_again(cut: bytes) -> None:
    async with asking(raw(cut)) as (server, model):
        given: list[Any] = []
        with pytest.raises(WeftError) as caught:
            given.extend([event async for event in _into(given, model.generate(WANTED))])
        assert caught.value.reason == Reason.MODEL_UNAVAILABLE
        assert given[:1] == TEXT[:1]
        assert len(server.heads) == 1


async def _into(given: list[Any], events: Any) -> Any:
    async for each in events:
        given.append(each)
        yield each


@pytest.mark.parametrize("cut", [STREAM, CHUNKED, CHUNKED + chunk(NINE[:20]), b"HTTP/1.1 200"])
async def test_one_cut_before_it_is_tried_again(cut: bytes) -> None:
    server, events = await answer(raw(cut), raw(STREAM, WHOLE))
    assert (events[:2], len(server.heads)) == (TEXT, 2)


@pytest.mark.parametrize(
    "says",
    [
        raw(STREAM, said("Nine ", finish="stop")),
        raw(STREAM, said("Nine ", finish="stop"), DONE, 60.0),
        raw(CHUNKED, chunk(said("Nine ", finish="stop"))),
        raw(STREAM, said("Nine ", finish="stop"), b"data: garbage\n\n"),
        raw(STREAM, said("Nine ", finish="stop"), 60.0),
    ],
    ids=["closed", "done and open", "cut", "garbage", "open"],
)
async def test_an_answer_is_whole_once_its_reason_is_told_whatever_comes_of_the_rest(says: Says) -> None:
    _, events = await asyncio.wait_for(answer(says), 15)
    assert [type(event).__name__ for event in events] == ["Piece", "End"]


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (raw(60.0), "said nothing for 0.3 s"),
        (raw(STREAM, 60.0), "said nothing for 0.3 s"),
        (raw(STREAM, *[b": still here\n\n", 0.05] * 1_000), "said nothing for 0.3 s"),
        (raw(STREAM, *[b"data: {}\n\n", 0.05] * 1_000), "said nothing for 0.3 s"),
        (raw(STREAM, said("", role="assistant"), 60.0), "said nothing for 0.3 s"),
        (raw(STREAM, NINE, 60.0), "said nothing more for 0.3 s"),
        (raw(STREAM, NINE, *[b": still here\n\n", 0.05] * 1_000), "said nothing more for 0.3 s"),
        (raw(*[bytes([byte]) for byte in STREAM[:20]], 60.0), "said nothing for 0.3 s"),
    ],
    ids=[
        "at all",
        "no token",
        "comments",
        "empty events",
        "a role",
        "one token",
        "a token and comments",
        "half a head",
    ],
)
async def test_a_server_that_says_nothing_is_given_up(says: Says, problem: str) -> None:
    name = "token_timeout_s" if "more" in problem else "first_token_timeout_s"
    err = await refusal(says, more=f"&{name}=0.3")
    assert err.reason == Reason.MODEL_UNAVAILABLE
    assert problem in err.message


async def test_an_answer_that_never_ends_is_given_up() -> None:
    err = await refusal(raw(STREAM, *[NINE, 0.02] * 3_000), more="&timeout_s=0.4")
    assert err.reason == Reason.MODEL_UNAVAILABLE
    assert "was not done after 0.4 s" in err.message


@pytest.mark.parametrize("says", [raw(60.0), raw(STREAM, *[NINE, 0.02] * 3_000)], ids=["nothing", "no end"])
async def test_the_callers_deadline_rules_and_is_its_own(says: Says) -> None:
    with deadline.bind(Deadline.after(0.3)):
        err = await refusal(says)
    assert err.reason == Reason.DEADLINE_EXCEEDED


async def test_whoever_leaves_closes_the_connection_at_once() -> None:
    async with asking(raw(STREAM, *[NINE, 0.01] * 10_000)) as (server, model):
        async with aclosing(model.generate(WANTED)) as events:
            await anext(events)
            assert model.load().running == 1
        assert model.load().running == 0
        await asyncio.wait_for(server.left.wait(), 10)


@pytest.mark.parametrize("says", [raw(60.0), raw(STREAM, 60.0)], ids=["no head", "no token"])
async def test_a_caller_who_is_cancelled_while_it_waits_closes_it_too(says: Says) -> None:
    async with asking(says) as (server, model):

        async def ask() -> None:
            async with aclosing(model.generate(WANTED)) as events:
                await anext(events)

        task = asyncio.create_task(ask())
        while not server.heads:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.load().running == 0
        await asyncio.wait_for(server.left.wait(), 10)

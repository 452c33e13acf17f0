"""openai://: what is asked, and what is made of the answers. The server says exactly what each test tells it to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mesh.plugins import Url
from services.generator.models import openai
from services.generator.openai.sse import MAX_EVENT_BYTES, EventParser, TooLarge
from services.generator.openai.stops import Stops
from services.generator.ports import Surroundings
from services.generator.types import (
    End,
    Message,
    ModelEvent,
    Piece,
    Request,
    Role,
    Sampling,
    ToolCall,
    ToolOffer,
)
from tests.support.raw_http import (
    DONE,
    STREAM,
    WHOLE,
    RawServer,
    Says,
    http,
    raw,
    raw_server,
    said,
    used,
)
from weft.errors import Reason, WeftError
from weft.values import FinishReason, Usage

WANTED = Request((Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "When?")))
KEYS = Surroundings(api_keys={"127.0.0.1": "sk-secret"})


@asynccontextmanager
async def asking(*says: Says, more: str = "") -> AsyncIterator[tuple[RawServer, openai.OpenAi]]:
    async with raw_server(*says) as server:
        model = openai.open(Url.parse(server.url(more)), KEYS)
        try:
            yield server, model
        finally:
            await model.close()


async def answer(*says: Says, request: Request = WANTED, more: str = "") -> tuple[RawServer, list[ModelEvent]]:
    async with asking(*says, more=more) as (server, model):
        return server, [event async for event in model.generate(request)]


async def refusal(*says: Says, request: Request = WANTED, more: str = "") -> WeftError:
    with pytest.raises(WeftError) as caught:
        await answer(*says, request=request, more=more)
    assert "sk-secret" not in str(caught.value) + str(caught.value.metadata)
    assert len(caught.value.message) < 1_000
    return caught.value


# -- what is asked ---------------------------------------------------------------------------------------


async def test_a_request_is_a_streamed_chat_with_its_usage_and_what_was_set() -> None:
    sampling = Sampling(0.5, 0.9, 40, 64, ("END",), 2**64 - 1, 0.1, -0.1)
    schema = {"type": "object", "properties": {"at": {"type": "integer"}}}
    server, _ = await answer(
        raw(STREAM, WHOLE), request=Request(WANTED.messages, sampling=sampling, json_schema=schema)
    )
    assert server.heads[0].startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "authorization: bearer sk-secret\r\n" in server.heads[0].lower()
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "max_tokens": 64,
            "stop": ["END"],
            "seed": 2**63 - 1,
            "presence_penalty": 0.1,
            "frequency_penalty": -0.1,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        }
    ]


async def test_what_is_not_set_is_left_to_the_server() -> None:
    server, _ = await answer(raw(STREAM, WHOLE))
    assert sorted(server.bodies[0]) == ["messages", "model", "stream", "stream_options"]


async def test_the_limit_is_called_as_the_server_calls_it() -> None:
    request = Request(WANTED.messages, sampling=Sampling(max_tokens=5))
    server, _ = await answer(raw(STREAM, WHOLE), request=request, more="&limit=max_completion_tokens")
    assert server.bodies[0]["max_completion_tokens"] == 5
    assert "max_tokens" not in server.bodies[0]


async def test_tools_and_their_results_are_told() -> None:
    messages = (
        Message(Role.USER, "When?"),
        Message(Role.ASSISTANT, "", (ToolCall("c1", "clock", {"zone": "東京"}),)),
        Message(Role.TOOL, "9:00", tool_call_id="c1", name="clock"),
    )
    schema = {"type": "object"}
    request = Request(messages, tools=(ToolOffer("clock", "Tells the time.", schema),))
    server, _ = await answer(raw(STREAM, WHOLE), request=request)
    body = server.bodies[0]
    call = body["messages"][1]["tool_calls"][0]
    assert json.loads(call["function"].pop("arguments")) == {"zone": "東京"}
    assert call == {"id": "c1", "type": "function", "function": {"name": "clock"}}
    assert body["messages"][2] == {"role": "tool", "content": "9:00", "tool_call_id": "c1"}
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "clock", "description": "Tells the time.", "parameters": schema},
        }
    ]


async def test_a_key_goes_to_its_host_alone() -> None:
    async with raw_server(raw(STREAM, WHOLE)) as server:
        model = openai.open(Url.parse(server.url()), Surroundings(api_keys={"elsewhere": "sk-secret"}))
        assert [event async for event in model.generate(WANTED)]
        await model.close()
    assert "sk-secret" not in server.heads[0]


async def test_opening_calls_nothing_and_a_server_that_is_down_is_no_reason_not_to_start() -> None:
    model = openai.open(Url.parse("openai://127.0.0.1:1/v1?model=m"))
    await model.start()
    assert model.capabilities.context_tokens == 0
    await model.close()


async def test_a_server_that_tells_its_context_is_believed() -> None:
    listed = {"data": [{"id": "other"}, {"id": "m", "max_model_len": 4096}]}
    async with asking(raw(http(200, json.dumps(listed)))) as (_, model):
        await model.start()
        assert model.capabilities.context_tokens == 4096


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("openai://", "is not openai://"),
        ("openai://host/v1", "model=NAME"),
        ("openai://host?model=m", "is not openai://"),
        ("openai://host/v1?model=m&modle=x", "'modle' is no parameter"),
        ("openai://host/v1?model=m&resume=text", "allowed is token_ids"),
        ("openai://host/v1?model=m&timeout_s=0", "above 0"),
        ("openai://host/v1?model=m&token_timeout_s=nan", "above 0"),
        ("openai://host/v1?model=m&token_timeout_s=soon", "'soon'"),
        ("openai://me:sk-secret@host/v1?model=m", "WEFT_GENERATOR__API_KEYS"),
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused(url: str, says: str) -> None:
    with pytest.raises(WeftError) as caught:
        openai.open(Url.parse(url))
    assert caught.value.reason == Reason.INVALID_FIELD
    assert says in caught.value.message
    assert "sk-secret" not in caught.value.message


def test_only_this_machine_is_called_without_tls() -> None:
    from services.generator.openai import options

    def origin(url: str) -> str:
        return options.read(Url.parse(url)).origin

    assert origin("openai://llm.example/v1?model=m") == "https://llm.example:443"
    assert origin("openai://llm.example:8000/v1?model=m&tls=no") == "http://llm.example:8000"
    assert origin("openai://[::1]:8000/v1?model=m") == "http://[::1]:8000"


# -- what is made of an answer ---------------------------------------------------------------------------


async def test_pieces_come_as_they_are_said_and_usage_is_the_servers() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}}
    _, events = await answer(raw(STREAM, said("", role="assistant"), WHOLE.replace(used(7, 3), used(7, 3, **details))))
    assert events == [Piece("Nine "), Piece("o'clock"), End(FinishReason.STOP, Usage(7, 3, 4))]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("eos_token", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
    ],
)
async def test_why_it_ended_is_told(told: str, reason: FinishReason) -> None:
    _, events = await answer(raw(STREAM, said("Nine"), said(finish=told), used(1, 1)))
    assert isinstance(events[-1], End)
    assert events[-1].reason is reason


async def test_usage_that_no_server_told_is_estimated() -> None:
    _, events = await answer(raw(STREAM, said("Nine "), said("o'clock", finish="stop"), DONE))
    assert events[-1] == End(FinishReason.STOP, Usage(input_tokens=5, output_tokens=2))


async def test_thoughts_comments_and_strange_fields_are_passed_over() -> None:
    noise = (
        b": keep-alive\n\nid: 7\nevent: message\nretry: 10\n\n"
        + said(reasoning_content="Hm, ")
        + said("", reasoning="so")
    )
    _, events = await answer(raw(STREAM, noise, WHOLE, b"data: {}\n\n"))
    assert [event.text for event in events if isinstance(event, Piece)] == ["Nine ", "o'clock"]


def call_part(index: int | None = None, id: str | None = None, **function: str) -> dict[str, Any]:
    part: dict[str, Any] = {"function": function}
    if index is not None:
        part["index"] = index
    if id is not None:
        part["id"] = id
    return part


@pytest.mark.parametrize(
    "parts",
    [
        [
            [call_part(0, "a", name="clock", arguments="")],
            [call_part(0, arguments='{"zone"')],
            [call_part(1, "b", name="sum", arguments='{"x": [1,')],
            [call_part(0, arguments=': "東京"}'), call_part(1, arguments=" 2]}")],
        ],
        [
            [call_part(id="a", name="clock", arguments='{"zone": "東京"}')],
            [call_part(id="b", name="sum", arguments='{"x": ')],
            [call_part(arguments="[1, 2]}")],
        ],
    ],
    ids=["with an index", "without"],
)
async def test_tool_calls_in_pieces_are_joined(parts: list[list[dict[str, Any]]]) -> None:
    deltas = b"".join(said(tool_calls=part) for part in parts)
    _, events = await answer(raw(STREAM, deltas, said(finish="tool_calls"), used(9, 8), DONE))
    calls = (ToolCall("a", "clock", {"zone": "東京"}), ToolCall("b", "sum", {"x": [1, 2]}))
    assert events == [End(FinishReason.TOOL_CALLS, Usage(9, 8), tool_calls=calls)]


async def test_a_call_without_arguments_or_id_is_one() -> None:
    _, events = await answer(raw(STREAM, said(tool_calls=[call_part(0, name="clock")]), said(finish="stop"), DONE))
    assert isinstance(events[-1], End)
    assert events[-1].tool_calls == (ToolCall("call_0", "clock", {}),)
    assert events[-1].reason is FinishReason.TOOL_CALLS


async def test_a_call_that_the_limit_cut_is_none() -> None:
    part = [call_part(0, "a", name="clock", arguments='{"zo')]
    _, events = await answer(raw(STREAM, said("So", tool_calls=part), said(finish="length"), used(1, 1), DONE))
    assert events == [Piece("So"), End(FinishReason.LENGTH, Usage(1, 1))]


# -- events and stop strings -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20), max_size=6), st.data())
def test_events_are_the_same_wherever_the_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    stream = "".join(f": note{end}event: x{end}data: {text}{end}data:{text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser, found = EventParser(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    wanted = [f"{text}\n{text.removeprefix(' ')}".encode() for text in texts]
    assert found == wanted


def feed(parser: EventParser, part: bytes, total_bytes: int) -> list[bytes]:
    return [event for _ in range(total_bytes // len(part)) for event in parser.feed(part)]


@pytest.mark.parametrize("part", [b"data: " + b"x" * 65_536, b"data: x\n" * 8_192, b"x" * 65_536])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(part: bytes) -> None:
    with pytest.raises(TooLarge):
        feed(EventParser(), part, 2 * MAX_EVENT_BYTES)


def test_comments_are_let_go_however_many() -> None:
    assert feed(EventParser(), b":" + b"x" * 65_536 + b"\r", 4 * MAX_EVENT_BYTES) == []


@settings(deadline=None)
@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_a_text_ends_before_its_first_stop_string_wherever_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    ended = min(((at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0), default=None)
    whole = text if ended is None else text[: ended[1]]
    heard = data.draw(st.integers(0, max(0, len(whole) - max(map(len, stops), default=1) + 1)))
    cutter, found = Stops(stops, text[:heard]), text[:heard]
    for letter in text[heard:]:
        found += cutter.take(letter)
    assert found + cutter.rest() == whole
    assert cutter.found is (ended is not None)

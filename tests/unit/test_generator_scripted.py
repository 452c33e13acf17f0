"""`scripted:` does what its URL says; settings name models by URL."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mesh import settings as mesh_settings
from mesh.plugins import Url
from services.generator.models import scripted
from services.generator.settings import Settings
from services.generator.types import End, Message, ModelEvent, Piece, Request, Resume, Role, Sampling
from weft.errors import InvalidArgument, Reason, Unavailable, WeftError
from weft.values import FinishReason


async def say(url: str, **options: Any) -> list[ModelEvent]:
    model = scripted.open(Url.parse(url))
    request = Request(messages=(Message(Role.USER, "Why not?"),), **options)
    return [event async for event in model.generate(request)]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("scripted:?text=Hello,%20world.", "Hello, world."),
        ("scripted:?tokens=3", "word1 word2 word3"),
        ("scripted:?text=a%20b&tokens=5", "a b a b a"),
        ("scripted:?text=a%20b%20c&tokens=2", "a b"),
        ("scripted:?text=你好", "你好"),
        ("scripted:?tokens=0", ""),
        ("scripted:", " ".join(f"word{index}" for index in range(1, 17))),
    ],
)
async def test_it_says_its_text(url: str, expected: str) -> None:
    assert text_of(await say(url)) == expected


async def test_it_waits_before_the_first_token_and_between_tokens() -> None:
    started_s = time.perf_counter()
    await say("scripted:?tokens=3&first_delay_ms=60&delay_ms=20")
    assert 0.1 <= time.perf_counter() - started_s < 5


@pytest.mark.parametrize(("after", "said"), [(0, ""), (2, "word1 word2"), (3, "word1 word2 word3")])
async def test_it_fails_after_so_many_tokens(after: int, said: str) -> None:
    model = scripted.open(Url.parse(f"scripted:?tokens=3&fail_after={after}"))
    events: list[ModelEvent] = []

    async def read() -> None:
        async for event in model.generate(Request(messages=(Message(Role.USER, "x"),))):
            events.append(event)

    with pytest.raises(Unavailable) as caught:
        await read()
    assert caught.value.reason == Reason.MODEL_UNAVAILABLE
    assert text_of(events) == said


async def test_it_hangs_after_so_many_tokens() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await say("scripted:?tokens=3&hang_after=1")


async def test_a_resumed_answer_does_not_fail_again_where_it_was_resumed() -> None:
    ids = tuple(scripted.token_id(token) for token in ("word1", " word2"))
    events = await say("scripted:?tokens=3&fail_after=2", resume=Resume((), ids, 11))
    assert text_of(events) == " word3"


async def test_a_context_that_is_too_long_is_refused_with_the_counts() -> None:
    with pytest.raises(InvalidArgument) as caught:
        await say("scripted:?context_tokens=5", sampling=Sampling(max_tokens=10))
    assert caught.value.reason == Reason.CONTEXT_TOO_LONG
    assert caught.value.metadata == {"prompt_tokens": "3", "max_tokens": "10", "context_tokens": "5"}


async def test_its_answer_ends_when_the_script_does() -> None:
    end = (await say("scripted:?tokens=3", sampling=Sampling(max_tokens=3)))[-1]
    assert isinstance(end, End)
    assert end.reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("scripted:?dely_ms=1", "'dely_ms' is no parameter; there are: text, kv_cache"),
        ("scripted:?delay_ms=-1", "delay_ms is '-1'; allowed is 0 to"),
        ("scripted:?delay_ms=1e9", "delay_ms is '1e9'"),
        ("scripted:?tokens=99999999", "tokens is '99999999'"),
        ("scripted:?tokens=", "tokens is ''"),
        ("scripted:?resume=maybe", "resume is 'maybe'; allowed is true or false"),
        ("scripted:?chat=1", "chat is '1'; allowed is true or false"),
        ("scripted:?kv_cache=1.1", "kv_cache is '1.1'; allowed is 0 to 1"),
        ("scripted:?kv_cache=nan", "kv_cache is 'nan'"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem.replace("?", r"\?")):
        scripted.open(Url.parse(url))


def read_settings(monkeypatch: pytest.MonkeyPatch, models: str) -> Settings:
    monkeypatch.setenv("WEFT_GENERATOR__MODELS", models)
    return mesh_settings.load(Settings)


def test_models_keep_the_order_in_which_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_settings(monkeypatch, '{"b": "scripted:?tokens=1", "a": "extractive:"}')
    assert list(read.generator.models.items()) == [("b", "scripted:?tokens=1"), ("a", "extractive:")]


def test_without_a_setting_there_is_extractive() -> None:
    assert Settings().generator.models == {"extractive": "extractive:"}


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ("{", "is no JSON object"),
        ("{}", "names no model"),
        ("[1]", "valid dictionary"),
        ('{"a": "nosuch:"}', "nosuch: is no kind of model here; there are: extractive, "),
        ('{"a": "no url"}', "is not a URL"),
        ('{"a b": "extractive:"}', "'a b' is no name for a model"),
    ],
)
def test_models_that_make_no_sense_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, models: str, problem: str
) -> None:
    with pytest.raises(WeftError, match="WEFT_GENERATOR__MODELS") as caught:
        read_settings(monkeypatch, models)
    assert problem in caught.value.message

"""Answers that are kept: which are, which never, and what a caller gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.generator.caching import answers
from services.generator.caching.cached import Cached, CacheMetrics
from services.generator.caching.keeping import Keeping
from services.generator.caching.stores.memory import Memory
from services.generator.types import (
    Capabilities,
    End,
    Message,
    ModelEvent,
    Piece,
    Request,
    Resume,
    Role,
    Sampling,
    ToolCall,
)
from tests.support.told import END, PROMPT, WHOLE, Told, said
from weft.errors import Reason, Unavailable, error
from weft.values import FinishReason, Usage

REQUEST = Request((Message(Role.USER, "What?"),), allow_cached=True)
GONE = error(Reason.MODEL_UNAVAILABLE, "gone")


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class House:
    told: Told
    model: Cached
    store: Memory
    clock: Clock
    registry: CollectorRegistry

    async def ask(self, request: Request = REQUEST) -> list[ModelEvent]:
        return [event async for event in self.model.generate(request)]

    def counted(self, result: str) -> float:
        name = "weft_generator_cache_requests_total"
        return self.registry.get_sample_value(name, {"model": "m", "result": result}) or 0.0


@asynccontextmanager
async def house(*always: ModelEvent | Exception, **options: Any) -> AsyncIterator[House]:
    told, clock, registry = Told(*always, **options), Clock(), CollectorRegistry()
    store = Memory(1 << 20, clock)
    model = Cached(told, "m", "told:", Keeping(store, 60.0, clock=clock), CacheMetrics(registry))
    await model.start()
    try:
        yield House(told, model, store, clock, registry)
    finally:
        await model.close()
        assert told.started
        assert told.closed
        assert all(run.closed.is_set() for run in told.runs)


async def test_the_same_request_is_answered_from_the_cache_word_for_word() -> None:
    async with house(*WHOLE) as h:
        first, second = await h.ask(), await h.ask()
        assert len(h.told.runs) == 1
        assert (h.counted("miss"), h.counted("hit")) == (1, 1)
    assert first == list(WHOLE)
    assert second[0] == PROMPT
    assert said(second) == said(first) == ("Weft weaves.", (7, 8, 9))
    assert second[-1] == replace(END, cached=True, usage=Usage(3, 2, cached_tokens=3, cost_micros=0, currency="EUR"))


async def test_a_request_that_does_not_allow_it_is_neither_answered_from_the_cache_nor_kept() -> None:
    wanted = replace(REQUEST, allow_cached=False)
    async with house(*WHOLE) as h:
        for request in (wanted, REQUEST, wanted):
            assert (await h.ask(request))[-1] == END
        assert len(h.told.runs) == 3
        assert (await h.ask())[-1] != END


async def test_what_may_not_be_cached_has_nothing_between_it_and_the_model() -> None:
    async with house(*WHOLE) as h:
        direct = h.model.generate(replace(REQUEST, allow_cached=False))
        assert direct.ag_code is Told.generate.__code__  # type: ignore[attr-defined]
        await direct.aclose()


async def test_tenants_never_see_each_others_answers() -> None:
    async with house() as h:
        for tenant in ("acme", "other"):
            asking = asyncio.create_task(h.ask(replace(REQUEST, tenant=tenant)))
            await h.told.begun.wait()
            h.told.begun.clear()
            h.told.runs[-1].say(Piece(f"for {tenant}"), END)
            assert said(await asking) == (f"for {tenant}", ())
        for tenant in ("acme", "other"):
            again = await h.ask(replace(REQUEST, tenant=tenant))
            assert said(again) == (f"for {tenant}", ())


async def test_an_answer_is_forgotten_after_its_time() -> None:
    async with house(*WHOLE) as h:
        await h.ask()
        h.clock.now_s += 59.9
        await h.ask()
        assert len(h.told.runs) == 1
        h.clock.now_s += 0.1
        await h.ask()
        assert len(h.told.runs) == 2


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABSTAINED])
async def test_an_answer_that_came_to_its_end_is_kept(reason: FinishReason) -> None:
    async with house(Piece("a"), replace(END, reason=reason)) as h:
        await h.ask()
        again = await h.ask()
        assert len(h.told.runs) == 1
    assert isinstance(again[-1], End)
    assert again[-1].reason == reason


@pytest.mark.parametrize(
    "steps",
    [
        (Piece("a"), replace(END, reason=FinishReason.TOOL_CALLS, tool_calls=(ToolCall("1", "clock", {}),))),
        (Piece("a"), replace(END, tool_calls=(ToolCall("1", "clock", {}),))),
        (Piece("x" * answers.MAX_BYTES), END),
        (Piece("é" * (answers.MAX_BYTES // 3)), END),  # six bytes each as it is kept
    ],
    ids=["asks for tools", "asks for tools, and says otherwise", "too long", "too long as it is kept"],
)
async def test_an_answer_that_is_not_one_to_keep_is_made_anew(steps: tuple[ModelEvent, ...]) -> None:
    async with house(*steps) as h:
        assert await h.ask() == list(steps)
        assert await h.ask() == list(steps)
        assert len(h.told.runs) == 2
        assert h.store.size_bytes == 0


async def test_a_part_of_an_answer_is_never_kept() -> None:
    async with house(PROMPT, Piece("a"), GONE) as h:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await h.ask()
        left = h.model.generate(REQUEST)
        assert await anext(left) == PROMPT
        await left.aclose()
        assert len(h.told.runs) == 3
        assert h.store.size_bytes == 0


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=0.7), False),
        (Sampling(temperature=0.7, seed=4), True),
        (Sampling(temperature=0.0), True),
        (Sampling(), True),
    ],
)
async def test_who_asks_for_one_of_many_answers_gets_a_new_one(sampling: Sampling, kept: bool) -> None:
    async with house(*WHOLE) as h:
        await h.ask(replace(REQUEST, sampling=sampling))
        await h.ask(replace(REQUEST, sampling=sampling))
        assert len(h.told.runs) == (1 if kept else 2)


async def test_a_model_that_repeats_itself_has_but_one_answer_at_any_temperature() -> None:
    async with house(*WHOLE, capabilities=Capabilities("told", can_repeat=True)) as h:
        await h.ask(replace(REQUEST, sampling=Sampling(temperature=0.7)))
        await h.ask(replace(REQUEST, sampling=Sampling(temperature=0.7)))
        assert len(h.told.runs) == 1


async def test_an_interrupted_answer_is_resumed_by_the_model() -> None:
    async with house(*WHOLE) as h:
        await h.ask()
        rest = await h.ask(replace(REQUEST, resume=Resume((1, 2, 3), (7,), 5)))
        assert rest[-1] == END
        assert len(h.told.runs) == 2


async def test_a_long_answer_comes_back_in_pieces_with_its_token_ids() -> None:
    pieces = [Piece(f"wörd{number} ", (number,)) for number in range(1_000)]
    async with house(PROMPT, *pieces, END) as h:
        first, second = await h.ask(), await h.ask()
    assert said(second) == said(first)
    sizes = [len(event.text) for event in second if isinstance(event, Piece)]
    assert 5 < len(sizes) < 50
    assert all(size >= answers.PIECE_CHARS for size in sizes[:-1])


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"[]", b"{}", b'{"prompt":1,"pieces":[],"end":{}}', b"[" * 100_000])
async def test_what_is_not_an_answer_is_a_miss(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with house(*WHOLE) as h:
        await h.ask()
        (key,) = h.store._kept
        await h.store.put(key, garbage, 60)
        assert await h.ask() == list(WHOLE)
        assert "can't be read" in caplog.text
        assert (await h.ask())[-1] != END  # kept anew


def test_an_answer_is_read_as_it_was_written() -> None:
    answer = answers.recorded(WHOLE)
    assert answer is not None
    assert answers.from_bytes(answers.to_bytes(answer)) == answer

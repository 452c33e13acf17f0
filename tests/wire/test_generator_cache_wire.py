"""The cache as callers meet it: on a real wire, in memory and in a Redis that replicas share."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.support import orchestrator as orchestrators
from tests.support.generator_process import replica
from tests.support.redis import RedisServer, redis_server
from weft import names
from weft.generator.v1 import generator_pb2 as pb

__all__ = ["redis_server"]

MODELS = {"m": "scripted:?tokens=12"}
SLOW = {"m": "scripted:?tokens=12&first_delay_ms=300&delay_ms=5"}
_DATABASES = itertools.count(1)


def asking(question: str = "What?", **options: object) -> pb.GenerateRequest:
    request = {"allow_cached": True, "include_token_ids": True, **options}
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=question)], **request)


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory:"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url(next(_DATABASES))


async def test_an_answer_comes_from_the_cache_with_its_token_ids_and_says_so(cache: str) -> None:
    async with replica(MODELS, cache=cache) as r:
        first, second = await r.ask(asking()), await r.ask(asking())
        other = await r.ask(asking("Why?"))
        spans = [span.attributes or {} for span in r.spans.get_finished_spans()]
    assert [first.finished.cached, second.finished.cached, other.finished.cached] == [False, True, False]
    assert [span.get(names.CACHED, False) for span in spans] == [False, True, False]
    assert (second.text, second.token_ids) == (first.text, first.token_ids)
    assert second.started == first.started
    assert second.finished.usage.cached_tokens == second.finished.usage.input_tokens > 0


async def test_tenants_share_no_answers(cache: str) -> None:
    async with replica(MODELS, cache=cache) as r:
        answers = [await r.ask(asking(), tenant) for tenant in ("acme", "other", "acme")]
    assert [answer.finished.cached for answer in answers] == [False, False, True]


async def test_an_answer_from_the_cache_can_be_resumed_by_the_model(cache: str) -> None:
    async with replica(MODELS, cache=cache) as r:
        await r.ask(asking())
        kept = await r.ask(asking())
        resume = pb.Resume(
            prompt_token_ids=kept.started.prompt_token_ids,
            output_token_ids=kept.token_ids[:5],
            emitted_chars=len(" ".join(kept.text.split()[:5])),
        )
        rest = await r.ask(asking(resume=resume))
    assert not rest.finished.cached
    assert kept.token_ids[:5] + rest.token_ids == kept.token_ids


async def test_equal_requests_at_once_run_the_model_once(cache: str) -> None:
    async with replica(SLOW, cache=cache) as r:
        answers = await asyncio.gather(*(r.ask(asking()) for _ in range(20)))
        counted = {result: r.metric("weft_generator_cache_requests_total", model="m", result=result)
                   for result in ("miss", "joined", "hit")}  # fmt: skip
    assert {answer.text for answer in answers} == {answers[0].text}
    assert counted["miss"] == 1
    assert counted["joined"] + counted["hit"] == 19
    assert sum(not answer.finished.cached for answer in answers) == 1


async def test_the_model_stops_when_the_last_of_those_who_share_its_answer_leaves() -> None:
    async with replica({"m": "scripted:?hang_after=2"}, cache="memory:") as r:
        calls = [r.stub.Generate(asking(), timeout=60) for _ in range(3)]
        for call in calls:
            assert (await call.read()).HasField("started")
        for left, call in enumerate(calls, 1):
            assert r.metric("weft_generator_running", model="m") == 1
            call.cancel()
            while r.load.pending > 3 - left:  # noqa: ASYNC110 (a counter, not an event)
                await asyncio.sleep(0.01)
        assert r.metric("weft_generator_running", model="m") == 0
        assert r.metric("weft_generator_cache_requests_total", model="m", result="miss") == 1


async def test_without_a_cache_every_answer_is_made() -> None:
    async with replica(MODELS) as r:
        answers = [await r.ask(asking()) for _ in range(2)]
        assert "weft_generator_cache" not in r.metrics()
    assert [answer.finished.cached for answer in answers] == [False, False]


async def test_replicas_share_what_is_kept_in_redis(redis_server: RedisServer) -> None:
    url = redis_server.url(next(_DATABASES))
    async with replica(MODELS, cache=url) as first, replica(MODELS, cache=url) as second:
        assert not (await first.ask(asking())).finished.cached
        assert (await second.ask(asking())).finished.cached
    async with replica({"m": "scripted:?text=otherwise"}, cache=url) as another:  # a model of the same name
        assert (await another.ask(asking())).text == "otherwise"


async def test_a_fallbacks_answer_is_kept_as_the_fallbacks() -> None:
    async with replica(
        {"first": "scripted:?fail_after=0", "second": "scripted:?text=stood%20in"}, cache="memory:"
    ) as r:
        answers = [await r.ask(asking()) for _ in range(2)]
    assert [answer.finished.cached for answer in answers] == [False, True]
    assert [[item.fallback for item in answer.finished.degraded] for answer in answers] == [["model:second"]] * 2


async def test_a_turn_says_that_its_answer_came_from_the_cache(tmp_path: Path) -> None:
    async with (
        replica({"extractive": "extractive:"}, cache="memory:") as r,
        orchestrators.house(tmp_path, generator=r.address) as h,
    ):
        turns = []
        for number, allowed in enumerate((True, True, False, True)):
            events = await h.first.ask("What are threads?", session=f"sessions/s{number}", allow_cached=allowed)
            turns.append(events[-1].finished)
    assert [turn.cached for turn in turns] == [False, True, False, True]
    assert {(turn.text, turn.citations[0].quote) for turn in turns} == {("Threads are woven.", "Threads are woven.")}
    assert [turn.usage.cached_tokens > 0 for turn in turns] == [False, True, False, True]


async def test_redis_that_goes_and_comes_costs_no_call(redis_server: RedisServer) -> None:
    async with replica(MODELS, cache=redis_server.url(next(_DATABASES))) as r:
        await r.ask(asking())
        redis_server.kill()
        try:
            answers = [await r.ask(asking(f"Question {number}?")) for number in range(30)]
            assert r.metric("weft_generator_cache_failures_total") >= 1
        finally:
            redis_server.start()
        assert len({answer.text for answer in answers}) == 1
        async with asyncio.timeout(20):
            while not (await r.ask(asking())).finished.cached:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.1)

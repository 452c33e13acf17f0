"""Admission in front of a model: places, turns, refusals, and what they are judged by."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from mesh import deadline
from mesh.deadline import Deadline
from mesh.plugins import Url
from services.generator.admission.admitted import Reservation
from services.generator.admission.work import Work
from services.generator.models import scripted
from services.generator.types import (
    ModelLoad,
    Resume,
)
from tests.support.admission import WORK, Held, admitted, answer, gate, request, settled
from weft.errors import Reason, WeftError, error
from weft.values import Usage


async def test_answers_run_up_to_the_bound_and_the_next_one_when_a_place_is_free() -> None:
    held = Held()
    model, _ = admitted(held, gate(2))
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(answer(model, request()))
        await settled()
        assert len(held.begun) == 2
        assert model.load() == ModelLoad(running=2, waiting=2 + 3, kv_cache=0.5)
        held.places.release()
        await settled()
        assert len(held.begun) == 3
        for _ in range(4):
            held.places.release()
    assert model.load() == ModelLoad(running=1, waiting=2, kv_cache=0.5)


async def test_a_single_request_waits_one_batch_behind_a_thousand_of_another_tenant() -> None:
    batch = 8
    held = Held()
    model, _ = admitted(held, gate(batch))
    async with asyncio.TaskGroup() as group:
        for _ in range(1_000):
            group.create_task(answer(model, request("many")))
        await settled()
        group.create_task(answer(model, request("one")))
        await settled()
        before = len(held.begun)
        assert before == batch
        for _ in range(batch):
            held.places.release()
        await settled()
        assert "one" in held.begun[before : before + batch]
        for _ in range(1_001 - batch):
            held.places.release()
    assert len(held.begun) == 1_001


async def test_an_interrupted_answer_goes_on_before_its_tenants_others() -> None:
    held = Held()
    model, _ = admitted(held, gate(1))
    resumed = replace(request(), resume=Resume((1,), (2,), 3))
    wanted = [request(), request(priority=8), resumed]
    tasks = [asyncio.create_task(answer(model, one)) for one in wanted]
    await settled()
    held.places.release()
    await settled()
    assert (tasks[1].done(), held.resumed) == (False, 1)
    held.places.release()
    held.places.release()
    await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    held = Held()
    model, registry = admitted(held, gate(1, max_waiting=1))
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(answer(model, request()))
        await settled()
        with pytest.raises(WeftError) as caught:
            await answer(model, request())
        held.places.release()
        held.places.release()
    assert caught.value.reason == Reason.OVERLOADED
    assert caught.value.code.name == "RESOURCE_EXHAUSTED"
    assert caught.value.retry_after_s is not None
    assert caught.value.metadata["why"] == "full"
    assert registry.get_sample_value("weft_generator_refusals_total", {"model": "held", "why": "full"}) == 1


async def test_a_queue_full_of_one_tenant_still_takes_another() -> None:
    held = Held()
    model, _ = admitted(held, gate(1, max_waiting=2))
    running = asyncio.create_task(answer(model, request("many")))
    older, newer = (asyncio.create_task(answer(model, request("many"))) for _ in range(2))
    await settled()
    other = asyncio.create_task(answer(model, request("one")))
    with pytest.raises(WeftError) as caught:
        await newer
    assert caught.value.metadata["why"] == "displaced"
    for _ in range(3):
        held.places.release()
    await asyncio.gather(running, older, other)
    assert held.begun == ["many", "many", "one"]


async def test_callers_that_go_away_leave_the_queue_at_once() -> None:
    held = Held()
    door = gate(1)
    model, _ = admitted(held, door)
    running, leaves, stays = (asyncio.create_task(answer(model, request(tenant))) for tenant in "abc")
    await settled()
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert door.queue.requests == 1
    held.places.release()
    held.places.release()
    await asyncio.gather(running, stays)
    assert held.begun == ["a", "c"]
    assert door.running == 0


async def test_a_place_given_to_one_who_goes_away_at_that_moment_goes_to_the_next() -> None:
    held = Held()
    door = gate(1)
    model, _ = admitted(held, door)
    running, leaves, stays = (asyncio.create_task(answer(model, request(tenant))) for tenant in "abc")
    await settled()
    door.leave()  # hands b the place …
    leaves.cancel()  # … before b has seen it
    await asyncio.gather(leaves, return_exceptions=True)
    await settled()
    assert held.begun == ["a", "c"]
    door.running += 1  # a's own place, taken from it above
    held.places.release()
    held.places.release()
    await asyncio.gather(running, stays)
    assert door.running == 0


async def test_what_fails_or_is_left_gives_its_place_back() -> None:
    held = Held()
    door = gate(1)
    model, _ = admitted(held, door)
    held.fails = True
    held.places.release()
    with pytest.raises(WeftError, match="as told"):
        await answer(model, request())
    assert door.running == 0
    held.fails = False
    held.places.release()
    async with aclosing(model.generate(request())) as events:
        await anext(events)
        assert door.running == 1
    assert door.running == 0


async def test_a_turn_that_would_come_too_late_is_refused_at_once() -> None:
    held = Held()
    door = gate(2)
    door.pace.finished(10.0, WORK.tokens, WORK.output_tokens)
    door.enter()
    door.enter()
    # One of two places is free after about 5 s, a fifth added, then the answer takes 10 s.
    with pytest.raises(WeftError) as caught:
        await door.wait("acme", 0, WORK, Deadline.after(15.0))
    assert caught.value.reason == Reason.OVERLOADED
    assert caught.value.metadata["why"] == "late"
    assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.5)
    with pytest.raises(WeftError, match="too late"):
        door.check("acme", 0, WORK, Deadline.after(15.0))
    door.check("acme", 0, WORK, Deadline.after(17.0))
    waits = asyncio.create_task(door.wait("acme", 0, WORK, Deadline.after(17.0)))
    await settled()
    door.leave()
    await waits
    assert not held.begun


async def test_nothing_is_refused_for_its_deadline_before_any_answer_was_measured() -> None:
    door = gate(1)
    door.enter()
    door.check("acme", 0, WORK, Deadline.after(0.5))


async def test_a_free_place_is_not_refused_whatever_the_estimate_says() -> None:
    held = Held()
    door = gate(1)
    door.pace.finished(1_000.0, 100, 100)
    model, _ = admitted(held, door)
    held.places.release()
    with deadline.bind(Deadline.after(30.0)):
        assert len(await answer(model, request())) == 2
    assert door.pace.answer_s < 1_000.0, "the answer corrects the estimate"


async def test_a_request_leaves_the_queue_when_its_deadline_cannot_be_met_any_more() -> None:
    door = gate(1)
    door.enter()
    waits = asyncio.create_task(door.wait("acme", 0, WORK, Deadline.after(60.0)))
    await settled()
    door.pace.finished(100.0, WORK.tokens, WORK.output_tokens)  # answers have become slow
    door.leave()
    with pytest.raises(WeftError) as caught:
        await waits
    assert caught.value.metadata["why"] == "expired"
    assert (door.running, door.queue.requests) == (0, 0)


async def test_a_deadline_that_passes_in_the_queue_ends_the_waiting() -> None:
    door = gate(1)
    door.enter()
    with pytest.raises(WeftError) as caught:
        await asyncio.wait_for(door.wait("acme", 0, WORK, Deadline.after(0.05)), 10)
    assert caught.value.metadata["why"] == "expired"
    assert door.queue.requests == 0


class Purse:
    """A quota that lets everything in, or nothing."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.reserved: list[Work] = []
        self.continued: list[bool] = []
        self.settled: list[Usage] = []

    async def reserve(self, tenant: str, model: str, work: Work, *, continues: bool = False) -> Reservation:
        if self.empty:
            raise error(Reason.OVERLOADED, "none left", why="rate")
        self.reserved.append(work)
        self.continued.append(continues)
        return self

    def settle(self, usage: Usage) -> None:
        self.settled.append(usage)


async def test_what_was_reserved_is_settled_with_what_was_used() -> None:
    held, purse = Held(), Purse()
    model, _ = admitted(held, gate(1), purse)
    held.places.release()
    await answer(model, request())
    assert purse.reserved == [Work(2 + 4, 100)]
    assert purse.settled == [Usage(input_tokens=7, output_tokens=2)]
    held.places.release()
    await answer(model, replace(request(), resume=Resume((1, 2), (3,), 1)))
    assert purse.continued == [False, True]


async def test_a_caller_who_leaves_pays_for_what_was_seen_and_a_failure_for_nothing() -> None:
    held, purse = Held(), Purse()
    model, _ = admitted(held, gate(1), purse)
    held.places.release()
    async with aclosing(model.generate(request())) as events:
        await anext(events)
    assert purse.settled == [Usage(input_tokens=6, output_tokens=2)]
    waiting = asyncio.create_task(answer(model, request()))
    await settled()
    waiting.cancel()  # before the model said anything: it has the prompt
    await asyncio.gather(waiting, return_exceptions=True)
    assert purse.settled[1:] == [Usage(input_tokens=6)]
    purse.settled.pop()
    held.fails = True
    held.places.release()
    with pytest.raises(WeftError):
        await answer(model, request())
    assert purse.settled[1:] == [Usage()]


async def test_who_is_refused_at_the_gate_keeps_what_was_reserved() -> None:
    held, purse = Held(), Purse()
    door = gate(1)
    model, _ = admitted(held, door, purse)
    running = asyncio.create_task(answer(model, request()))
    waits = asyncio.create_task(answer(model, request()))
    await settled()
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert purse.settled == [Usage()]
    held.places.release()
    await running


async def test_no_limit_is_asked_where_the_gate_would_refuse() -> None:
    held, purse = Held(), Purse()
    model, _ = admitted(held, gate(1, max_waiting=0), purse)
    running = asyncio.create_task(answer(model, request()))
    await settled()
    with pytest.raises(WeftError):
        await answer(model, request())
    assert len(purse.reserved) == 1
    held.places.release()
    await running


async def test_who_cannot_pay_takes_no_place_and_is_counted() -> None:
    door = gate(1)
    model, registry = admitted(Held(), door, Purse(empty=True))
    with pytest.raises(WeftError, match="none left"):
        await answer(model, request())
    assert door.running == 0
    assert registry.get_sample_value("weft_generator_refusals_total", {"model": "held", "why": "rate"}) == 1


async def test_depth_and_waits_are_shown_by_model() -> None:
    held = Held()
    model, registry = admitted(held, gate(1))
    tasks = [asyncio.create_task(answer(model, request())) for _ in range(3)]
    await settled()
    assert registry.get_sample_value("weft_generator_queue_requests", {"model": "held"}) == 2
    assert registry.get_sample_value("weft_generator_queue_tokens", {"model": "held"}) == 2 * (6 + 100)
    for _ in range(3):
        held.places.release()
    await asyncio.gather(*tasks)
    assert registry.get_sample_value("weft_generator_queue_requests", {"model": "held"}) == 0
    assert registry.get_sample_value("weft_generator_queue_wait_seconds_count", {"model": "held"}) == 2


async def test_a_whole_answer_passes_as_the_model_gave_it() -> None:
    model, _ = admitted(scripted.open(Url.parse("scripted:?tokens=5")), gate(0))
    bare = scripted.open(Url.parse("scripted:?tokens=5"))
    assert await answer(model, request()) == await answer(bare, request())

"""Equal requests at once: the model runs once, and everybody reads what it says as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from mesh import deadline as deadlines
from mesh.deadline import Deadline
from services.generator.caching import answers
from services.generator.caching.flights import MAX_BEHIND_EVENTS
from services.generator.types import End, ModelEvent, Piece, Request
from tests.support.told import END, PROMPT, WHOLE, said
from tests.unit.test_generator_cached import REQUEST, House, house
from weft.errors import DeadlineExceeded, Internal, Reason, ResourceExhausted, Unavailable, WeftError, error


class Caller:
    """Somebody who reads an answer, in a task of their own, and may leave."""

    def __init__(self, h: House, request: Request = REQUEST, give_s: float | None = None) -> None:
        self.events: list[ModelEvent] = []
        self._heard = asyncio.Event()
        self.task = asyncio.create_task(self._read(h, request, give_s))

    async def _read(self, h: House, request: Request, give_s: float | None) -> None:
        if give_s is not None:
            deadlines._current.set(Deadline.after(give_s))
        events = h.model.generate(request)
        try:
            async for event in events:
                self.events.append(event)
                self._heard.set()
        finally:
            await events.aclose()

    async def hears(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.events) < count:
                self._heard.clear()
                await self._heard.wait()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def fails(self) -> WeftError:
        with pytest.raises(WeftError) as caught:
            await asyncio.wait_for(self.task, 5)
        return caught.value


async def settled() -> None:
    """Everybody had a turn or twenty."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_equal_requests_at_once_run_the_model_once_and_all_get_the_stream_as_it_comes() -> None:
    async with house() as h:
        callers = [Caller(h) for _ in range(5)]
        await h.told.begun.wait()
        await settled()
        for count, step in enumerate(WHOLE, 1):
            h.told.runs[0].say(step)
            for caller in callers:
                await caller.hears(count)
                assert len(caller.events) == count
        await asyncio.gather(*(caller.task for caller in callers))
        assert len(h.told.runs) == 1
        assert (h.counted("miss"), h.counted("joined")) == (1, 4)
        assert {said(caller.events) for caller in callers} == {("Weft weaves.", (7, 8, 9))}


async def test_tokens_that_were_computed_once_are_in_the_usage_of_one() -> None:
    async with house() as h:
        callers = [Caller(h) for _ in range(5)]
        await h.told.begun.wait()
        h.told.runs[0].say(*WHOLE)
        await asyncio.gather(*(caller.task for caller in callers))
    ends = [caller.events[-1] for caller in callers]
    assert ends.count(END) == 1
    assert ends.count(answers.kept(END)) == 4


async def test_the_usage_is_somebodys_even_if_the_first_has_left() -> None:
    async with house() as h:
        first, second = Caller(h), Caller(h)
        await h.told.begun.wait()
        await settled()
        await first.leave()
        h.told.runs[0].say(*WHOLE)
        await second.task
    assert second.events[-1] == END


async def test_who_comes_late_gets_what_was_said_and_then_what_comes() -> None:
    async with house() as h:
        first = Caller(h)
        await h.told.begun.wait()
        h.told.runs[0].say(*WHOLE[:2])
        await first.hears(2)
        late = Caller(h)
        await late.hears(2)
        assert late.events == list(WHOLE[:2])
        h.told.runs[0].say(*WHOLE[2:])
        await asyncio.gather(first.task, late.task)
        assert said(late.events) == said(first.events)
        assert len(h.told.runs) == 1


async def test_the_run_goes_on_when_the_first_leaves_and_stops_when_the_last_does() -> None:
    async with house() as h:
        callers = [Caller(h) for _ in range(3)]
        await h.told.begun.wait()
        (run,) = h.told.runs
        run.say(PROMPT)
        for caller in callers:
            await caller.hears(1)
        await callers[0].leave()
        await callers[1].leave()
        assert not run.closed.is_set()
        run.say(WHOLE[1])
        await callers[2].hears(2)
        await callers[2].leave()
        assert run.closed.is_set()  # before the last one's leaving is done
        assert not run.whole
        assert h.store.size_bytes == 0


async def test_a_run_that_is_being_stopped_is_not_joined() -> None:
    async with house() as h:
        first = Caller(h)
        await h.told.begun.wait()
        (old,) = h.told.runs
        old.say(Piece("old"))
        await first.hears(1)
        old.may_stop.clear()
        leaving = asyncio.create_task(first.leave())
        await old.stopping.wait()
        second = Caller(h)
        await settled()
        h.told.runs[-1].say(*WHOLE)
        await second.task
        assert said(second.events) == ("Weft weaves.", (7, 8, 9))
        assert not leaving.done()  # the model has not stopped yet
        old.may_stop.set()
        await leaving


async def test_an_error_of_the_run_reaches_all_as_an_exception_of_each_ones_own() -> None:
    gone = error(Reason.MODEL_UNAVAILABLE, "gone", retry_after_s=2.0, field="model", tokens=1)
    async with house() as h:
        callers = [Caller(h) for _ in range(3)]
        await h.told.begun.wait()
        await settled()
        h.told.runs[0].say(PROMPT, gone)
        failures = [await caller.fails() for caller in callers]
        assert all(caller.events == [PROMPT] for caller in callers)
        assert len(h.told.runs) == 1
        again = Caller(h)  # a failed run is not joined
        await settled()
        h.told.runs[-1].say(*WHOLE)
        await again.task
    assert len({id(failure) for failure in (*failures, gone)}) == 4
    assert len({id(failure.metadata) for failure in (*failures, gone)}) == 4
    for failure in failures:
        assert isinstance(failure, Unavailable)
        assert (failure.reason, failure.message, failure.metadata) == (gone.reason, "gone", {"tokens": "1"})
        assert (failure.retry_after_s, failure.field, failure.__cause__) == (2.0, "model", gone)


async def test_a_defect_of_a_model_is_an_internal_error_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as h:
        callers = [Caller(h) for _ in range(3)]
        await h.told.begun.wait()
        await settled()
        h.told.runs[0].say(ValueError("a defect"))
        failures = [await caller.fails() for caller in callers]
    assert all(isinstance(failure, Internal) for failure in failures)
    assert caplog.text.count("ValueError: a defect") == 1


async def test_a_slow_reader_holds_up_nobody() -> None:
    async with house() as h:
        slow = h.model.generate(REQUEST)
        first = asyncio.ensure_future(anext(slow))
        await h.told.begun.wait()
        quick = Caller(h)
        await settled()
        h.told.runs[0].say(*[Piece("word ", (1,))] * (2 * MAX_BEHIND_EVENTS), END)
        await asyncio.wait_for(quick.task, 5)
        events = [await first, *[event async for event in slow]]
        assert said(events) == said(quick.events)


async def test_an_answer_too_long_to_share_is_bounded_in_memory_and_whole_for_its_readers() -> None:
    chars = answers.MAX_BYTES // 64
    async with house() as h:
        slow = h.model.generate(REQUEST)
        first = asyncio.ensure_future(anext(slow))
        await h.told.begun.wait()
        quick = Caller(h)
        await settled()
        (run,) = h.told.runs
        (flight,) = h.model._flying
        run.say(*[Piece("x" * chars)] * 70, *[Piece("y")] * (2 * MAX_BEHIND_EVENTS), END)
        await quick.hears(MAX_BEHIND_EVENTS)
        await settled()
        assert not run.whole  # it waits for the slow one
        assert len(flight._said) <= MAX_BEHIND_EVENTS
        late = Caller(h)  # takes no further readers
        await settled()
        h.told.runs[-1].say(*WHOLE)
        await late.task
        assert len(h.told.runs) == 2
        events = [await first, *[event async for event in slow]]
        await quick.task
        assert run.whole
        assert said(events) == said(quick.events) == ("x" * chars * 70 + "y" * 2 * MAX_BEHIND_EVENTS, ())


@pytest.mark.parametrize("reason", [Reason.DEADLINE_EXCEEDED, Reason.OVERLOADED])
async def test_who_has_more_time_than_a_run_that_had_too_little_asks_once_more(reason: Reason) -> None:
    async with house() as h:
        first = Caller(h, give_s=10)
        await h.told.begun.wait()
        others = [Caller(h, give_s=12) for _ in range(3)]
        await settled()
        assert len(h.told.runs) == 1
        h.told.runs[0].say(error(reason, "too late"))
        assert isinstance(await first.fails(), DeadlineExceeded | ResourceExhausted)
        await settled()
        h.told.runs[-1].say(*WHOLE)
        for other in others:
            await other.task
            assert said(other.events) == ("Weft weaves.", (7, 8, 9))
        assert len(h.told.runs) == 2


async def test_who_asked_once_more_and_failed_again_has_failed() -> None:
    async with house() as h:
        first = Caller(h, give_s=10)
        await h.told.begun.wait()
        others = [Caller(h, give_s=12), Caller(h, give_s=13)]
        await settled()
        h.told.runs[0].say(error(Reason.OVERLOADED, "full"))
        await settled()
        h.told.runs[1].say(error(Reason.OVERLOADED, "still full"))
        assert (await first.fails()).message == "full"
        assert [(await other.fails()).message for other in others] == ["still full", "still full"]
        assert len(h.told.runs) == 2


async def test_who_has_much_more_time_than_a_run_does_not_depend_on_it() -> None:
    async with house() as h:
        short = Caller(h, give_s=1)
        await h.told.begun.wait()
        long = Caller(h, give_s=30)
        await settled()
        joins_the_long_one = Caller(h, give_s=20)
        await settled()
        assert len(h.told.runs) == 2
        h.told.runs[1].say(*WHOLE)
        await asyncio.gather(long.task, joins_the_long_one.task)
        h.told.runs[0].say(*WHOLE)
        await short.task


async def test_a_run_that_is_over_can_be_joined_until_its_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = asyncio.Event()
    async with house() as h:
        put = h.store.put

        async def slowly(key: str, data: bytes, ttl_s: float) -> None:
            await keep.wait()
            await put(key, data, ttl_s)

        monkeypatch.setattr(h.store, "put", slowly)
        first = Caller(h)
        await h.told.begun.wait()
        h.told.runs[0].say(*WHOLE)
        await first.task  # who reads doesn't wait for the store
        second = Caller(h)
        await second.task
        assert h.counted("joined") == 1
        keep.set()
        await settled()
        await Caller(h).task
        assert h.counted("hit") == 1
        assert len(h.told.runs) == 1


async def test_closing_ends_what_is_under_way() -> None:
    async with house() as h:
        reading, unbegun = Caller(h), Caller(h, replace(REQUEST, query="another"))
        await h.told.begun.wait()
        h.told.runs[0].say(PROMPT)
        await reading.hears(1)
        await h.model.close()
        for caller in (reading, unbegun):
            assert (await caller.fails()).reason == Reason.SHUTTING_DOWN


async def test_leaving_before_the_run_has_begun_leaves_nothing() -> None:
    async with house() as h:
        caller = Caller(h)
        await asyncio.sleep(0)
        await caller.leave()
        assert h.model._flying == set()
        assert h.model._open == {}


async def test_a_run_that_ends_without_an_end_is_not_kept() -> None:
    async with house() as h:

        async def broken(_request: Request) -> AsyncGenerator[ModelEvent, None]:
            yield Piece("a")

        h.told.generate = broken  # type: ignore[method-assign]
        assert [await h.ask(), await h.ask()] == [[Piece("a")]] * 2
        assert h.counted("miss") == 2


async def test_a_storm_of_callers_who_come_and_go_never_mixes_or_leaks() -> None:
    """Twenty questions, each asked by many who stay or leave: who stays gets the answer to their own."""
    async with house() as h:
        callers: list[tuple[int, bool, Caller]] = []
        for number in range(200):
            which, stays = number % 20, number % 3 != 0
            callers.append((which, stays, Caller(h, replace(REQUEST, query=str(which)))))
            if number % 5 == 0:
                await asyncio.sleep(0)
        await settled()
        for _, stays, caller in callers:
            if not stays:
                await caller.leave()
        assert len(h.told.runs) == 20
        for run in h.told.runs:
            run.say(Piece(run.request.query), End(END.reason, END.usage))
        for which, stays, caller in callers:
            if stays:
                await caller.task
                assert said(caller.events) == (str(which), ())
        await settled()
        assert h.model._flying == set()
        assert h.model._open == {}

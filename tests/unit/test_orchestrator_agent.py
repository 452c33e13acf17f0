"""Who answers a question: leases, readers that join, callers that wait or leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from mesh import context as companions
from mesh.context import CallContext
from mesh.deadline import Deadline, LedgerRecorder
from services.orchestrator.ports import Sessions
from services.orchestrator.records import Entry
from services.orchestrator.running import Moved, Works
from services.orchestrator.turn import Options
from services.orchestrator.types import (
    Found,
    GenerationDelta,
    SearchQuery,
    Started,
    TextDelta,
    TurnRequest,
)
from tests.support.orchestration import (
    END,
    PLAN,
    STARTED,
    SUM,
    Reader,
    ScriptedGenerator,
    ScriptedRetriever,
    ScriptedTools,
    end_of,
    eventually,
    lease_of,
    replica,
    says,
    text_of,
)
from weft.connection import session_bucket
from weft.errors import Reason, WeftError

# -- new, again, other --------------------------------------------------------------------------------


async def test_an_empty_session_makes_a_new_one_each_time(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        first, second = [(await r.ask(session="", request_id=i))[0].event for i in ("", "")]
    assert isinstance(first, Started)
    assert isinstance(second, Started)
    assert first.session != second.session
    assert len(first.session) == 32
    assert first.request_id


async def test_the_same_request_without_session_finds_the_session_it_made(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        first = await r.ask(session="", request_id="r1")
        again = await r.ask(session="", request_id="r1")
        other = await r.ask(session="", request_id="r1", tenant="other")
    assert isinstance(first[0].event, Started)
    assert isinstance(again[0].event, Started)
    assert isinstance(other[0].event, Started)
    assert first[0].event.session == again[0].event.session != other[0].event.session
    assert again[0].event.replayed
    assert not other[0].event.replayed


async def test_a_session_that_the_service_made_goes_on(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        started = (await r.ask(session=""))[0].event
        assert isinstance(started, Started)
        following = (await r.ask(session=started.session))[0].event
    assert isinstance(following, Started)
    assert following.turn == 2


@pytest.mark.parametrize("tenant", ["acme", "other"])
async def test_a_session_of_ours_that_is_unknown_or_another_tenants_is_not_found(tmp_path: Path, tenant: str) -> None:
    async with replica(tmp_path) as r:
        started = (await r.ask(session="", tenant="third"))[0].event
        assert isinstance(started, Started)
        with pytest.raises(WeftError) as caught:
            await r.ask(session=started.session, tenant=tenant)
        assert caught.value.reason == Reason.SESSION_NOT_FOUND
        assert (await r.sessions.get("third", started.session)).turn_count == 1


async def test_a_finished_turn_is_played_again_the_same(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM})
    async with replica(tmp_path, tools=tools, plan=PLAN) as r, replica(tmp_path, owner="other") as other:
        first = await r.ask(request_id="r1")
        for replayed in (await r.ask(request_id="r1"), await other.ask(request_id="r1")):
            assert replayed[1:] == first[1:]
            assert isinstance(replayed[0].event, Started)
            assert replayed[0].event.replayed
        assert other.generator.prompts == []
        tail = await other.ask(request_id="r1", resume_turn=1, after_sequence=first[-3].sequence)
        assert tail == first[-2:]
    assert len(r.generator.prompts) == 1
    assert len(tools.calls) == 3


async def test_a_request_id_is_for_one_question(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        await r.ask("one?", request_id="r1")
        with pytest.raises(WeftError) as caught:
            await r.ask("another?", request_id="r1")
    assert caught.value.reason == Reason.REQUEST_ID_REUSED


# -- another turn of the session ----------------------------------------------------------------------


async def test_a_second_turn_waits_for_the_first(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("one"), hold, END], says("two"))
    async with replica(tmp_path, generator=generator) as r, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(r.ask("first?"))
        await eventually(lambda: generator.active == 1)
        second = tasks.create_task(r.ask("second?"))
        await asyncio.sleep(0.1)
        assert not second.done()
        hold.set()
    assert (text_of(first.result()), text_of(second.result())) == ("one", "two")
    assert [e.question for e in generator.prompts[1].history] == ["first?"]


async def test_a_second_turn_waits_for_the_first_on_another_replica(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, hold, *says("one")[1:]])
    async with (
        replica(tmp_path, generator=generator) as r,
        replica(tmp_path, owner="other") as other,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(r.ask("first?"))
        await eventually(lambda: generator.active == 1)
        second = tasks.create_task(other.ask("second?"))
        await asyncio.sleep(0.1)
        hold.set()
    assert [e.answer for e in other.generator.prompts[0].history] == ["one"]
    assert second.result()[0].sequence == 0


async def test_a_turn_that_waits_in_vain_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        await lease_of(r, "another")
        with pytest.raises(WeftError) as caught:
            await r.ask(timeout_s=0.3)
    assert caught.value.reason == Reason.SESSION_BUSY
    assert caught.value.code.name == "ABORTED"
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 1


async def test_sessions_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with replica(tmp_path, generator=ScriptedGenerator([0.1, *says("ok")])) as r:
        async with asyncio.timeout(4):
            answers = await asyncio.gather(*(r.ask(session=f"s{number}") for number in range(50)))
    assert {text_of(entries) for entries in answers} == {"ok"}


async def test_turns_of_one_session_asked_at_once_run_one_after_the_other(tmp_path: Path) -> None:
    async with replica(tmp_path) as r, replica(tmp_path, owner="other") as other:
        answers = await asyncio.gather(*((r, other)[n % 2].ask(f"q{n}?") for n in range(8)))
        turns = await r.sessions.turns("acme", "s", after_turn=0, limit=99)
    assert sorted(e[0].event.turn for e in answers if isinstance(e[0].event, Started)) == list(range(1, 9))
    assert {turn.state.value for turn in turns} == {"finished"}
    # Each was given the turns before it, and no other.
    prompts = sorted(r.generator.prompts + other.generator.prompts, key=lambda prompt: len(prompt.history))
    assert [len(prompt.history) for prompt in prompts] == [0, 1, 2, 3, 4, 5, 6, 6]


# -- joining ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_same_request_joins_the_running_turn(tmp_path: Path, elsewhere: bool) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), hold, GenerationDelta("woven."), END])
    async with replica(tmp_path, generator=generator) as r, replica(tmp_path, owner="other") as other:
        joining = other if elsewhere else r
        first = Reader(r, request_id="r1")
        await first.has_text()
        second = Reader(joining, request_id="r1")
        third = Reader(joining, request_id="r1", resume_turn=1, after_sequence=1)
        await second.has_text()
        await third.has_text()
        hold.set()
        entries = await first.task
        assert await second.task == entries
        assert await third.task == entries[2:]
    assert len(generator.prompts) == 1
    assert other.generator.prompts == []


async def test_the_same_request_twice_at_once_is_one_turn(tmp_path: Path) -> None:
    async with replica(tmp_path) as r, replica(tmp_path, owner="other") as other:
        answers = await asyncio.gather(*((r, other)[n % 2].ask(request_id="r1") for n in range(10)))
    assert len(r.generator.prompts) + len(other.generator.prompts) == 1
    assert {text_of(entries) for entries in answers} == {"It is woven."}
    assert all([e.sequence for e in entries] == list(range(5)) for entries in answers)


async def test_a_reader_that_stays_keeps_the_turn_running(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), hold, GenerationDelta("woven."), END])
    async with replica(tmp_path, generator=generator) as r:
        leaving = Reader(r, request_id="r1")
        await leaving.has_text()
        staying = Reader(r, request_id="r1")
        await staying.has_text()
        leaving.task.cancel()
        await asyncio.gather(leaving.task, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert generator.active == 1
        hold.set()
        assert text_of(await staying.task) == "It is woven."
    assert len(generator.prompts) == 1


async def test_a_reader_with_more_time_outlives_the_one_who_began(tmp_path: Path) -> None:
    hold = asyncio.Event()

    class Slow:
        def __init__(self, sessions: Sessions) -> None:
            self._sessions = sessions

        async def append(self, lease: Any, entries: Sequence[Entry]) -> None:
            await hold.wait()
            await self._sessions.append(lease, entries)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sessions, name)

    async with replica(tmp_path, wrap=Slow) as r:
        hasty = Reader(r, request_id="r1", timeout_s=0.5)
        await eventually(lambda: bool(hasty.had))
        patient = Reader(r, request_id="r1", timeout_s=9.0)
        await eventually(lambda: bool(patient.had))
        with pytest.raises(WeftError) as caught:
            await hasty.task
        assert caught.value.reason == Reason.DEADLINE_EXCEEDED
        hold.set()
        entries = await patient.task
    assert text_of(entries) == "It is woven."
    assert [entry.sequence for entry in entries] == list(range(len(entries)))


# -- leaving ------------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_stops_the_model_at_once_and_frees_the_session(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), 9.0], says("It is woven."))
    async with replica(tmp_path, generator=generator) as r:
        async with aclosing(r.stream(request_id="r1")) as stream:
            async for entry in stream:
                if isinstance(entry.event, TextDelta):
                    break
        await eventually(lambda: generator.active == 0, within_s=6)
        # Nothing waits for a lease to expire (5 s): neither another turn nor the same one.
        async with asyncio.timeout(4):
            await r.ask("another?")
            entries = await r.ask(request_id="r1", resume_turn=1, after_sequence=entry.sequence)
    assert text_of(entries) == "woven."
    assert end_of(entries).text == "It is woven."


@pytest.mark.parametrize("wait_s", [0.0, 0.0001, 0.001, 0.003, 0.01])
async def test_a_caller_that_leaves_at_any_moment_leaves_nothing_running(tmp_path: Path, wait_s: float) -> None:
    async with replica(tmp_path, generator=ScriptedGenerator([0.01, *says("ok")])) as r:
        before = asyncio.all_tasks()
        for number in range(20):
            task = asyncio.create_task(r.ask(session=f"s{number}"))
            await asyncio.sleep(wait_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: asyncio.all_tasks() <= before, 4)
        assert r.generator.active == 0
        async with asyncio.timeout(4):
            for number in range(20):
                await r.ask(session=f"s{number}")


@pytest.mark.parametrize("closing", [False, True], ids=["one", "all"])
async def test_work_that_is_stopped_before_its_first_step_gives_the_lease_back(closing: bool, tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        taken = await lease_of(r, "r1")
        request = TurnRequest("acme", "s", "r1", "What is it?")
        works = Works(r.sessions, r.peers, Options(), trace.NoOpTracer())
        running = works.start(taken, request, LedgerRecorder(Deadline.after(5)))
        async with asyncio.timeout(4):
            if closing:
                await works.close()
            else:
                running.stop()
            await running.done.wait()
        await r.ask("another?", timeout_s=4)


async def test_readers_of_work_that_is_broken_off_while_it_lets_go_are_told_that_it_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letting_go = asyncio.Event()

    async def hangs(_lease: Any) -> None:
        letting_go.set()
        await asyncio.sleep(30)

    async with replica(tmp_path) as r:
        taken = await lease_of(r, "r1")
        request = TurnRequest("acme", "s", "r1", "What is it?")
        monkeypatch.setattr(r.sessions, "release", hangs)
        running = Works(r.sessions, r.peers, Options(), trace.NoOpTracer()).start(
            taken, request, LedgerRecorder(Deadline.after(5))
        )
        running.stop()
        await asyncio.wait_for(letting_go.wait(), 4)
        running.lose()
        await asyncio.wait_for(running.done.wait(), 4)
        with pytest.raises(Moved):
            async for _ in running.broadcast.read(0):
                pass


async def test_a_stopping_replica_hands_its_turns_over(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), 9.0])
    async with replica(tmp_path, owner="other") as other, replica(tmp_path, generator=generator) as r:
        reader = Reader(r, request_id="r1")
        await reader.has_text()
        await r.agent.__aexit__()
        with pytest.raises(WeftError) as caught:
            await reader.task
        assert caught.value.reason == Reason.SHUTTING_DOWN
        assert caught.value.retryable
        async with asyncio.timeout(4):
            entries = await other.ask(request_id="r1", resume_turn=1, after_sequence=2)
    assert text_of(entries) == "woven."


# -- what travels along -------------------------------------------------------------------------------


async def test_the_sessions_bucket_travels_to_every_peer_unless_the_caller_brought_one(tmp_path: Path) -> None:
    seen: list[int | None] = []

    class Watching(ScriptedRetriever):
        async def search(self, query: SearchQuery) -> Found:
            seen.append(companions.current().bucket)
            return await super().search(query)

    async with replica(tmp_path, retriever=Watching()) as r:
        await r.ask(session="abc")
        with companions.bind(CallContext("acme", "r", bucket=7)):
            await r.ask(session="abc")
    assert seen == [session_bucket("sessions/abc"), 7]

"""Who answers a question: leases, readers that join, turns that are resumed, callers that leave."""

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
from services.orchestrator.records import Entry, Limits, Opening, Taken
from services.orchestrator.running import Works
from services.orchestrator.turn import Options
from services.orchestrator.types import (
    Continuation,
    Finished,
    Found,
    GenerationDelta,
    GenerationStarted,
    PlannedCall,
    SearchQuery,
    Started,
    TextDelta,
    ToolAnswer,
    ToolCallStarted,
    TurnRequest,
)
from tests.support.orchestration import (
    END,
    STARTED,
    Replica,
    ScriptedGenerator,
    ScriptedRetriever,
    ScriptedTools,
    end_of,
    eventually,
    kinds,
    replica,
    says,
    text_of,
)
from weft.connection import session_bucket
from weft.errors import Reason, WeftError, error

QUICK = Limits(lease_s=0.25)
SUM = ToolAnswer({"value": 42}, "6 * 7 = 42", 0.001)
PLAN = [PlannedCall("calculator", {"expression": str(number)}) for number in range(3)]


class Mortal:
    """A session store as one replica sees it, until that replica dies at its ``after``-th write: with the
    write done (``done``) or not. From then on nothing reaches the store, the lease's return included."""

    def __init__(self, sessions: Sessions, after: int, done: bool) -> None:
        self._sessions, self._left, self._done = sessions, after, done
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sessions, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise error(Reason.DEPENDENCY_UNAVAILABLE, "dead")
            if name in ("append", "finish"):
                self._left -= 1
                if self._left == 0:
                    self.dead = True
                    if self._done:
                        await method(*args, **kwargs)
                    raise error(Reason.DEPENDENCY_UNAVAILABLE, "killed")
            return await method(*args, **kwargs)

        return call


async def lease_of(r: Replica, request_id: str, session: str = "s", question: str = "What is it?") -> Taken:
    outcome = await r.sessions.begin(Opening("acme", session, True, request_id, question, "somebody", "0" * 32))
    assert isinstance(outcome, Taken), outcome
    return outcome


class Reader:
    """Reads a turn in a task of its own; what it has so far can be seen."""

    def __init__(self, r: Replica, **fields: Any) -> None:
        self.had: list[Entry] = []
        self.task = asyncio.create_task(self._read(r, fields))

    async def _read(self, r: Replica, fields: dict[str, Any]) -> list[Entry]:
        async with aclosing(r.stream(**fields)) as stream:
            async for entry in stream:
                self.had.append(entry)
        return self.had

    async def has_text(self) -> None:
        await eventually(lambda: text_of(self.had) != "")


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
        async with asyncio.timeout(2):
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

    async with replica(tmp_path, wrap=Slow) as r:  # type: ignore[arg-type]
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
        await eventually(lambda: generator.active == 0, within_s=2)
        # Nothing waits for a lease to expire (5 s): neither another turn nor the same one.
        async with asyncio.timeout(3):
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
        await eventually(lambda: asyncio.all_tasks() <= before)
        assert r.generator.active == 0
        async with asyncio.timeout(2):
            for number in range(20):
                await r.ask(session=f"s{number}")


async def test_work_that_is_stopped_before_its_first_step_gives_the_lease_back(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        taken = await lease_of(r, "r1")
        request = TurnRequest("acme", "s", "r1", "What is it?")
        works = Works(r.sessions, r.peers, Options(), trace.NoOpTracer())
        running = works.start(taken, request, LedgerRecorder(Deadline.after(5)))
        running.stop()
        async with asyncio.timeout(1):
            await running.done.wait()
        await r.ask("another?", timeout_s=1)


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
        async with asyncio.timeout(3):
            entries = await other.ask(request_id="r1", resume_turn=1, after_sequence=2)
    assert text_of(entries) == "woven."


# -- resuming -----------------------------------------------------------------------------------------


async def until_it_breaks(r: Replica, **fields: Any) -> list[Entry]:
    """What a caller has when its replica dies."""
    had: list[Entry] = []
    try:
        async for entry in r.stream(**fields):
            had.append(entry)
    except WeftError as err:
        assert err.message in ("dead", "killed")
    return had


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("after", range(1, 9))
async def test_a_turn_is_resumed_wherever_its_replica_died(tmp_path: Path, after: int, done: bool) -> None:
    texts = ["It ", "is ", "all ", "woven."]
    slowly = [STARTED, *(step for text in texts for step in (GenerationDelta(text), 0.03)), END]
    tools = ScriptedTools({"calculator": SUM})
    async with (
        replica(
            tmp_path,
            generator=ScriptedGenerator(slowly),
            tools=tools,
            plan=PLAN,
            limits=QUICK,
            wrap=lambda sessions: Mortal(sessions, after, done),  # type: ignore[arg-type,return-value]
        ) as dying,
        replica(
            tmp_path, generator=ScriptedGenerator(says("It is all", " woven.")), tools=tools, plan=PLAN, limits=QUICK
        ) as other,
    ):
        had = await until_it_breaks(dying, request_id="r1")
        died = bool(dying.sessions.dead)  # type: ignore[attr-defined]
        calls = len(tools.calls)
        resume = {"resume_turn": 1, "after_sequence": had[-1].sequence} if had else {}
        rest = await other.ask(request_id="r1", **resume) if not isinstance(had[-1].event, Finished) else []
        everything = had + rest
        replayed = await other.ask(request_id="r1")
    assert died or isinstance(had[-1].event, Finished)
    assert [entry.sequence for entry in everything] == list(range(len(everything)))
    assert replayed[1:] == everything[1:]
    assert text_of(everything) == end_of(everything).text == "It is all woven."
    for kind, count in (("Started", 1), ("Retrieved", 1), ("ToolCallStarted", 3), ("ToolResult", 3), ("Finished", 1)):
        assert kinds(everything).count(kind) == count, kinds(everything)
    # A tool whose result was stored runs once; one whose result was lost with its replica runs again, under the
    # same id, so that it is the same call to the tool.
    assert len({call_id for _, _, call_id in tools.calls}) == 3
    if "TextDelta" in kinds(had):
        assert len(tools.calls) == calls == 3


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
async def test_one_write_that_fails_ends_the_stream_and_loses_no_text(tmp_path: Path, failing: int) -> None:
    """A store that hiccups must not be taken for a model that broke off: its text would be skipped."""
    writes = 0

    class Hiccup:
        def __init__(self, sessions: Sessions) -> None:
            self._sessions = sessions

        async def append(self, lease: Any, entries: Sequence[Entry]) -> None:
            nonlocal writes
            writes += 1
            if writes == failing:
                raise error(Reason.DEPENDENCY_UNAVAILABLE, "killed")
            await self._sessions.append(lease, entries)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sessions, name)

    slowly = [STARTED, *(step for text in ("It ", "is ", "so.") for step in (GenerationDelta(text), 0.03)), END]
    async with replica(tmp_path, generator=ScriptedGenerator([0.08, *slowly]), wrap=Hiccup) as r:  # type: ignore[arg-type]
        had = await until_it_breaks(r, request_id="r1")
        assert writes == failing
        rest = await r.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
    everything = had + rest
    assert [entry.sequence for entry in everything] == list(range(len(everything)))
    assert text_of(everything) == end_of(everything).text == "It is so."


async def test_the_plan_is_stored_before_a_tool_runs(tmp_path: Path) -> None:
    stored: list[list[str]] = []

    class Watching(ScriptedTools):
        async def call(self, *args: Any, **kwargs: Any) -> ToolAnswer:
            progress = await r.sessions.progress("acme", "s", 1, -1)
            stored.append([e.event.call_id for e in progress.log if isinstance(e.event, ToolCallStarted)])
            return await super().call(*args, **kwargs)

    async with replica(tmp_path, tools=Watching({"calculator": SUM}), plan=PLAN) as r:
        await r.ask()
    assert stored == [["1", "2", "3"]] * 3


async def test_what_was_settled_before_the_text_stays_settled(tmp_path: Path) -> None:
    """The retriever was down when the answer began. That it is back for the next owner must not show."""
    down = ScriptedRetriever(error(Reason.DEPENDENCY_UNAVAILABLE, "refused"))
    slow = ScriptedGenerator([STARTED, GenerationDelta("It is "), 9.0])
    async with (
        replica(tmp_path, retriever=down, generator=slow) as r,
        replica(tmp_path, owner="other", plan=PLAN, tools=ScriptedTools({"calculator": SUM})) as other,
    ):
        async with aclosing(r.stream(request_id="r1")) as stream:
            had = []
            async for entry in stream:
                had.append(entry)
                if isinstance(entry.event, TextDelta):
                    break
        rest = await other.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
        assert other.retriever.queries == []
        assert other.tools.calls == []
    assert kinds(had + rest) == ["Started", "TextDelta", "TextDelta", "Finished"]
    assert [d.stage for d in end_of(rest).degraded] == ["retrieval"]


async def test_a_reader_elsewhere_takes_the_turn_over_when_its_owner_dies(tmp_path: Path) -> None:
    slowly = [STARTED, GenerationDelta("It is "), 0.15, GenerationDelta("all "), 0.05, GenerationDelta("woven."), END]
    async with (
        replica(
            tmp_path,
            generator=ScriptedGenerator(slowly),
            limits=QUICK,
            wrap=lambda sessions: Mortal(sessions, 3, False),  # type: ignore[arg-type,return-value]
        ) as dying,
        replica(tmp_path, generator=ScriptedGenerator(says("It is all woven.")), limits=QUICK) as other,
    ):
        first = asyncio.create_task(until_it_breaks(dying, request_id="r1"))
        await eventually(lambda: dying.generator.active == 1)
        second = await other.ask(request_id="r1")
        had = await first
    assert had == second[: len(had)]
    assert text_of(second) == end_of(second).text == "It is all woven."
    assert [entry.sequence for entry in second] == list(range(len(second)))


async def test_an_owner_that_lost_its_lease_follows_the_new_one(tmp_path: Path) -> None:
    """A replica that was paused wakes up: its reader goes on from the store, its writes are refused."""
    hold, paused = asyncio.Event(), asyncio.Event()
    slow = ScriptedGenerator([STARTED, GenerationDelta("It is "), hold, GenerationDelta("stale."), END])
    fresh = ScriptedGenerator([STARTED, GenerationDelta("It is "), GenerationDelta("woven."), END])

    class Paused:
        """Renews no lease, as a stopped process doesn't."""

        def __init__(self, sessions: Sessions) -> None:
            self._sessions = sessions

        async def renew(self, leases: Sequence[Any]) -> list[Any]:
            await paused.wait()
            return []

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sessions, name)

    async with (
        replica(tmp_path, generator=slow, limits=QUICK, wrap=Paused) as old,  # type: ignore[arg-type]
        replica(tmp_path, generator=fresh, limits=QUICK, owner="other") as new,
    ):
        first = asyncio.create_task(old.ask(request_id="r1"))
        await eventually(lambda: slow.active == 1)
        second = await new.ask(request_id="r1")  # follows, then takes over when the lease expires
        hold.set()
        entries = await first
        paused.set()
    assert text_of(second) == "It is woven."
    assert entries[1:] == second[1:]


async def test_a_lease_that_is_renewed_outlasts_its_first_term(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), hold, GenerationDelta("woven."), END])
    async with (
        replica(tmp_path, generator=generator, limits=Limits(lease_s=2.0)) as r,
        replica(tmp_path, owner="other", limits=Limits(lease_s=2.0)) as other,
    ):
        first = Reader(r, request_id="r1")
        await first.has_text()
        second = Reader(other, request_id="r1")
        await second.has_text()
        await asyncio.sleep(3)
        hold.set()
        assert await first.task == await second.task
    assert other.generator.prompts == []


async def test_a_model_that_can_is_continued_by_its_token_ids(tmp_path: Path) -> None:
    began = GenerationStarted("m", "vllm", can_resume=True, prompt_token_ids=(7, 8, 9))
    pieces = [GenerationDelta("It ", (1,)), 0.03, GenerationDelta("is ", (2, 3)), 0.03]
    async with (
        replica(tmp_path, generator=ScriptedGenerator([began, *pieces, 9.0])) as r,
        replica(
            tmp_path,
            generator=ScriptedGenerator([began, GenerationDelta("sampled.", (4,)), END]),
            owner="other",
        ) as other,
    ):
        had = []
        async with aclosing(r.stream(request_id="r1")) as stream:
            async for entry in stream:
                had.append(entry)
                if text_of(had) == "It is ":
                    break
        rest = await other.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
    assert other.generator.prompts[0].continuation == Continuation((7, 8, 9), (1, 2, 3), "It is ")
    assert other.generator.prompts[0].model == "m"
    assert text_of(had + rest) == end_of(rest).text == "It is sampled."


async def test_a_backend_that_refuses_to_continue_is_asked_again_and_compared(tmp_path: Path) -> None:
    began = GenerationStarted("m", "vllm", can_resume=True, prompt_token_ids=(7,), can_repeat=True)
    refused = error(Reason.RESUME_UNSUPPORTED, "not me")
    broken = [began, GenerationDelta("It ", (1,)), 0.03, error(Reason.DEPENDENCY_UNAVAILABLE, "gone")]
    generator = ScriptedGenerator(broken, [refused], says("It is so."))
    async with replica(tmp_path, generator=generator) as r:
        entries = await r.ask()
    assert text_of(entries) == "It is so."
    assert [prompt.continuation is None for prompt in generator.prompts] == [True, False, True]


async def test_the_request_id_of_a_resumed_turn_may_be_left_out(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        first = await r.ask()
        assert await r.ask(resume_turn=1, after_sequence=2) == first[3:]
        with pytest.raises(WeftError) as caught:
            await r.ask(resume_turn=1, after_sequence=2, request_id="not-mine")
        assert caught.value.field == "resume.turn"
        with pytest.raises(WeftError) as caught:
            await r.ask(resume_turn=2, after_sequence=0)
        assert caught.value.reason == Reason.TURN_NOT_FOUND
        with pytest.raises(WeftError) as caught:
            await r.ask(resume_turn=1, after_sequence=99)
        assert caught.value.field == "resume.after_sequence"
        assert await r.ask(resume_turn=1, after_sequence=4) == []  # everything had arrived


async def test_a_wrong_sequence_does_not_harm_the_turn(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        taken = await lease_of(r, "r1")
        await r.sessions.release(taken.lease)
        with pytest.raises(WeftError) as caught:
            await r.ask(request_id="r1", resume_turn=1, after_sequence=7)
        assert caught.value.field == "resume.after_sequence"
        assert text_of(await r.ask(request_id="r1", timeout_s=1)) == "It is woven."


async def test_a_session_deleted_under_a_running_turn_ends_it(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), hold, GenerationDelta("woven."), END])
    async with replica(tmp_path, generator=generator) as r:
        reader = Reader(r, request_id="r1")
        await reader.has_text()
        await r.sessions.delete("acme", "s")
        hold.set()
        with pytest.raises(WeftError) as caught:
            await reader.task
    assert caught.value.reason == Reason.SESSION_NOT_FOUND


async def test_a_store_that_is_down_fails_the_turn_clearly(tmp_path: Path) -> None:
    async with replica(tmp_path, wrap=lambda sessions: Mortal(sessions, 1, False)) as r:  # type: ignore[arg-type,return-value]
        with pytest.raises(WeftError) as caught:
            await r.ask()
        assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE
        with pytest.raises(WeftError) as caught:
            await r.ask()
    assert caught.value.code.name == "UNAVAILABLE"


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

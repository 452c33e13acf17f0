"""A turn goes on where its replica died, was paused, or was left: from its log, by whoever asks or reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.ports import Sessions
from services.orchestrator.records import Entry, Limits
from services.orchestrator.types import (
    Continuation,
    Finished,
    GenerationDelta,
    GenerationStarted,
    Retrieved,
    TextDelta,
    ToolAnswer,
    ToolCallStarted,
    ToolResult,
)
from tests.support.orchestration import (
    END,
    FOUND,
    PLAN,
    QUICK,
    STARTED,
    SUM,
    Mortal,
    Reader,
    Replica,
    ScriptedGenerator,
    ScriptedRetriever,
    ScriptedTools,
    end_of,
    eventually,
    kinds,
    lease_of,
    replica,
    says,
    text_of,
    until_it_breaks,
)
from weft.errors import Reason, WeftError, error
from weft.values import Degradation


async def up_to(kind: type, of: Replica) -> list[Entry]:
    """The events of a turn up to one of that kind; then its caller goes away."""
    had: list[Entry] = []
    async with aclosing(of.stream(request_id="r1")) as stream:
        async for entry in stream:
            had.append(entry)
            if isinstance(entry.event, kind):
                break
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
            wrap=lambda sessions: Mortal(sessions, after, done),
        ) as dying,
        replica(
            tmp_path, generator=ScriptedGenerator(says("It is all", " woven.")), tools=tools, plan=PLAN, limits=QUICK
        ) as other,
    ):
        had = await until_it_breaks(dying, request_id="r1")
        died = bool(vars(dying.sessions)["dead"])
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
    async with replica(tmp_path, generator=ScriptedGenerator([0.08, *slowly]), wrap=Hiccup) as r:
        had = await until_it_breaks(r, request_id="r1")
        assert writes == failing
        rest = await r.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
    everything = had + rest
    assert [entry.sequence for entry in everything] == list(range(len(everything)))
    assert text_of(everything) == end_of(everything).text == "It is so."


async def test_a_tool_that_changes_something_is_not_run_again(tmp_path: Path) -> None:
    """Its replica died while it ran, or just before or behind that: nobody knows which."""
    tools = ScriptedTools({"calculator": SUM}, read_only=False, delay_s=9.0)
    async with replica(tmp_path, tools=tools, plan=PLAN) as r:
        left = Reader(r, request_id="r1")
        await eventually(lambda: tools.at_once == 3)
        left.task.cancel()
        await asyncio.gather(left.task, return_exceptions=True)
        await eventually(lambda: tools.at_once == 0)
        entries = await r.ask(request_id="r1")
    assert len(tools.calls) == 3
    results = [entry.event for entry in entries if isinstance(entry.event, ToolResult)]
    assert [(result.call_id, result.error and result.error.reason) for result in results] == [
        (number, "TOOL_OUTCOME_UNKNOWN") for number in ("1", "2", "3")
    ]
    assert r.generator.prompts[-1].tool_results == tuple(results)
    assert text_of(entries) == "It is woven."


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
        had = await up_to(TextDelta, r)
        rest = await other.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
        assert other.retriever.queries == []
        assert other.tools.calls == []
    assert kinds(had + rest) == ["Started", "TextDelta", "TextDelta", "Finished"]
    assert [d.stage for d in end_of(rest).degraded] == ["retrieval"]


async def test_what_a_search_did_without_is_told_by_the_next_owner_too(tmp_path: Path) -> None:
    lack = Degradation("embedding", "EMBEDDER_UNAVAILABLE", "words alone", "")
    poor = ScriptedRetriever(replace(FOUND, degraded=(lack,)))
    tools = ScriptedTools({"calculator": SUM}, delay_s=9.0)
    async with (
        replica(tmp_path, retriever=poor, tools=tools, plan=PLAN) as r,
        replica(tmp_path, owner="other") as other,
    ):
        had = await up_to(Retrieved, r)
        rest = await other.ask(request_id="r1", resume_turn=1, after_sequence=had[-1].sequence)
        assert other.retriever.queries == []
    assert end_of(rest).degraded == (lack,)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_who_says_to_have_more_of_a_running_turn_than_it_gets_to_is_told(elsewhere: bool, tmp_path: Path) -> None:
    slowly = [STARTED, GenerationDelta("It is "), 0.3, GenerationDelta("woven."), END]
    async with (
        replica(tmp_path, generator=ScriptedGenerator(slowly)) as r,
        replica(tmp_path, owner="other") as other,
    ):
        first = asyncio.create_task(r.ask(request_id="r1"))
        await eventually(lambda: r.generator.active == 1)
        with pytest.raises(WeftError) as caught:
            await (other if elsewhere else r).ask(request_id="r1", resume_turn=1, after_sequence=99)
        assert caught.value.field == "resume.after_sequence"
        assert text_of(await first) == "It is woven."


async def test_a_reader_elsewhere_takes_the_turn_over_when_its_owner_dies(tmp_path: Path) -> None:
    slowly = [STARTED, GenerationDelta("It is "), 0.15, GenerationDelta("all "), 0.05, GenerationDelta("woven."), END]
    async with (
        replica(
            tmp_path,
            generator=ScriptedGenerator(slowly),
            limits=QUICK,
            wrap=lambda sessions: Mortal(sessions, 3, False),
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
        replica(tmp_path, generator=slow, limits=QUICK, wrap=Paused) as old,
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
        assert text_of(await r.ask(request_id="r1", timeout_s=4)) == "It is woven."


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
    async with replica(tmp_path, wrap=lambda sessions: Mortal(sessions, 1, False)) as r:
        with pytest.raises(WeftError) as caught:
            await r.ask()
        assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE
        with pytest.raises(WeftError) as caught:
            await r.ask()
    assert caught.value.code.name == "UNAVAILABLE"

"""One turn: its order, its stages side by side, what it survives."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from services.orchestrator import writing
from services.orchestrator.turn import Options
from services.orchestrator.types import (
    DocumentScope,
    Found,
    GenerationDelta,
    GenerationFinished,
    PlannedCall,
    Retrieved,
    Started,
    TextDelta,
    ToolAnswer,
    ToolResult,
)
from tests.support.orchestration import (
    FOUND,
    PASSAGE,
    STARTED,
    ScriptedGenerator,
    ScriptedRetriever,
    ScriptedTools,
    end_of,
    kinds,
    replica,
    says,
    text_of,
)
from weft.errors import Reason, WeftError, error
from weft.values import Citation, Degradation, Epoch, FinishReason

SUM = ToolAnswer({"value": 42}, "6 * 7 = 42", 0.001)
DOWN = error(Reason.DEPENDENCY_UNAVAILABLE, "connection refused")


def calculator(count: int = 1) -> list[PlannedCall]:
    return [PlannedCall("calculator", {"expression": str(number)}) for number in range(count)]


async def test_a_plain_turn_starts_retrieves_writes_and_finishes(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        entries = await r.ask("What is it made of?", request_id="r1", collection="collections/c", top_k=7)
    assert kinds(entries) == ["Started", "Retrieved", "TextDelta", "TextDelta", "Finished"]
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3, 4]
    started, retrieved = entries[0].event, entries[1].event
    assert isinstance(started, Started)
    assert (started.session, started.turn, started.request_id, started.replayed) == ("s", 1, "r1", False)
    assert started.versions == {"orchestrator": "v1"}
    assert retrieved == Retrieved(FOUND.passages, FOUND.epoch, "What is it made of?")
    assert (r.retriever.queries[0].collection, r.retriever.queries[0].top_k) == ("collections/c", 7)
    assert text_of(entries) == end_of(entries).text == "It is woven."
    assert end_of(entries).degraded == ()
    assert r.generator.prompts[0].passages == (PASSAGE,)


async def test_the_end_carries_what_the_model_said_and_the_ledger(tmp_path: Path) -> None:
    citation = Citation(PASSAGE.name, 0, 5)
    notice = Degradation("generation", "MODEL_UNAVAILABLE", "model:small")
    end = GenerationFinished(FinishReason.ABSTAINED, citations=(citation,), degraded=(notice,), cached=True)
    async with replica(tmp_path, generator=ScriptedGenerator(says("No.", end=end))) as r:
        finished = end_of(await r.ask())
    assert (finished.reason, finished.citations, finished.degraded) == (end.reason, (citation,), (notice,))
    assert finished.cached
    stages = [line.stage for line in finished.ledger.entries]
    assert stages[:3] == ["session", "retrieval", "planning"]
    assert sorted(stages[3:]) == ["append", "generation"]
    assert all(line.status == "OK" for line in finished.ledger.entries)
    assert finished.ledger.deadline_ms == 10_000
    assert finished.ledger.entries[1].budget_ms == pytest.approx(10_000 * 5 / 6, rel=0.05)
    assert 0 < finished.ledger.elapsed_ms < 5_000


async def test_retrieval_and_tools_run_side_by_side(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM}, delay_s=0.5)
    async with replica(tmp_path, retriever=ScriptedRetriever(delay_s=0.5), tools=tools, plan=calculator(3)) as r:
        began_s = time.monotonic()
        entries = await r.ask()
        took_s = time.monotonic() - began_s
    assert took_s < 1.2  # in sequence: 2.0
    assert kinds(entries)[:4] == ["Started", "ToolCallStarted", "ToolCallStarted", "ToolCallStarted"]
    assert set(kinds(entries)[4:8]) == {"Retrieved", "ToolResult"}
    assert [result.text for result in r.generator.prompts[0].tool_results] == ["6 * 7 = 42"] * 3


async def test_tools_see_no_more_documents_than_the_turns_own_search(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM})
    scope = DocumentScope("collections/handbook", 'team = "public"', Epoch("ab" * 16, 3))
    async with replica(tmp_path, tools=tools, plan=calculator(2)) as r:
        await r.ask(collection=scope.collection, filter=scope.filter, min_epoch=scope.min_epoch)
    assert tools.scopes == [scope] * 2


async def test_at_most_ten_tool_calls_run_at_once(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM}, delay_s=0.02)
    async with replica(tmp_path, tools=tools, plan=calculator(25)) as r:
        entries = await r.ask()
    assert len(tools.calls) == 25
    assert tools.most_at_once == 10
    assert kinds(entries).count("ToolResult") == 25
    assert [r.call_id for r in r.generator.prompts[0].tool_results] == [str(n) for n in range(1, 26)]


async def test_every_tool_call_has_an_id_of_its_own_among_all_turns(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM})
    async with replica(tmp_path, tools=tools, plan=calculator(2)) as r:
        await r.ask()
        await r.ask()
        await r.ask(session="other")
        await r.ask(tenant="other")
    assert len({call_id for _, _, call_id in tools.calls}) == 8


async def test_a_tool_that_fails_is_told_and_harms_no_other(tmp_path: Path) -> None:
    failed = error(Reason.TOOL_FAILED, "division by zero")
    tools = ScriptedTools({"calculator": failed, "units": ToolAnswer({"value": 1}, "1 km", 0.0)})
    plan = [PlannedCall("calculator", {}), PlannedCall("units", {})]
    async with replica(tmp_path, tools=tools, plan=plan) as r:
        entries = await r.ask()
    results = {e.event.tool: e.event for e in entries if isinstance(e.event, ToolResult)}
    assert results["calculator"].error is not None
    assert results["calculator"].error.reason == "TOOL_FAILED"
    assert results["units"].text == "1 km"
    assert end_of(entries).degraded == ()  # the tool is there; the question was bad


async def test_a_turn_may_use_only_the_tools_it_names(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM, "units": SUM})
    async with replica(tmp_path, tools=tools) as r:
        await r.ask(tools=frozenset({"units"}))
        assert r.planner.asked[-1][1] == ["units"]
        await r.ask()
        assert r.planner.asked[-1][1] == ["calculator", "units"]
        await r.ask(tools=frozenset())
        assert [question for question, _ in r.planner.asked if question] == ["What is it?"] * 2
        with pytest.raises(WeftError) as caught:
            await r.ask(tools=frozenset({"unit"}))
    assert caught.value.reason == Reason.TOOL_NOT_FOUND
    assert caught.value.metadata["tool"] == "unit"


# -- the ladder ---------------------------------------------------------------------------------------


async def test_without_retriever_session_and_tools_answer(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM})
    async with replica(tmp_path, retriever=ScriptedRetriever(DOWN), tools=tools, plan=calculator()) as r:
        entries = await r.ask()
    assert "Retrieved" not in kinds(entries)
    assert r.generator.prompts[0].passages == ()
    assert len(r.generator.prompts[0].tool_results) == 1
    assert end_of(entries).degraded == (
        Degradation("retrieval", "DEPENDENCY_UNAVAILABLE", "session_and_tools", "connection refused"),
    )
    (line,) = [line for line in end_of(entries).ledger.entries if line.stage == "retrieval"]
    assert line.status == "UNAVAILABLE"


async def test_a_retriever_that_hangs_is_left_behind(tmp_path: Path) -> None:
    async with replica(tmp_path, retriever=ScriptedRetriever(delay_s=9.0), options=Options(stage_s=0.5)) as r:
        entries = await r.ask()
    assert text_of(entries) == "It is woven."
    assert end_of(entries).degraded[0].reason == "DEADLINE_EXCEEDED"


async def test_a_request_that_is_wrong_fails_the_turn_for_good(tmp_path: Path) -> None:
    missing = ScriptedRetriever(error(Reason.COLLECTION_NOT_FOUND, "no collection 'c'"))
    async with replica(tmp_path, retriever=missing) as r:
        for _ in range(2):
            with pytest.raises(WeftError) as caught:
                await r.ask(request_id="r1", collection="collections/c")
            assert caught.value.reason == Reason.COLLECTION_NOT_FOUND
        assert len(missing.queries) == 1  # the second answer came from the store
        (turn,) = await r.sessions.turns("acme", "s", after_turn=0, limit=9)
        assert turn.state.value == "failed"


async def test_a_mesh_without_documents_still_has_tools(tmp_path: Path) -> None:
    empty = ScriptedRetriever(error(Reason.COLLECTION_NOT_FOUND, "no collection 'default'"))
    async with replica(tmp_path, retriever=empty) as r:
        entries = await r.ask()
    assert end_of(entries).degraded[0].reason == "COLLECTION_NOT_FOUND"


async def test_what_the_retriever_left_out_is_passed_on(tmp_path: Path) -> None:
    notice = Degradation("retrieval", "EMBEDDER_UNAVAILABLE", "lexical_only")
    async with replica(tmp_path, retriever=ScriptedRetriever(Found((PASSAGE,), None, (notice,)))) as r:
        assert end_of(await r.ask()).degraded == (notice,)


async def test_without_tools_service_the_documents_answer(tmp_path: Path) -> None:
    tools = ScriptedTools(listing=DOWN)
    async with replica(tmp_path, tools=tools) as r:
        entries = await r.ask()
        await r.ask()
    assert text_of(entries) == "It is woven."
    assert [(d.stage, d.fallback) for d in end_of(entries).degraded] == [("tools", "without_tools")]
    assert tools.listed == 1  # the failure is remembered for a while


async def test_a_planner_that_hangs_is_left_behind(tmp_path: Path) -> None:
    async with replica(tmp_path, options=Options(stage_s=0.5)) as r:
        r.planner.hold = asyncio.Event()
        entries = await r.ask()
    assert text_of(entries) == "It is woven."
    assert [(d.stage, d.reason) for d in end_of(entries).degraded] == [("tools", "DEADLINE_EXCEEDED")]


async def test_a_tools_service_that_dies_between_plan_and_call_is_told_once(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": DOWN})
    async with replica(tmp_path, tools=tools, plan=calculator(3)) as r:
        entries = await r.ask()
    assert kinds(entries).count("ToolResult") == 3
    assert [d.stage for d in end_of(entries).degraded] == ["tools"]


async def test_without_generator_the_passages_answer_for_themselves(tmp_path: Path) -> None:
    tools = ScriptedTools({"calculator": SUM})
    generator = ScriptedGenerator([DOWN])
    async with replica(tmp_path, generator=generator, tools=tools, plan=calculator()) as r:
        entries = await r.ask()
    finished = end_of(entries)
    assert finished.reason is FinishReason.STOP
    assert finished.degraded[-1].stage == "generation"
    assert finished.degraded[-1].fallback == "passages_only"
    assert finished.text.startswith("6 * 7 = 42\n")
    (citation,) = finished.citations
    assert finished.text[citation.start_char : citation.end_char] == PASSAGE.text
    assert (citation.passage, citation.source) == (PASSAGE.name, "w.md")
    assert text_of(entries) == finished.text
    assert len(generator.prompts) == 1  # it never began: gRPC has tried already


async def test_with_everything_down_a_turn_still_ends_and_says_why(tmp_path: Path) -> None:
    async with replica(
        tmp_path,
        retriever=ScriptedRetriever(DOWN),
        generator=ScriptedGenerator([DOWN]),
        tools=ScriptedTools(listing=DOWN),
    ) as r:
        finished = end_of(await r.ask())
    assert {d.stage for d in finished.degraded} == {"retrieval", "tools", "generation"}
    assert finished.citations == ()
    assert finished.text


async def test_out_of_time_while_writing_ends_with_what_is_there(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), 9.0])
    async with replica(tmp_path, generator=generator, options=Options(stage_s=0.5)) as r:
        entries = await r.ask()
        finished = end_of(entries)
        assert (finished.text, finished.reason) == ("It is ", FinishReason.LENGTH)
        assert finished.degraded[-1].fallback == "partial_answer"
        assert generator.active == 0


async def test_a_model_that_never_begins_is_left_behind(tmp_path: Path) -> None:
    async with replica(tmp_path, generator=ScriptedGenerator([9.0]), options=Options(stage_s=0.5)) as r:
        finished = end_of(await r.ask())
    assert finished.degraded[-1].fallback == "passages_only"
    assert finished.degraded[-1].reason == "DEADLINE_EXCEEDED"


async def test_an_unknown_model_fails_the_turn(tmp_path: Path) -> None:
    generator = ScriptedGenerator([error(Reason.MODEL_NOT_FOUND, "no model 'x'")])
    async with replica(tmp_path, generator=generator) as r:
        with pytest.raises(WeftError) as caught:
            await r.ask(model="x")
    assert caught.value.reason == Reason.MODEL_NOT_FOUND


async def test_a_defect_is_raised_and_leaves_the_turn_to_be_resumed(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, ZeroDivisionError("a bug")], says("It works."))
    async with replica(tmp_path, generator=generator) as r:
        with pytest.raises(ZeroDivisionError):
            await r.ask(request_id="r1")
        assert text_of(await r.ask(request_id="r1")) == "It works."


# -- a stream that breaks -----------------------------------------------------------------------------


async def test_a_broken_answer_is_asked_for_again_and_what_was_shown_is_skipped(tmp_path: Path) -> None:
    broken = [STARTED, GenerationDelta("It is "), 0.05, DOWN]
    generator = ScriptedGenerator(broken, says("It", " is wov", "en."))
    async with replica(tmp_path, generator=generator) as r:
        entries = await r.ask()
    assert text_of(entries) == end_of(entries).text == "It is woven."
    assert [entry.sequence for entry in entries] == list(range(len(entries)))
    assert end_of(entries).degraded == ()


async def test_another_answer_than_the_shown_one_ends_the_turn(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), 0.05, DOWN], says("They are woven."))
    async with replica(tmp_path, generator=generator) as r:
        for _ in range(2):  # failed, and stays so
            with pytest.raises(WeftError) as caught:
                await r.ask(request_id="r1")
            assert caught.value.reason == Reason.ANSWER_INTERRUPTED
    assert len(generator.prompts) == 2


async def test_a_shorter_answer_than_the_shown_one_ends_the_turn(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), 0.05, DOWN], says("It"))
    async with replica(tmp_path, generator=generator) as r:
        with pytest.raises(WeftError) as caught:
            await r.ask()
    assert caught.value.reason == Reason.ANSWER_INTERRUPTED


async def test_a_model_that_stays_away_in_the_middle_leaves_the_turn_to_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PATIENCE_S", 0.3)
    generator = ScriptedGenerator([STARTED, GenerationDelta("It is "), DOWN], [DOWN])
    async with replica(tmp_path, generator=generator) as r:
        with pytest.raises(WeftError) as caught:
            await r.ask(request_id="r1")
        assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE
        assert caught.value.metadata["partial"] == "true"
        assert caught.value.metadata["emitted_chars"] == "6"
        assert len(generator.prompts) > 2
        generator.scripts = [says("It is ok.")]
        entries = await r.ask(request_id="r1")
    assert text_of(entries) == "It is ok."


# -- pieces of text -----------------------------------------------------------------------------------


async def test_the_first_piece_comes_at_once_and_quick_ones_come_together(tmp_path: Path) -> None:
    generator = ScriptedGenerator(says(*"abcdefghij"))
    async with replica(tmp_path, generator=generator) as r:
        entries = await r.ask()
    pieces = [e.event.text for e in entries if isinstance(e.event, TextDelta)]
    assert pieces == ["a", "bcdefghij"]


async def test_a_slow_models_pieces_come_one_by_one_without_waiting(tmp_path: Path) -> None:
    generator = ScriptedGenerator([STARTED, *(s for t in "abc" for s in (GenerationDelta(t), 0.06)), says()[-1]])
    arrived: list[tuple[str, float]] = []
    async with replica(tmp_path, generator=generator) as r:
        async for entry in r.stream():
            if isinstance(entry.event, TextDelta):
                arrived.append((entry.event.text, time.monotonic()))
    assert [text for text, _ in arrived] == ["a", "b", "c"]
    assert 0.1 < arrived[2][1] - arrived[0][1] < 1


async def test_a_piece_that_waits_for_company_leaves_after_the_interval(tmp_path: Path) -> None:
    hold = asyncio.Event()
    generator = ScriptedGenerator([STARTED, GenerationDelta("a"), GenerationDelta("b"), hold, says()[-1]])
    async with replica(tmp_path, generator=generator) as r:
        pieces = []
        async for entry in r.stream():
            if isinstance(entry.event, TextDelta):
                pieces.append(entry.event.text)
                if pieces == ["a", "b"]:
                    hold.set()  # only after both have come: the model hangs until then
    assert pieces == ["a", "b"]


# -- follow-ups ---------------------------------------------------------------------------------------


async def test_a_follow_up_is_completed_from_the_session(tmp_path: Path) -> None:
    async with replica(tmp_path) as r:
        await r.ask("How does the loom work?")
        entries = await r.ask("And in Chinese?")
    retrieved = entries[1].event
    assert isinstance(retrieved, Retrieved)
    assert retrieved.query == "And in Chinese? (loom work)"
    assert r.retriever.queries[1].query == retrieved.query
    assert [(e.question, e.answer) for e in r.generator.prompts[1].history] == [
        ("How does the loom work?", "It is woven.")
    ]

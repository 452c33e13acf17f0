"""The rule planner: right on the questions kept apart, silent on plain ones, quick on hostile ones."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from mesh.plugins import Url
from services.orchestrator.planners import rules
from services.orchestrator.planners.rules import MAX_CALLS, MAX_KEPT_PLANS, MAX_QUESTION_CHARS, RulePlanner
from services.orchestrator.types import ArgumentExtractor, ExtractorKind, PlannedCall, ToolPattern, ToolSpec
from services.tools.toolbox import Toolbox
from services.tools.types import Call
from tests.support.tools import builtin_tools, planner_spec
from weft.errors import WeftError

DATA = Path(__file__).parents[1] / "data"
TODAY = datetime.date(2026, 11, 12)
TOOLS = builtin_tools()
SPECS = [planner_spec(tool.spec) for tool in TOOLS]


async def plan(question: str, specs: list[ToolSpec] | None = None) -> list[PlannedCall]:
    return await RulePlanner().plan(question, SPECS if specs is None else specs, TODAY, [])


def questions(name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    assert held["today"] == TODAY.isoformat()
    return held


async def wrong(cases: list[dict[str, Any]]) -> list[str]:
    """The questions whose plan is not right: other tools, arguments or results."""
    planner, box = RulePlanner(), Toolbox(TOOLS)
    failed: list[str] = []
    for case in cases:
        calls = await planner.plan(case["question"], SPECS, TODAY, [])
        fits = [await _fits(box, call, wanted) for call, wanted in zip(calls, case["calls"], strict=False)]
        if len(calls) != len(case["calls"]) or not all(fits):
            failed.append(f"{case['question']} -> {calls}")
    return failed


async def _fits(box: Toolbox, call: PlannedCall, wanted: dict[str, Any]) -> bool:
    if call.tool != wanted["tool"]:
        return False
    if any(call.arguments.get(name) != value for name, value in wanted.get("arguments", {}).items()):
        return False
    if "result" not in wanted:
        return True
    try:
        result = (await box.call(Call(call.tool, call.arguments, TODAY))).output.result
    except WeftError:
        return False
    return all(_same(result.get(name), value) for name, value in wanted["result"].items())


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return bool(got == wanted)
    return isinstance(got, int | float) and math.isclose(got, wanted, rel_tol=1e-9)


async def test_of_40_questions_kept_apart_at_least_35_are_planned_right() -> None:
    held = questions("planner_held_out.json")
    failed = await wrong(held["tool_questions"])

    assert len(held["tool_questions"]) == 40
    assert len(failed) <= 5, "\n".join(failed)


async def test_none_of_40_plain_questions_kept_apart_calls_a_tool() -> None:
    plain = questions("planner_held_out.json")["plain_questions"]

    assert len(plain) == 40
    assert [question for question in plain if await plan(question)] == []


@pytest.mark.parametrize("name", ["planner_fresh.json", "planner_fresh_2.json", "planner_fresh_3.json"])
async def test_of_40_fresh_questions_at_least_35_are_planned_right_and_no_plain_one_calls_a_tool(name: str) -> None:
    fresh = questions(name)
    failed = await wrong(fresh["tool_questions"])

    assert len(fresh["tool_questions"]) == len(fresh["plain_questions"]) == 40
    assert len(failed) <= 5, "\n".join(failed)
    assert [question for question in fresh["plain_questions"] if await plan(question)] == []


async def test_every_pattern_of_the_tools_that_come_along_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    await plan("hello")

    assert "left out" not in caplog.text


async def test_the_questions_it_was_tuned_on_are_all_planned_right() -> None:
    held = questions("planner_dev.json")

    assert await wrong(held["tool_questions"]) == []
    assert [question for question in held["plain_questions"] if await plan(question)] == []


async def test_calls_come_in_the_order_of_the_question() -> None:
    calls = await plan("How many days until 2027-01-01 and what is 12*7?")

    assert [call.tool for call in calls] == ["calendar_dates", "calculator"]


async def test_the_same_request_twice_is_one_call() -> None:
    assert len(await plan("What is 3 + 4? Please tell me, what is 3 + 4?")) == 1


async def test_at_most_ten_calls_are_planned() -> None:
    question = " ".join(f"What is {n} * 3?" for n in range(2, 40))

    assert len(await plan(question)) == MAX_CALLS


async def test_only_the_beginning_of_a_long_question_is_looked_at() -> None:
    assert await plan("x " * MAX_QUESTION_CHARS + "? What is 12 * 7?") == []
    assert len(await plan("What is 12 * 7? " + "x " * 500_000)) == 1


async def test_white_space_makes_no_difference() -> None:
    assert await plan("  What  is\n12 * 7 ?\t") == await plan("What is 12 * 7 ?")


async def test_tools_that_are_not_offered_are_not_planned() -> None:
    calendar = [spec for spec in SPECS if spec.name == "calendar_dates"]

    assert [call.tool for call in await plan("What is 12*7 and what is today's date?", calendar)] == ["calendar_dates"]


@pytest.mark.parametrize(
    "question", ["1 + " * 250, "1 % " * 250, "twenty " * 150, "two hundred and " * 70, "12乘以" * 200, "(" * 1_000]
)
async def test_a_hostile_question_takes_milliseconds(question: str) -> None:
    planner = RulePlanner()
    await planner.plan("warm up", SPECS, TODAY, [])
    started_s = time.thread_time()
    await planner.plan(question, SPECS, TODAY, [])

    assert time.thread_time() - started_s < 0.15


def shouting(regex: str, *arguments: ArgumentExtractor, name: str = "shout") -> ToolSpec:
    return ToolSpec(name, patterns=(ToolPattern(regex, arguments),))


TEXT = ArgumentExtractor("text", ExtractorKind.TEXT, "text")


async def test_a_pattern_that_does_not_compile_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    broken = ToolSpec("shout", patterns=(ToolPattern("(", ()), ToolPattern("shout (?P<text>.*)", (TEXT,))))

    assert await plan("shout hello", [broken]) == [PlannedCall("shout", {"text": "hello"})]
    assert "a pattern of tool shout is left out" in caplog.text


@pytest.mark.parametrize("regex", ["shout (?P<other>.*)", "x" * 20_000], ids=["no such group", "too long"])
async def test_a_pattern_that_cannot_be_used_is_left_out(regex: str, caplog: pytest.LogCaptureFixture) -> None:
    assert await plan("shout hello", [shouting(regex, TEXT)]) == []
    assert "left out" in caplog.text


async def test_a_tool_that_declares_other_patterns_is_understood_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = RulePlanner()
    compiled: list[str] = []
    genuine = rules._compile
    monkeypatch.setattr(rules, "_compile", lambda tool, p: compiled.append(p.regex) or genuine(tool, p))
    first, second = shouting("shout (?P<text>.*)", TEXT), shouting("yell (?P<text>.*)", TEXT)

    for _ in range(3):
        assert len(await planner.plan("shout hello", [first], TODAY, [])) == 1
    assert len(await planner.plan("yell hello", [second], TODAY, [])) == 1
    assert compiled == ["shout (?P<text>.*)", "yell (?P<text>.*)"]


async def test_a_plan_is_kept_for_its_day_and_its_tools_and_never_handed_out_to_be_changed() -> None:
    planner = RulePlanner()
    when = ArgumentExtractor("when", ExtractorKind.DATE, "when")
    today, tools = TODAY, [shouting("shout (?P<when>tomorrow)", when), shouting("yell", name="yell")]

    async def planned(day: datetime.date, offered: list[ToolSpec]) -> list[PlannedCall]:
        return await planner.plan("shout tomorrow, yell", offered, day, [])

    first = await planned(today, tools)
    first.clear()
    assert [call.arguments for call in await planned(today, tools)] == [{"when": "2026-11-13"}, {}]
    assert len(await planned(today, tools[:1])) == 1
    assert (await planned(today + datetime.timedelta(days=1), tools))[0].arguments == {"when": "2026-11-14"}
    changed = [tools[0], shouting("never", name="yell")]
    assert len(await planned(today, changed)) == 1
    assert len(await planned(today, tools)) == 2


async def test_plans_of_a_bounded_number_of_questions_are_kept() -> None:
    planner = RulePlanner()
    for index in range(MAX_KEPT_PLANS + 10):
        await planner.plan(f"shout {index}", [shouting("shout")], TODAY, [])
    assert len(planner._plans) == MAX_KEPT_PLANS


async def test_of_two_matches_that_overlap_the_longer_one_is_meant() -> None:
    short, long = shouting("shout", name="short"), shouting("shout loudly", name="long")

    assert [call.tool for call in await plan("shout loudly", [short, long])] == ["long"]


async def test_an_optional_argument_may_be_absent_but_not_wrong() -> None:
    when = ArgumentExtractor("when", ExtractorKind.DATE, "when", optional=True)
    spec = shouting("shout(?: on (?P<when>[^?]+))?$", when)

    assert await plan("shout", [spec]) == [PlannedCall("shout", {})]
    assert await plan("shout on March 5", [spec]) == [PlannedCall("shout", {"when": "2027-03-05"})]
    assert await plan("shout on someday", [spec]) == []


async def test_constants_come_as_they_are() -> None:
    loud = ArgumentExtractor("loud", ExtractorKind.CONSTANT, constant=True)

    assert await plan("shout", [shouting("shout", loud)]) == [PlannedCall("shout", {"loud": True})]


def test_the_planner_is_opened_by_its_url() -> None:
    assert isinstance(rules.open(Url.parse("rules:")), RulePlanner)


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("planner_*.json")))
async def test_a_hint_spares_work_and_never_a_call(name: str) -> None:
    planner, plain = RulePlanner(), RulePlanner()
    unhinted = [dataclasses.replace(spec, hint="") for spec in SPECS]
    held = questions(name)
    asked = [case["question"] for case in held["tool_questions"]] + list(held["plain_questions"])
    for question in asked:
        assert await planner.plan(question, SPECS, TODAY, []) == await plain.plan(question, unhinted, TODAY, [])


async def test_a_question_that_a_hint_rules_out_costs_no_pattern() -> None:
    spec = ToolSpec("t", patterns=(ToolPattern("add (?P<text>.+)", (TEXT,)),), hint=r"\d")
    assert await plan("add one", [spec]) == []
    assert await plan("add 1", [spec]) == [PlannedCall("t", {"text": "1"})]

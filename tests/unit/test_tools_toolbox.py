"""The toolbox: lookup, checks of what goes in and out, time, slots."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from services.tools.ports import ToolFunction
from services.tools.toolbox import WAITING_PER_SLOT, Tool, Toolbox
from services.tools.types import BadArgument, Call, Context, Output, ToolFailed, ToolSpec
from weft.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    WeftError,
    error,
)

TODAY = datetime.date(2026, 11, 12)


def tool(run: ToolFunction, *, name: str = "echo", timeout_s: float = 1.0, slots: int = 4) -> Tool:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    return Tool(ToolSpec(name, "Says n again.", schema, schema, timeout_s=timeout_s, max_concurrency=slots), run)


async def echo(arguments: dict[str, Any], context: Context, /) -> Output:
    return Output({"n": arguments["n"]}, f"{arguments['n']} on {context.today}")


def failing(failure: BaseException) -> ToolFunction:
    async def run(arguments: dict[str, Any], context: Context, /) -> Output:
        raise failure

    return run


def giving(result: Any) -> ToolFunction:
    async def run(arguments: dict[str, Any], context: Context, /) -> Output:
        return Output(result, "done")

    return run


def call(n: Any = 1, name: str = "echo") -> Call:
    return Call(name, {"n": n}, TODAY)


async def test_a_call_returns_what_the_tool_answers_and_how_long_it_ran() -> None:
    answer = await Toolbox([tool(echo)]).call(call(3))

    assert (answer.output.result, answer.output.text) == ({"n": 3}, "3 on 2026-11-12")
    assert 0 <= answer.duration_s < 5


async def test_an_unknown_tool_is_named_beside_those_there_are() -> None:
    with pytest.raises(NotFound, match="no tool 'ekko'; there are: echo, other") as caught:
        await Toolbox([tool(echo), tool(echo, name="other")]).call(call(name="ekko"))

    assert caught.value.metadata == {"tool": "ekko", "available": "echo, other"}


async def test_an_argument_out_of_range_is_named_with_what_it_holds_and_what_is_allowed() -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Toolbox([tool(echo)]).call(call(12))

    assert caught.value.message == "tool echo: arguments.n is 12; allowed is at most 9"
    assert caught.value.field == "arguments.n"


async def test_an_unknown_argument_lists_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"arguments\.m is not an argument; allowed are: n"):
        await Toolbox([tool(echo)]).call(Call("echo", {"n": 1, "m": 2}, TODAY))


async def test_a_missing_argument_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"arguments\.n is missing"):
        await Toolbox([tool(echo)]).call(Call("echo", {}, TODAY))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_a_number_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="not a finite number"):
        await Toolbox([tool(echo)]).call(call(value))


async def test_an_argument_that_makes_no_sense_to_the_tool_is_the_callers_error() -> None:
    run = failing(BadArgument("n", 7, "allowed are even numbers"))
    with pytest.raises(InvalidArgument, match=r"arguments\.n is 7; allowed are even numbers") as caught:
        await Toolbox([tool(run)]).call(call(7))

    assert caught.value.reason == Reason.TOOL_ARGUMENTS_INVALID


async def test_a_tool_without_a_result_says_why() -> None:
    with pytest.raises(FailedPrecondition, match="no result: the moon is full") as caught:
        await Toolbox([tool(failing(ToolFailed("the moon is full")))]).call(call())

    assert caught.value.reason == Reason.TOOL_FAILED


async def test_a_defect_of_a_tool_fails_its_call_without_its_message() -> None:
    with pytest.raises(FailedPrecondition, match="unexpected ZeroDivisionError") as caught:
        await Toolbox([tool(failing(ZeroDivisionError("secret")))]).call(call())

    assert caught.value.reason == Reason.TOOL_FAILED
    assert "secret" not in caught.value.message


async def test_an_error_of_a_peer_passes_as_it_is() -> None:
    missing = error(Reason.COLLECTION_NOT_FOUND, "no such collection")
    with pytest.raises(WeftError) as caught:
        await Toolbox([tool(failing(missing))]).call(call())

    assert caught.value is missing


@pytest.mark.parametrize("result", [{}, {"n": "one"}, {"n": float("nan")}, {"n": float("inf")}, {"n": 1, "m": 2}])
async def test_a_result_that_breaks_the_output_schema_never_leaves(result: Any) -> None:
    with pytest.raises(FailedPrecondition, match="does not fit its own output schema"):
        await Toolbox([tool(giving(result))]).call(call())


async def test_a_slow_tool_is_stopped_at_its_own_timeout() -> None:
    stopped = asyncio.Event()

    async def slow(arguments: dict[str, Any], context: Context, /) -> Output:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()
        raise AssertionError

    with pytest.raises(DeadlineExceeded, match=r"did not finish within its 0\.05 s") as caught:
        await Toolbox([tool(slow, timeout_s=0.05)]).call(call())

    assert caught.value.reason == Reason.TOOL_TIMEOUT
    assert stopped.is_set()


async def test_a_timeout_within_a_tool_is_not_its_own() -> None:
    with pytest.raises(FailedPrecondition, match="something it waits for took too long"):
        await Toolbox([tool(failing(TimeoutError()))]).call(call())


class Gate:
    """A tool that waits until it is opened, and counts how many are in it at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = self.most = 0

    async def run(self, arguments: dict[str, Any], context: Context, /) -> Output:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return await echo(arguments, context)


async def test_calls_beyond_the_slots_wait_their_turn() -> None:
    gate = Gate()
    box = Toolbox([tool(gate.run, slots=2)])
    calls = [asyncio.create_task(box.call(call(n % 10))) for n in range(10)]
    await asyncio.sleep(0.02)
    assert gate.inside == 2
    gate.open.set()

    answers = await asyncio.gather(*calls)
    assert [answer.output.result["n"] for answer in answers] == list(range(10))
    assert gate.most == 2


async def test_calls_beyond_the_queue_are_refused_with_a_time_to_come_back() -> None:
    gate = Gate()
    box = Toolbox([tool(gate.run, slots=1, timeout_s=5)])
    calls = [asyncio.create_task(box.call(call())) for _ in range(1 + WAITING_PER_SLOT)]
    await asyncio.sleep(0.02)

    with pytest.raises(ResourceExhausted, match=f"{WAITING_PER_SLOT} calls wait already") as caught:
        await box.call(call())
    assert caught.value.reason == Reason.OVERLOADED
    assert caught.value.retry_after_s
    gate.open.set()
    assert len(await asyncio.gather(*calls)) == 1 + WAITING_PER_SLOT


async def test_a_call_waits_for_a_slot_no_longer_than_the_tools_timeout() -> None:
    async def lingers(arguments: dict[str, Any], context: Context, /) -> Output:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(2)  # keeps its slot although its time is up
        return await echo(arguments, context)

    box = Toolbox([tool(lingers, slots=1, timeout_s=0.1)])
    holder = asyncio.create_task(box.call(call()))
    await asyncio.sleep(0)
    with pytest.raises(WeftError) as caught:
        await box.call(call())
    assert caught.value.reason == Reason.OVERLOADED
    with pytest.raises(WeftError) as caught:
        await holder
    assert caught.value.reason == Reason.TOOL_TIMEOUT


async def test_one_tools_queue_holds_up_no_other_tool() -> None:
    gate = Gate()
    box = Toolbox([tool(gate.run, name="stuck", slots=1), tool(echo)])
    stuck = asyncio.create_task(box.call(call(name="stuck")))
    await asyncio.sleep(0)

    assert (await asyncio.wait_for(box.call(call()), 5)).output.result == {"n": 1}
    gate.open.set()
    await stuck


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share a name"):
        Toolbox([tool(echo), tool(echo)])


def test_a_tool_with_a_broken_schema_is_refused_at_once() -> None:
    broken = ToolSpec("broken", "", {"type": "objekt"}, {"type": "object"})
    with pytest.raises(ValueError, match=r"not a JSON Schema 2020-12: \$\.type"):
        Toolbox([Tool(broken, echo)])

"""What every built-in tool keeps to. A new file in services/tools/builtin is taken up by itself."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mesh import plugins
from services.tools import convert
from services.tools.settings import BUILTIN
from services.tools.toolbox import Tool, Toolbox
from services.tools.types import Call, Example, ExtractorKind, Output, Pattern
from tests.support.tools import Shelf, builtin_tools
from weft.errors import InvalidArgument, Reason, WeftError

TODAY = datetime.date(2026, 11, 12)
TOOLS = {tool.spec.name: tool for tool in builtin_tools()}
each_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
each_example = pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, tool in TOOLS.items() for example in tool.spec.examples]
)
each_pattern = pytest.mark.parametrize(
    ("name", "index"), [(name, index) for name, tool in TOOLS.items() for index in range(len(tool.spec.patterns))]
)


async def run(name: str, arguments: Any, tools: list[Tool] | None = None) -> Output:
    box = Toolbox(tools or list(TOOLS.values()))
    return (await box.call(Call(name, arguments, TODAY))).output


def test_a_tool_is_named_like_its_file() -> None:
    assert sorted(TOOLS) == plugins.available(BUILTIN)


@each_tool
def test_its_name_and_description_are_fit_to_be_shown(tool: Tool) -> None:
    assert re.fullmatch(r"[a-z0-9_]{1,64}", tool.spec.name)
    assert 20 <= len(tool.spec.description) <= 400
    assert 0 < tool.spec.timeout_s <= 30
    assert tool.spec.max_concurrency >= 1


@each_tool
def test_its_schemas_are_json_schema_2020_12_of_closed_objects(tool: Tool) -> None:
    for schema in (tool.spec.input_schema, tool.spec.output_schema):
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False


@each_tool
def test_its_spec_comes_through_the_wire_whole(tool: Tool) -> None:
    message = convert.spec(tool.spec)

    assert convert.from_struct(message.input_schema) == json.loads(json.dumps(tool.spec.input_schema))
    assert [pattern.regex for pattern in message.patterns] == [pattern.regex for pattern in tool.spec.patterns]


@each_tool
def test_it_shows_an_example(tool: Tool) -> None:
    assert tool.spec.examples


@each_example
async def test_an_example_gives_what_it_promises(name: str, example: Example) -> None:
    output = await run(name, example.arguments)

    Draft202012Validator(TOOLS[name].spec.output_schema).validate(output.result)
    assert output.text
    assert example.text in ("", output.text)


@each_example
async def test_the_same_call_again_gives_the_same(name: str, example: Example) -> None:
    assert await run(name, example.arguments) == await run(name, example.arguments)


@each_tool
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"no_such_argument": 1},
        {"expression": 7, "operation": 7, "value": "x", "query": 7, "from": 1, "to": 2},
        {"expression": float("nan"), "operation": float("nan"), "value": float("nan"), "query": float("nan")},
    ],
    ids=["none", "unknown", "wrong types", "NaN"],
)
async def test_bad_arguments_are_refused_with_path_value_and_what_is_allowed(
    tool: Tool, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await run(tool.spec.name, arguments)

    assert caught.value.reason == Reason.TOOL_ARGUMENTS_INVALID
    assert caught.value.metadata["tool"] == tool.spec.name
    assert caught.value.metadata["path"].startswith("arguments")
    assert caught.value.metadata["allowed"]
    assert caught.value.field == caught.value.metadata["path"]


@each_example
async def test_a_wrong_value_for_any_argument_is_refused(name: str, example: Example) -> None:
    for argument in example.arguments:
        with pytest.raises(WeftError) as caught:
            await run(name, {**example.arguments, argument: ["not", "that"]})
        assert caught.value.metadata["path"] == f"arguments.{argument}"


@each_example
async def test_a_megabyte_of_text_is_refused_and_not_quoted(name: str, example: Example) -> None:
    for argument, value in example.arguments.items():
        if isinstance(value, str):
            with pytest.raises(InvalidArgument) as caught:
                await run(name, {**example.arguments, argument: "x" * 1_000_000})
            assert len(caught.value.message) < 1_000


@each_tool
async def test_cancelled_calls_end_at_once_and_give_their_slots_back(tool: Tool) -> None:
    shelf = Shelf(["retry"], delay_s=30.0)
    name, arguments = tool.spec.name, tool.spec.examples[0].arguments
    box = Toolbox(builtin_tools(shelf))
    calls = [asyncio.create_task(box.call(Call(name, arguments, TODAY))) for _ in range(tool.spec.max_concurrency)]
    await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()
    started_s = time.perf_counter()
    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert time.perf_counter() - started_s < 5
    assert shelf.cancelled == sum(isinstance(end, asyncio.CancelledError) for end in ended)  # or had ended before
    shelf.delay_s = 0.0
    assert (await box.call(Call(name, arguments, TODAY))).output.text


@each_pattern
def test_a_pattern_compiles_and_fills_arguments_of_the_schema(name: str, index: int) -> None:
    spec = TOOLS[name].spec
    pattern: Pattern = spec.patterns[index]
    groups = re.compile(pattern.regex, re.IGNORECASE).groupindex
    properties = spec.input_schema["properties"]

    for extract in pattern.arguments:
        assert extract.argument in properties
        assert extract.group in groups or extract.kind is ExtractorKind.CONSTANT
    filled = {extract.argument for extract in pattern.arguments if not extract.optional}
    assert set(spec.input_schema["required"]) <= filled
    assert set(groups) <= {extract.group for extract in pattern.arguments}


# Pieces of what the patterns look for, and of what makes regular expressions backtrack.
FRAGMENTS = (
    *("1", "1+", "1 + ", "9,999,", "1, ", "(", "((1", "1)", "- ", "1%", "1 % ", "$1", "0.", "1st ", "1 squared "),
    *("twenty ", "twenty-", "two hundred and ", "two and a half ", "half a ", "a ", "minus ", "what is ", "what is 1 "),
    *("calculate ", "and ", "and 1 * ", "1 and ", "add 1, ", "sum of 1, ", "round 1 to ", "sqrt((", "max(1,(2)"),
    *("square root of ", "how many ", "how many days is it there left ", "how many days until ", "2026-11-12 "),
    *("2026-11-12 and ", "March 5 ", "March 5, 2027 ", "next friday ", "christmas ", "the ", "what day is was will "),
    *("what date is 3 ", "3 days ", "3 days from ", "2027-01-01 plus 3 ", "1 km ", "1 km in ", "how many km in 1 "),
    *("search the docs for ", "search x in ", "search for a in the docs ", "look up a b c in the ", "look up ", '"'),
    *("split ", "split a bill of ", "split 1 a b ", "1 a b c ", "1 a at ", "1% off ", "1 with a 1% ", "increase 1 by "),
    *(
        "percent of 1 is ",
        "1 is what percent of ",
        "of 1, 2 and ",
        "1 split ",
        "add 1 to 2 and add ",
        "1 km tall a b ",
        "1 km, ",
    ),
    *("90 a b c, what 1% a ", "from 2026-11-12 to 2026-11-13 ", "christmas falls on ", "do a quick search for "),
    *("in the a b docs, ", "check the docs what ", "how many 15s are in ", "largest: 1, 2 ", "1 rounded to ", "what "),
    *("how many km in a 1 km ", "to km: 1 ", "in 3 weeks, ", "3 days before 2026-11-12 ", "2026-11-12, what day is "),
    *(
        "search the a b ",
        "search the docs and tell me ",
        "find out what the docs ",
        "find a in the b c ",
        "look for the ",
    ),
    *("' ", "you ", "please ", "1乘以", "距离2027年1月1日", "今天", "x ", " "),
)


@each_pattern
def test_a_pattern_takes_milliseconds_whatever_it_searches(name: str, index: int) -> None:
    regex = re.compile(TOOLS[name].spec.patterns[index].regex, re.IGNORECASE)
    for fragment in FRAGMENTS:
        for head in ("", "what is "):
            question = (head + fragment * 1_000)[:998] + "zz"
            # Once more where it took long: a collection of garbage may fall into it.
            assert any(_search_s(regex, question) < 0.05 for _ in range(3)), (fragment, head)


def _search_s(regex: re.Pattern[str], question: str) -> float:
    started_s = time.thread_time()
    regex.search(question)
    return time.thread_time() - started_s

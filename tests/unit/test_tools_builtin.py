"""What each built-in tool answers, beyond its examples: the calendar's corners, units, failures."""

from __future__ import annotations

import datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tools import measures
from services.tools.toolbox import Toolbox
from services.tools.types import Call, Output
from tests.support.tools import Shelf, builtin_tools
from weft.errors import FailedPrecondition, InvalidArgument, Reason

TODAY = datetime.date(2026, 11, 12)


async def run(name: str, documents: Shelf | None = None, today: datetime.date = TODAY, **arguments: Any) -> Output:
    box = Toolbox(builtin_tools(documents or Shelf()))
    if "from_" in arguments:
        arguments["from"] = arguments.pop("from_")
    return (await box.call(Call(name, arguments, today))).output


async def test_the_calculator_says_clearly_that_nothing_is_divided_by_zero() -> None:
    with pytest.raises(FailedPrecondition, match="tool calculator has no result: 1/0: division by zero") as caught:
        await run("calculator", expression="1/0")

    assert caught.value.reason == Reason.TOOL_FAILED


async def test_what_is_no_arithmetic_is_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgument, match=r"arguments\.expression is '1 \+'; not arithmetic: it ends"):
        await run("calculator", expression="1 +")


async def test_the_calculators_value_is_a_number_that_json_can_hold() -> None:
    assert (await run("calculator", expression="2^1000 / 2^999")).result["value"] == 2
    assert (await run("calculator", expression="10^300")).result["value"] == 1e300


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"operation": "today"}, {"date": "2026-11-12", "weekday": "Thursday"}),
        ({"operation": "weekday", "date": "tomorrow"}, {"date": "2026-11-13", "weekday": "Friday"}),
        ({"operation": "weekday", "date": "1900-02-28"}, {"weekday": "Wednesday"}),
        ({"operation": "days_between", "start": "2024-02-28", "end": "2024-03-01"}, {"days": 2}),
        ({"operation": "days_between", "end": "2026-11-05"}, {"days": -7, "weeks": -1}),
        ({"operation": "add", "date": "2027-01-31", "amount": 1, "unit": "month"}, {"date": "2027-02-28"}),
        ({"operation": "add", "date": "2024-02-29", "amount": 1, "unit": "year"}, {"date": "2025-02-28"}),
        ({"operation": "add", "date": "2026-11-12", "amount": 14, "unit": "months"}, {"date": "2028-01-12"}),
        ({"operation": "add", "amount": 2, "unit": "weeks"}, {"date": "2026-11-26"}),
        ({"operation": "subtract", "date": "2026-03-31", "amount": 1, "unit": "month"}, {"date": "2026-02-28"}),
        ({"operation": "next_weekday", "weekday": "Thursday"}, {"date": "2026-11-19"}),
        ({"operation": "next_weekday", "weekday": "friday"}, {"date": "2026-11-13"}),
        ({"operation": "leap_year"}, {"year": 2026, "leap": False}),
        ({"operation": "leap_year", "year": 2000}, {"leap": True}),
        ({"operation": "iso_week", "date": "2027-01-01"}, {"iso_year": 2026, "iso_week": 53}),
    ],
)
async def test_the_calendar_reckons(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    result = (await run("calendar_dates", **arguments)).result

    assert {key: result[key] for key in expected} == expected


async def test_today_is_the_callers_day() -> None:
    output = await run("calendar_dates", today=datetime.date(2031, 5, 6), operation="days_between", end="2031-05-10")

    assert output.result["days"] == 4


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"operation": "weekday", "date": "2026-02-30"}, "no such day in the calendar"),
        ({"operation": "weekday", "date": "30.2.2026"}, "a day as YYYY-MM-DD, or one of today"),
        ({"operation": "days_between"}, r"arguments\.end is missing"),
        ({"operation": "add"}, r"arguments\.amount is missing"),
        ({"operation": "next_weekday", "weekday": "Someday"}, "a day of the week such as 'Friday'"),
        ({"operation": "add", "amount": 1.5}, "expected type integer"),
        ({"operation": "fly"}, "allowed are: today, weekday"),
    ],
)
async def test_the_calendar_refuses_what_it_cannot_take(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        await run("calendar_dates", **arguments)


@pytest.mark.parametrize("unit", ["day", "month", "year"])
async def test_a_day_beyond_the_calendar_is_no_result(unit: str) -> None:
    with pytest.raises(FailedPrecondition, match="outside the years 1 to 9999"):
        await run("calendar_dates", operation="add", amount=4_000_000, unit=unit)


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (1, "mi", "m", 1609.344),
        (1, "nautical mile", "km", 1.852),
        (1, "lb", "g", 453.59237),
        (1, "stone", "lb", 14),
        (-40, "°F", "°C", -40),
        (0, "K", "F", -459.67),
        (100, "celsius", "Fahrenheit", 212),
        (1, "US gallon", "L", 3.785411784),
        (1, "imperial gallon", "L", 4.54609),
        (1, "gallon", "cups", 16),
        (1, "tbsp", "tsp", 3),
        (36, "km/h", "m/s", 10),
        (1, "knot", "km/h", 1.852),
        (1, "acre", "square feet", 43560),
        (1, "hectare", "m2", 10_000),
        (1, "KiB", "B", 1024),
        (8, "Mb", "MB", 1),
        (1, "mb", "kB", 1000),
        (1, "week", "hours", 168),
        (0.1, "m", "cm", 10),
    ],
)
async def test_a_unit_becomes_another(value: float, source: str, target: str, expected: float) -> None:
    assert (await run("units", value=value, from_=source, to=target)).result["value"] == pytest.approx(expected)


@given(st.sampled_from([(a, b) for a in measures.UNITS for b in measures.UNITS if a.kind == b.kind]), st.fractions())
def test_there_and_back_is_the_very_number(pair: tuple[measures.Unit, measures.Unit], value: Fraction) -> None:
    source, target = pair

    assert measures.convert(measures.convert(value, source, target), target, source) == value


def test_every_unit_is_found_by_all_its_names() -> None:
    for unit in measures.UNITS:
        for name in (unit.symbol, *unit.words):
            assert measures.find(name) is unit, name


def test_case_counts_only_where_it_decides() -> None:
    found = {name: unit.symbol for name in ("KM", "Celsius", "MB", "Mb", "Kilometers") if (unit := measures.find(name))}

    assert found == {"KM": "km", "Celsius": "°C", "MB": "MB", "Mb": "Mbit", "Kilometers": "km"}
    assert measures.find("mB") is None


async def test_units_of_different_kinds_are_refused_with_those_that_fit() -> None:
    with pytest.raises(InvalidArgument, match="s is a unit of time, m one of length; allowed are: m, nm"):
        await run("units", value=1, from_="m", to="s")


async def test_an_unknown_unit_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"arguments\.from is 'furlong'; not a unit known here; there are: m,"):
        await run("units", value=1, from_="furlong", to="m")


async def test_nothing_is_colder_than_absolute_zero() -> None:
    with pytest.raises(FailedPrecondition, match="below absolute zero"):
        await run("units", value=-300, from_="°C", to="K")


async def test_a_value_too_large_for_a_number_is_no_result() -> None:
    with pytest.raises(FailedPrecondition, match="too large"):
        await run("units", value=1e300, from_="PB", to="bit")


async def test_a_search_quotes_the_best_passage() -> None:
    output = await run("document_search", Shelf(["A lease runs out.", "Every lease has an owner."]), query="lease")

    assert output.text == "2 passages about “lease”; the best, in Text 0: “A lease runs out.”"
    assert [hit["text"] for hit in output.result["hits"]] == ["A lease runs out.", "Every lease has an owner."]


async def test_a_search_without_a_hit_says_so() -> None:
    output = await run("document_search", Shelf(["A lease runs out."]), query="unicorns")

    assert output.text == "No passage about “unicorns” was found."
    assert output.result["hits"] == []

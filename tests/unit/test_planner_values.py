"""How a planner reads values out of words: numbers, arithmetic, days."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.planners._days import day
from services.orchestrator.planners._expressions import expression
from services.orchestrator.planners._numbers import number

TODAY = datetime.date(2026, 11, 12)  # a Thursday


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1,250", 1250),
        ("-3.5", -3.5),
        ("−40", -40),
        (".5", 0.5),
        ("zero", 0),
        ("twelve", 12),
        ("twenty-seven", 27),
        ("two hundred and five", 205),
        ("one thousand two hundred", 1200),
        ("three million", 3_000_000),
        ("a", 1),
        ("half an", 0.5),
        ("two and a half", 2.5),
        ("minus forty", -40),
        ("negative 3", -3),
    ],
)
def test_a_number_is_read(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "many", "five twenty", "twenty twelve", "hundred", "1,25", "two two", "9" * 999])
def test_what_is_no_number_is_none(text: str) -> None:
    assert number(text) is None


@given(st.integers(0, 999_999))
def test_a_number_spelt_out_is_itself_again(value: int) -> None:
    assert number(_spelt(value)) == value


def _spelt(value: int) -> str:
    small = (
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    )
    tens = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
    if value < 20:
        return small[value]
    if value < 100:
        return tens[value // 10] + (f"-{small[value % 10]}" if value % 10 else "")
    scale, word = (100, "hundred") if value < 1000 else (1000, "thousand")
    rest = f" and {_spelt(value % scale)}" if value % scale else ""
    return f"{_spelt(value // scale)} {word}{rest}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12*7", "12*7"),
        ("three times four", "3 * 4"),
        ("twelve multiplied by seven plus two", "12 * 7 + 2"),
        ("the square root of 144", "sqrt(144)"),
        ("20 percent of 85", "20% of 85"),
        ("five squared", "5^2"),
        ("2 to the power of ten", "2 ^ 10"),
        ("2 raised to the 8th power", "2 ^8"),
        ("subtract 58 from 100", "100 - 58"),
        ("multiply 3 by 4 and add 5", "(3 * 4) + 5"),
        ("add 10 and 20, then divide by 3", "(10 + 20) / 3"),
        ("add 8% sales tax to 50", "50 + 8%"),
        ("$64.80 - what's a 20% tip on that", "20% of 64.80"),
        ("percentage of 80 is 20", "20 / 80 * 100"),
        ("20 out of 80 as a percentage", "20 / 80 * 100"),
        ("186.40 evenly between 4", "186.40 / 4"),
        ("75 dollars three ways", "75 / 3"),
        ("3 shirts at 19.99 each", "3 * 19.99"),
        ("80 reduced by 15%", "80 - 15%"),
        ("smallest of 1,250, 300 and 400", "min(1250, 300, 400)"),
        ("1,499.5 rounded to the nearest integer", "round(1499.5)"),
        ("18 x 24", "18 * 24"),
        ("the cube root of 27", "27^(1/3)"),
        ("divide twelve by four", "12 / 4"),
        ("add 1,250 and 3,475", "1,250 + 3,475"),
        ("add 5 to 7", "7 + 5"),
        ("sum of four and five", "4 + 5"),
        ("average of 4, 8 and 15", "avg(4, 8, 15)"),
        ("difference between 3 and 10", "abs(3 - 10)"),
        ("half of 90", "90 / 2"),
        ("round 3.14159 to 2 decimal places", "round(3.14159, 2)"),
        ("20% tip on $85", "20% of 85"),
        ("5 less than 20", "20 - 5"),
        ("12乘以7", "12 * 7"),
        ("240的15%", "240 of 15%"),
        ("(1 + 2) * 3)", "(1 + 2) * 3"),
    ],
)
def test_arithmetic_is_read(text: str, expected: str) -> None:
    assert expression(text) == expected


@pytest.mark.parametrize(
    "text", ["42", "(42)", "-5", "7%", "(1 + 2", "1) + (2", "one twenty plus 5", "spam + 1", "", "what percentage"]
)
def test_what_reckons_nothing_is_none(text: str) -> None:
    assert expression(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-24", "2026-12-24"),
        ("2026/12/4", "2026-12-04"),
        ("5 May next year", "2027-05-05"),
        ("Christmas falls on next year", "2027-12-25"),
        ("New Year's Day in 2028", "2028-01-01"),
        ("the end of the year", "2026-12-31"),
        ("the end of next year", "2027-12-31"),
        ("boxing day last year", "2025-12-26"),
        ("March 5, 2027", "2027-03-05"),
        ("mar. 5 2027", "2027-03-05"),
        ("5th of March 2027", "2027-03-05"),
        ("the 1st of April", "2027-04-01"),
        ("November 12", "2026-11-12"),
        ("November 11", "2027-11-11"),
        ("29 February", "2028-02-29"),
        ("24.12.2026", "2026-12-24"),
        ("12/25/2026", "2026-12-25"),
        ("25/12/2026", "2026-12-25"),
        ("tomorrow", "2026-11-13"),
        ("the day before yesterday", "2026-11-10"),
        ("next Friday", "2026-11-13"),
        ("Thursday", "2026-11-19"),
        ("last Thursday", "2026-11-05"),
        ("Christmas", "2026-12-25"),
        ("New Year’s Eve", "2026-12-31"),
        ("Christmas 2030", "2030-12-25"),
        ("2027年1月1日", "2027-01-01"),
        ("明天", "2026-11-13"),
    ],
)
def test_a_day_is_read(text: str, expected: str) -> None:
    assert day(text, TODAY) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("March 5", "2026-03-05"), ("Christmas", "2025-12-25"), ("Friday", "2026-11-06"), ("29 February", "2024-02-29")],
)
def test_looking_back_a_day_without_a_year_is_the_last_one(text: str, expected: str) -> None:
    assert day(text, TODAY, past=True) == expected


@pytest.mark.parametrize("text", ["", "2026-02-30", "12/11/2026", "31.4.2026", "someday", "Martober 5", "February 30"])
def test_what_is_no_day_is_none(text: str) -> None:
    assert day(text, TODAY) is None

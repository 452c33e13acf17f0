"""The calculator's arithmetic: exact where it can be, bounded always."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tools.arithmetic import MAX_CHARS, NoResult, NotArithmetic, evaluate


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12 * 7", "84"),
        ("0.1 + 0.2", "0.3"),
        ("1/3*3", "1"),
        ("sqrt(2)^2", "2"),
        ("2 + 3 * 4 ^ 2", "50"),
        ("2^3^2", "512"),
        ("-2^2", "-4"),
        ("2^-1", "0.5"),
        ("(1 + 2) * (3 - 5)", "-6"),
        ("15% of 240", "36"),
        ("200 + 10%", "220"),
        ("80 - 25%", "60"),
        ("10% * 5", "0.5"),
        ("5% + 5%", "0.1"),
        ("17 % 5", "2"),
        ("-7 mod 3", "2"),
        ("1,250 + 3,475", "4725"),
        ("max(1,250)", "250"),
        ("min(4, 2 + 1, 9)", "3"),
        ("sum(1, 2, 3)", "6"),
        ("avg(4, 8, 15)", "9"),
        ("percent(15, 240)", "36"),
        ("round(2.5)", "3"),
        ("round(1234.567, -2)", "1200"),
        ("abs(-3) * sqrt(144)", "36"),
        ("3 × 4 ÷ 6 − 1", "1"),
        ("4x4", "16"),
        ("2**10", "1024"),
        ("0^0", "1"),
        ("99999999999999999999 * 99999999999999999999", "9999999999999999999800000000000000000001"),
    ],
)
def test_an_expression_has_its_exact_value(text: str, answer: str) -> None:
    result = evaluate(text)

    assert (result.decimal, result.exact) == (answer, True)


def test_a_value_with_endless_digits_is_marked_as_rounded() -> None:
    result = evaluate("1/3")

    assert not result.exact
    assert result.text == "1 ÷ 3 ≈ 0.333333333333333"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1/0", "division by zero"),
        ("5 mod 0", "division by zero"),
        ("0^-1", "division by zero"),
        ("sqrt(-4)", "negative number"),
        ("(-8)^0.5", "no real value"),
        ("9**9**9", "too large"),
        ("2^999999999", "too large"),
        ("1e300 * 1e300", "too large"),
        ("1e-300 * 1e-200", "too small"),
        ("round(1, 0.5)", "whole number of places"),
    ],
)
def test_what_has_no_result_says_why(text: str, problem: str) -> None:
    with pytest.raises(NoResult, match=problem):
        evaluate(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("1 +", "it ends where a number is expected"),
        ("(1 + 2", r"where '\)' is expected"),
        ("1 2", "'2' stands at position 2"),
        ("2 + spam", "'spam' is not known; there are sqrt"),
        ("__import__('os').system('true')", "no number or operator"),
        ("(lambda)()", "not known"),
        ("sqrt(1, 2)", "takes 1 number"),
        ("nan", "not known"),
        ("1" * (MAX_CHARS + 1), "at most 500"),
        ("(" * 200 + "1" + ")" * 200, "nested deeper"),
        ("-" * 200 + "1", "nested deeper"),
        ("^".join(["1"] * 200), "nested deeper"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str, problem: str) -> None:
    with pytest.raises(NotArithmetic, match=problem):
        evaluate(text)


@settings(deadline=None, max_examples=200)
@given(st.recursive(
    st.integers(0, 999).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=12,
))  # fmt: skip
def test_whole_number_arithmetic_agrees_with_fractions(text: str) -> None:
    expected = eval(text, {"__builtins__": {}})  # built above of digits, operators and parentheses alone

    assert Fraction(evaluate(text).value) == expected


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="0123456789.+-*/^%(), e×sqrtof", max_size=MAX_CHARS))
def test_any_text_ends_soon_in_a_value_or_a_clear_refusal(text: str) -> None:
    started_s = time.thread_time()
    try:
        value = evaluate(text).value
    except (NotArithmetic, NoResult) as refusal:
        assert str(refusal)
    else:
        assert value.is_finite()
        float(value)
    assert time.thread_time() - started_s < 0.25


@pytest.mark.parametrize("text", ["9" * 250 + "^" + "9" * 240, "*".join(["9e99"] * 100), "1.0000001^999999999^0.5"])
def test_the_costliest_expressions_take_milliseconds(text: str) -> None:
    started_s = time.thread_time()
    with contextlib.suppress(NoResult):
        evaluate(text)
    assert time.thread_time() - started_s < 0.1

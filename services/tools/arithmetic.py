"""Arithmetic without ``eval``: a precedence parser over decimals.

    sum      = product (("+" | "-") product)*
    product  = unary (("*" | "/" | "%" | "mod" | "of") unary)*
    unary    = ("+" | "-") unary | power
    power    = postfix ("^" unary)?                        right to left
    postfix  = atom "%"*
    atom     = number | constant | function "(" sum ("," sum)* ")" | "(" sum ")"

``%`` before an operand is the remainder, elsewhere a percentage: "15% of 240" is 36, "200 + 10%" is
220, as on a pocket calculator. ``×``, ``·``, ``÷``, ``−``, ``**`` and thousands commas are understood.

Numbers are decimals of 100 digits, answered with 50: 0.1 + 0.2 is 0.3, and what a root or a third loses
on the way is far behind what is shown. Every step costs constant time (an exponent past ±307 is refused
by the number format itself, so 9^9^9 costs nothing), and length and depth are bounded: so is the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_UP,
    Context,
    Decimal,
    DecimalException,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    Underflow,
)
from decimal import localcontext as decimal_context
from typing import Final

MAX_CHARS: Final = 500
MAX_DEPTH: Final = 32
_WORKING_DIGITS: Final = 100
_ANSWER_DIGITS: Final = 50
_PLAIN_PLACES: Final = 20  # smaller numbers are written with an exponent
_MAX_EXPONENT: Final = 307  # the largest that a double holds
_NEGLIGIBLE: Final = Decimal("1e-90")  # relative; below this a difference is rounding on the way
_CONTEXT: Final = Context(
    prec=_WORKING_DIGITS,
    Emax=_MAX_EXPONENT,
    Emin=-_MAX_EXPONENT,
    rounding=ROUND_HALF_UP,
    traps=[DivisionByZero, InvalidOperation, Overflow, Underflow],
)
_PI: Final = Decimal(
    "3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170680"
)
_E: Final = Decimal(
    "2.7182818284590452353602874713526624977572470936999595749669676277240766303535475945713821785251664274"
)
_CONSTANTS: Final = {"pi": _PI, "π": _PI, "e": _E}
_SAME: Final = {"**": "^", "×": "*", "·": "*", "x": "*", "÷": "/", "−": "-", "–": "-"}
_SHOWN: Final = {"*": "×", "/": "÷"}
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\w.]))?)|(?P<name>[^\W\d_]+)"
    r"|(?P<symbol>\*\*|[-+*/^%(),×·÷−–]))"
)
_THOUSANDS: Final = re.compile(r"\s*(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?)(?![\d,]*\d)")
_WORD_OPERATORS: Final = frozenset({"of", "mod"})
_STARTS_OPERAND: Final = frozenset({"number", "name", "("})
_SPACED: Final = frozenset({"+", "-", "*", "/"}) | _WORD_OPERATORS


class NotArithmetic(Exception):
    """The text is no arithmetic expression."""


class NoResult(Exception):
    """The expression is fine and has no result that could be given."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. ``exact`` is False where digits were lost in ``value``."""

    shown: str  # the expression, written evenly
    value: Decimal
    exact: bool

    @property
    def decimal(self) -> str:
        """All digits, in plain notation where that is short."""
        if -_PLAIN_PLACES <= self.value.adjusted() < _ANSWER_DIGITS:
            return f"{self.value:f}"
        return f"{self.value:E}" if self.value else "0"

    @property
    def text(self) -> str:
        """One sentence: "12 × 7 = 84", "1 ÷ 3 ≈ 0.333333333333333"."""
        return f"{self.shown} = {self.decimal}" if self.exact else f"{self.shown} ≈ {self.value:.15g}"


def evaluate(text: str) -> Result:
    """Work ``text`` out.

    Raises:
        NotArithmetic: with what is wrong and where.
        NoResult: division by zero, no real value, or a result that is too large.
    """
    if len(text) > MAX_CHARS:
        raise NotArithmetic(f"it has {len(text)} characters, at most {MAX_CHARS} are worked out")
    tokens = _tokens(text)
    with decimal_context(_CONTEXT):
        parser = _Parser(tokens)
        try:
            exact_value = parser.whole()
            value = exact_value.normalize(Context(prec=_ANSWER_DIGITS, Emax=_MAX_EXPONENT, Emin=-_MAX_EXPONENT))
        except Overflow as exc:
            raise NoResult(f"it is too large; results up to 1e{_MAX_EXPONENT} can be given") from exc
        except Underflow as exc:
            raise NoResult(f"it is too small; results down to 1e-{_MAX_EXPONENT} can be given") from exc
        except (DecimalException, ArithmeticError) as exc:
            raise NoResult("a step on the way has no real value, or one too large to hold") from exc
        exact = abs(exact_value - value) <= abs(value) * _NEGLIGIBLE
    return Result(_show(tokens), value, exact)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "number", "name", "end", or the symbol itself
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    inside_call: list[bool] = []  # commas separate arguments in a call's parentheses, thousands elsewhere
    position = 0
    while text[position:].strip():
        match = None if any(inside_call) else _THOUSANDS.match(text, position)
        match = match or _TOKEN.match(text, position)
        if match is None:
            raise NotArithmetic(f"{text[position:].strip()[:10]!r} at position {position} is no number or operator")
        position = match.end()
        kind = match.lastgroup or ""
        part = match.group(kind)
        if kind == "number":
            found.append(_Token(kind, part.replace(",", ""), match.start(kind)))
            continue
        symbol = _SAME.get(part.lower(), part.lower())
        if kind == "name" and symbol.isalpha():
            found.append(_Token(symbol if symbol in _WORD_OPERATORS else "name", symbol, match.start(kind)))
            continue
        if symbol == "(":
            inside_call.append(bool(found) and found[-1].kind == "name" and found[-1].text in _FUNCTIONS)
        elif symbol == ")" and inside_call:
            inside_call.pop()
        found.append(_Token(symbol, symbol, match.start(kind)))
    if not found:
        raise NotArithmetic("it is empty; give an expression such as '12 * (3 + 4)'")
    found.append(_Token("end", "", len(text)))
    return found


@dataclass(frozen=True, slots=True)
class _Number:
    value: Decimal
    percent: bool = False  # written as a bare percentage: "+ 10%" means of what stands before


class _Parser:
    """Evaluates while it parses. One use."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Decimal:
        """The value of all tokens."""
        value = self._sum().value
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")
        return +value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *kinds: str) -> _Token | None:
        token = self._next
        if token.kind in kinds:
            self._at += 1
            return token
        return None

    def _unexpected(self, wanted: str) -> NotArithmetic:
        token = self._next
        here = "it ends" if token.kind == "end" else f"{token.text!r} stands at position {token.position}"
        return NotArithmetic(f"{here} where {wanted} is expected")

    def _sum(self) -> _Number:
        left = self._product()
        while operator := self._take("+", "-"):
            right = self._product()
            amount = left.value * right.value if right.percent and not left.percent else right.value
            value = left.value + amount if operator.text == "+" else left.value - amount
            left = _Number(value, left.percent and right.percent)
        return left

    def _product(self) -> _Number:
        left = self._unary()
        while True:
            if self._take("*", "of"):
                left = _Number(left.value * self._unary().value)
            elif self._take("/"):
                left = _Number(_divide(left.value, self._unary().value))
            elif self._take("%", "mod"):
                left = _Number(_remainder(left.value, self._unary().value))
            else:
                return left

    def _unary(self) -> _Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotArithmetic(f"it is nested deeper than {MAX_DEPTH} levels")
        sign = self._take("+", "-")
        if sign is None:
            result = self._power()
        else:
            inner = self._unary()
            result = _Number(-inner.value, inner.percent) if sign.text == "-" else inner
        self._depth -= 1
        return result

    def _power(self) -> _Number:
        base = self._postfix()
        if not self._take("^"):
            return base
        exponent = self._unary().value
        if base.value == 0 and exponent < 0:
            raise NoResult(f"0 to the power of {exponent} is a division by zero")
        if base.value == 0 and exponent == 0:
            return _Number(Decimal(1))
        if base.value < 0 and exponent != exponent.to_integral_value():
            raise NoResult("a negative number to a broken power has no real value")
        return _Number(base.value**exponent)

    def _postfix(self) -> _Number:
        value, percent = self._atom(), False
        while self._next.kind == "%" and self._tokens[self._at + 1].kind not in _STARTS_OPERAND:
            self._at += 1
            value, percent = value / 100, True
        return _Number(value, percent)

    def _atom(self) -> Decimal:
        if token := self._take("number"):
            return Decimal(token.text)
        if self._take("("):
            value = self._sum().value
            self._close()
            return value
        token = self._next
        if token.kind == "name" and token.text in _CONSTANTS:
            self._at += 1
            return _CONSTANTS[token.text]
        if token.kind == "name" and token.text in _FUNCTIONS:
            self._at += 1
            return self._call(token.text)
        if token.kind == "name":
            raise NotArithmetic(f"{token.text[:20]!r} is not known; there are {', '.join(FUNCTION_NAMES)}, pi and e")
        raise self._unexpected("a number")

    def _call(self, name: str) -> Decimal:
        if not self._take("("):
            raise self._unexpected(f"'(' behind {name}")
        arguments = [self._sum().value]
        while self._take(","):
            arguments.append(self._sum().value)
        self._close()
        function, least, most = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise NotArithmetic(f"{name} takes {wanted} number(s), not {len(arguments)}")
        return function(arguments)

    def _close(self) -> None:
        if not self._take(")"):
            raise self._unexpected("')'")


def _divide(left: Decimal, right: Decimal) -> Decimal:
    if right == 0:
        raise NoResult("division by zero; give a divisor other than 0")
    return left / right


def _remainder(left: Decimal, right: Decimal) -> Decimal:
    if right == 0:
        raise NoResult("remainder of a division by zero; give a divisor other than 0")
    rest = left % right
    return rest + right if rest != 0 and (rest < 0) != (right < 0) else rest  # the divisor's sign, as in mathematics


def _root(arguments: list[Decimal]) -> Decimal:
    if arguments[0] < 0:
        raise NoResult("the square root of a negative number is not a real number")
    return arguments[0].sqrt()


def _round(arguments: list[Decimal]) -> Decimal:
    places = arguments[1] if len(arguments) > 1 else Decimal(0)
    if places != places.to_integral_value() or abs(places) > _ANSWER_DIGITS:
        raise NoResult(f"round takes a whole number of places from -{_ANSWER_DIGITS} to {_ANSWER_DIGITS}")
    return arguments[0].quantize(Decimal(1).scaleb(-int(places)), rounding=ROUND_HALF_UP)


def _total(arguments: list[Decimal]) -> Decimal:
    return sum(arguments, Decimal(0))


_MANY: Final = 100
# name -> (function, fewest arguments, most arguments)
_FUNCTIONS: Final[dict[str, tuple[Callable[[list[Decimal]], Decimal], int, int]]] = {
    "sqrt": (_root, 1, 1),
    "abs": (lambda a: abs(a[0]), 1, 1),
    "round": (_round, 1, 2),
    "min": (min, 1, _MANY),
    "max": (max, 1, _MANY),
    "sum": (_total, 1, _MANY),
    "avg": (lambda a: _total(a) / len(a), 1, _MANY),
    "percent": (lambda a: a[0] / 100 * a[1], 2, 2),
}
FUNCTION_NAMES: Final = tuple(_FUNCTIONS)


def _show(tokens: list[_Token]) -> str:
    """The expression with spaces around operators between operands, and none elsewhere."""
    parts: list[str] = []
    operand_before = False
    for index, token in enumerate(tokens[:-1]):
        follower = tokens[index + 1]
        spaced = token.kind in _SPACED or (token.kind == "%" and follower.kind in _STARTS_OPERAND)
        shown = _SHOWN.get(token.kind, token.text)
        if spaced and operand_before:
            parts.append(f" {shown} ")
            operand_before = False
        elif token.kind == ",":
            parts.append(", ")
            operand_before = False
        else:
            parts.append(shown)
            operand_before = token.kind in {"number", ")", "%"} or token.text in _CONSTANTS
    return "".join(parts)

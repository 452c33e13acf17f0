"""Units: a value from one unit of measure into another of its kind. The units stand in ``measures.py``."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from services.tools import measures
from services.tools.builtin._wording import AMOUNT, ANY_NUMBER, ASK, BEGIN, END, NUMBER, any_of
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import (
    BadArgument,
    Context,
    Example,
    Output,
    Pattern,
    ToolFailed,
    ToolSpec,
    number,
    text,
)

_SHOWN_DIGITS: Final = 10
_NO_SECOND_PART: Final = "".join(
    rf"(?<!\d{space}{unit}{join})"
    for space in ("", " ")
    for unit in ("feet", "foot", "ft", "pounds", "pound", "lbs", "lb", "stone", "hours", "hour", "minutes", "minute")
    for join in (" ", " and ", ", ")
)
_HOW: Final = r"(?:what|how (?:much|many|long|far|tall|high|heavy|warm|hot|cold|fast|big))"
# What may stand between a measure and a question about it: " tall,", " outside; and", ". So"
_ASIDE: Final = r"(?: (?!what\b|how\b)[a-z]{1,12}+){0,3}?(?>(?:[,.;:?!]|,? [-–—])?) (?:(?:and|so|but|then) )?"


def _patterns(kind: str) -> tuple[Pattern, ...]:
    """Ways to ask for a conversion within one kind: units of another kind never match, so "100 meters in
    seconds" asks for nothing."""
    names = any_of(*(name.replace(" ", "[ -]").replace("^", r"\^") for name in measures.names_of(kind)))
    degree = "(?:°|degrees? )?" if kind == "temperature" else ""
    unit = rf"{degree}{names}(?![\w³²^/])"
    # "5 feet 11 inches" is no 11 inches, nor is "2 hours and 10 minutes" 10 minutes.
    bare = rf"(?<![\w.,/+*'-]){_NO_SECOND_PART}(?<!\d['’′] )"
    value = rf"{bare}(?P<value>(?:minus |negative )?{AMOUNT})[ -]?"
    source = rf"(?P<from>{unit})"
    arguments = (number("value"), text("from"), text("to"))
    return (
        # 10 miles in km; convert 3 feet to metres; 70 kg, how much is that in pounds
        Pattern(
            rf"{value}{source}(?: of [a-z]++)?(?>(?: (?:is|are|equals?|makes?|be|would be|weighs?|measures?"
            r"|comes?(?: out)?|works? out|what))?)[,.;:?]?+"
            rf" (?:in|to|into|as|in terms of|expressed in|converted (?:in)?to|->|→) (?P<to>{unit}){END}",
            arguments,
        ),
        # I'm 68 inches tall, what's that in cm; the parcel weighs 3 kg. How much is that in pounds
        Pattern(
            rf"{value}{source}{_ASIDE}{_HOW}(?:['’]?s| is| are| was| would| will| does)? (?:that|it|this|those|they)"
            rf"(?>(?: (?:be|come to|make|equal|weigh|measure))?) (?:in|to|into|as) (?P<to>{unit}){END}",
            arguments,
        ),
        # 500 ml is what in cups
        Pattern(
            rf"{value}{source} (?:is|are|equals?) (?:what|how much) in (?P<to>{unit}){END}",
            arguments,
        ),
        # how many grams are in 3 ounces; how many feet is 1.85 m; how many feet does a mile have
        Pattern(
            rf"\bhow (?:many|much) (?P<to>{unit})(?>(?: (?:is|are|there|do|does|will|would|can|make up|makes?|fit|go"
            rf"|equals?|be|you get|i get|we get)\b){{0,3}})(?>(?: (?:in|into|to|from|for))?) "
            rf"(?>(?:an? (?=\d))?)(?P<value>{AMOUNT})[ -]?{source}"
            rf"(?: of [a-z]++)?(?>(?: (?:have|has|make|equals?|contain|hold|is|are|be|weigh|come to|amount to))?){END}",
            arguments,
        ),
        # how many cups in a 2 litre bottle
        Pattern(
            rf"\bhow (?:many|much) (?P<to>{unit})(?>(?: (?:is|are|there|do|does|will|would)\b){{0,2}})"
            rf"(?>(?: (?:in|from))?)"
            rf" (?:an?|one|my|the) (?P<value>{NUMBER})[ -]?{source} [a-z]++"
            rf"(?>(?: (?:have|has|make|equal|contain|hold|be|weigh|last|take))?){END}",
            arguments,
        ),
        # what is the number of seconds in a week
        Pattern(
            rf"(?:{ASK}|{BEGIN})(?:the )?number of (?P<to>{unit}) (?:in|per) (?P<value>{AMOUNT})[ -]?{source}{END}",
            arguments,
        ),
        # a box weighs 12 ounces, how many grams is that
        Pattern(
            rf"{value}{source}{_ASIDE}how many (?P<to>{unit}) (?:is|are|was|would|will|does|do) "
            rf"(?:that|it|this|those|they)(?>(?: (?:make|be|come to|equal))?){END}",
            arguments,
        ),
        # 100 meters equals how many feet, a 5-mile walk is how many km
        Pattern(
            rf"{value}{source}(?: (?!in\b)[a-z]++)? (?:is|are|equals?|makes?|would be|in|=) "
            rf"how many (?P<to>{unit}){END}",
            arguments,
        ),
        # in kilometres, how far is 26 miles; convert to km: 5 miles; the area in hectares of 12 acres
        Pattern(
            rf"\b(?:in|into|to) (?P<to>{unit})(?:,? {_HOW}(?:['’]?s| is| are)|:| is| are| of| for) "
            rf"(?P<value>{AMOUNT})[ -]?{source}{END}",
            arguments,
        ),
    )


_NAMES: Final = any_of(*(name.replace("^", r"\^") for kind in measures.KINDS for name in measures.names_of(kind)))
_HINT: Final = rf"{ANY_NUMBER}|\b(?:an?|one) {_NAMES}\b"

SPEC: Final = ToolSpec(
    name="units",
    description=(
        f"Converts a value between units of the same kind ({', '.join(measures.KINDS)}): "
        "miles to km, °F to °C, cups to mL, MB to MiB, hours to seconds."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "value": {"type": "number", "minimum": -1e300, "maximum": 1e300},
            "from": {"type": "string", "minLength": 1, "maxLength": 40, "description": "unit, such as 'miles', 'km/h'"},
            "to": {"type": "string", "minLength": 1, "maxLength": 40, "description": "unit of the same kind"},
        },
        "required": ["value", "from", "to"],
        "additionalProperties": False,
    },
    output_schema={
        "type": "object",
        "properties": {
            "value": {"type": "number"},
            "unit": {"type": "string", "description": "symbol of the unit of `value`"},
            "from_value": {"type": "number"},
            "from_unit": {"type": "string"},
            "kind": {"enum": list(measures.KINDS)},
        },
        "required": ["value", "unit", "from_value", "from_unit", "kind"],
        "additionalProperties": False,
    },
    timeout_s=1.0,
    max_concurrency=64,
    hint=_HINT,
    patterns=tuple(pattern for kind in measures.KINDS for pattern in _patterns(kind)),
    examples=(
        Example({"value": 10, "from": "miles", "to": "km"}, "10 mi = 16.09344 km"),
        Example({"value": 98.6, "from": "°F", "to": "Celsius"}, "98.6 °F = 37 °C"),
        Example({"value": 1, "from": "week", "to": "seconds"}, "1 week = 604800 s"),
        Example({"value": 2, "from": "GB", "to": "MiB"}, "2 GB ≈ 1907.348633 MiB"),
    ),
)


def open(documents: DocumentFinder) -> ToolFunction:
    """Units need nothing."""
    return convert


async def convert(arguments: dict[str, Any], context: Context, /) -> Output:
    """Convert ``arguments["value"]``."""
    source, target = _unit("from", arguments["from"]), _unit("to", arguments["to"])
    if source.kind != target.kind:
        raise BadArgument(
            "to",
            arguments["to"],
            f"{target.symbol} is a unit of {target.kind}, {source.symbol} one of {source.kind}; "
            f"allowed are: {_listed(source.kind)}",
        )
    given = Fraction(repr(arguments["value"]))  # the decimal that was written, not the double nearest to it
    if source.kind == "temperature" and given * source.factor + source.offset < 0:
        raise ToolFailed(f"{_plain(given)} {source.symbol} is below absolute zero, 0 K")
    exact = measures.convert(given, source, target)
    try:
        value = float(exact)
    except OverflowError as exc:
        raise ToolFailed(f"the value in {target.symbol} is too large for a number") from exc
    shown = _plain(exact)
    same = "=" if Fraction(shown) == exact else "≈"
    result = {
        "value": value,
        "unit": target.symbol,
        "from_value": arguments["value"],
        "from_unit": source.symbol,
        "kind": source.kind,
    }
    return Output(result, f"{_plain(given)} {source.symbol} {same} {shown} {target.symbol}")


def _unit(argument: str, name: str) -> measures.Unit:
    unit = measures.find(name)
    if unit is None:
        raise BadArgument(argument, name, f"not a unit known here; there are: {_listed()}")
    return unit


def _listed(kind: str = "") -> str:
    return ", ".join(unit.symbol for unit in measures.UNITS if kind in ("", unit.kind))


def _plain(value: Fraction) -> str:
    """At most ten significant digits, without an exponent where it is short."""
    rounded = Decimal(f"{Decimal(value.numerator) / Decimal(value.denominator):.{_SHOWN_DIGITS}g}").normalize()
    return f"{rounded:f}" if -7 < rounded.adjusted() < 16 else f"{rounded:e}"

"""Units of measure and the exact factors between them.

Each unit is ``factor`` base units of its kind, temperatures besides with an ``offset``:
base = value × factor + offset. All factors are exact by definition; the conversions run in fractions,
so converting there and back gives the very number.

Sources: the SI Brochure, 9th edition (BIPM, 2019), for metric units and those accepted beside them;
NIST Special Publication 811 (2008), appendix B, and NIST Handbook 44, appendix C, for the others: the
international yard of 0.9144 m and pound of 0.45359237 kg (1959), the US gallon of 231 cubic inches, the
UK gallon of 4.54609 litres, the nautical mile of 1,852 m, the acre of 4,840 square yards; a year counts
365 days as in SP 811. IEC 80000-13 for bytes: kB is 1,000, KiB is 1,024. Months are no unit: they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit. ``symbol`` is its name in results; ``words`` are what people write."""

    kind: str
    symbol: str
    factor: Fraction
    words: tuple[str, ...]
    offset: Fraction = Fraction(0)


def _unit(kind: str, symbol: str, factor: str | int | Fraction, *words: str, offset: Fraction = Fraction(0)) -> Unit:
    return Unit(kind, symbol, Fraction(factor), words, offset)


_FOOT: Final = Fraction("0.3048")
_POUND: Final = Fraction("0.45359237")
_US_GALLON: Final = 231 * Fraction("0.0254") ** 3  # cubic metres
_UK_GALLON: Final = Fraction("0.00454609")
_KELVIN_AT_0_C: Final = Fraction("273.15")

UNITS: Final[tuple[Unit, ...]] = (
    _unit("length", "m", "1", "meter", "meters", "metre", "metres"),
    _unit("length", "nm", "1e-9", "nanometer", "nanometers", "nanometre", "nanometres"),
    _unit("length", "µm", "1e-6", "um", "micrometer", "micrometers", "micrometre", "micrometres", "micron", "microns"),
    _unit("length", "mm", "0.001", "millimeter", "millimeters", "millimetre", "millimetres"),
    _unit("length", "cm", "0.01", "centimeter", "centimeters", "centimetre", "centimetres"),
    _unit("length", "km", "1000", "kilometer", "kilometers", "kilometre", "kilometres", "kms"),
    _unit("length", "in", _FOOT / 12, "inch", "inches"),
    _unit("length", "ft", _FOOT, "foot", "feet"),
    _unit("length", "yd", _FOOT * 3, "yard", "yards", "yds"),
    _unit("length", "mi", _FOOT * 5280, "mile", "miles"),
    _unit("length", "nmi", "1852", "nautical mile", "nautical miles"),
    _unit("mass", "kg", "1", "kilogram", "kilograms", "kilo", "kilos", "kgs"),
    _unit("mass", "g", "0.001", "gram", "grams", "gramme", "grammes"),
    _unit("mass", "mg", "1e-6", "milligram", "milligrams"),
    _unit("mass", "µg", "1e-9", "ug", "mcg", "microgram", "micrograms"),
    _unit("mass", "t", "1000", "tonne", "tonnes", "metric ton", "metric tons"),
    _unit("mass", "lb", _POUND, "lbs", "pound", "pounds"),
    _unit("mass", "oz", _POUND / 16, "ounce", "ounces"),
    _unit("mass", "st", _POUND * 14, "stone", "stones"),
    _unit("mass", "short ton", _POUND * 2000, "short tons", "us ton", "us tons", "ton", "tons"),
    _unit("temperature", "K", "1", "kelvin", "kelvins"),
    _unit("temperature", "°C", "1", "c", "celsius", "degrees celsius", "degree celsius", "degrees c", "centigrade",
          offset=_KELVIN_AT_0_C),
    _unit("temperature", "°F", "5/9", "f", "fahrenheit", "degrees fahrenheit", "degree fahrenheit", "degrees f",
          offset=_KELVIN_AT_0_C - 32 * Fraction(5, 9)),
    _unit("volume", "m³", "1", "m3", "m^3", "cubic meter", "cubic meters", "cubic metre", "cubic metres"),
    _unit("volume", "L", "0.001", "l", "liter", "liters", "litre", "litres"),
    _unit("volume", "mL", "1e-6", "ml", "milliliter", "milliliters", "millilitre", "millilitres", "cc",
          "cubic centimeter", "cubic centimeters", "cubic centimetre", "cubic centimetres"),
    _unit("volume", "cL", "1e-5", "cl", "centiliter", "centiliters", "centilitre", "centilitres"),
    _unit("volume", "gal", _US_GALLON, "gallon", "gallons", "us gallon", "us gallons"),
    _unit("volume", "qt", _US_GALLON / 4, "quart", "quarts", "us quart", "us quarts"),
    _unit("volume", "pt", _US_GALLON / 8, "pint", "pints", "us pint", "us pints"),
    _unit("volume", "cup", _US_GALLON / 16, "cups", "us cup", "us cups"),
    _unit("volume", "fl oz", _US_GALLON / 128, "fluid ounce", "fluid ounces", "us fluid ounce", "us fluid ounces"),
    _unit("volume", "tbsp", _US_GALLON / 256, "tablespoon", "tablespoons"),
    _unit("volume", "tsp", _US_GALLON / 768, "teaspoon", "teaspoons"),
    _unit("volume", "imp gal", _UK_GALLON, "imperial gallon", "imperial gallons", "uk gallon", "uk gallons"),
    _unit("volume", "imp pt", _UK_GALLON / 8, "imperial pint", "imperial pints", "uk pint", "uk pints"),
    _unit("volume", "ft³", _FOOT**3, "ft3", "ft^3", "cubic foot", "cubic feet"),
    _unit("volume", "in³", (_FOOT / 12) ** 3, "in3", "in^3", "cubic inch", "cubic inches"),
    _unit("speed", "m/s", "1", "mps", "meters per second", "metres per second", "meter per second"),
    _unit("speed", "km/h", Fraction(5, 18), "kmh", "kph", "km per hour", "kilometers per hour", "kilometres per hour",
          "kilometers an hour", "kilometres an hour"),
    _unit("speed", "mph", _FOOT * 5280 / 3600, "mi/h", "miles per hour", "miles an hour"),
    _unit("speed", "kn", Fraction(1852, 3600), "kt", "knot", "knots"),
    _unit("speed", "ft/s", _FOOT, "fps", "feet per second"),
    _unit("area", "m²", "1", "m2", "m^2", "sqm", "sq m", "square meter", "square meters", "square metre",
          "square metres"),
    _unit("area", "cm²", "0.0001", "cm2", "cm^2", "square centimeter", "square centimeters", "square centimetre",
          "square centimetres"),
    _unit("area", "km²", "1e6", "km2", "km^2", "sq km", "square kilometer", "square kilometers", "square kilometre",
          "square kilometres"),
    _unit("area", "ha", "10000", "hectare", "hectares"),
    _unit("area", "acre", _FOOT**2 * 43560, "acres", "ac"),
    _unit("area", "ft²", _FOOT**2, "ft2", "ft^2", "sqft", "sq ft", "square foot", "square feet"),
    _unit("area", "in²", (_FOOT / 12) ** 2, "in2", "in^2", "sq in", "square inch", "square inches"),
    _unit("area", "yd²", (_FOOT * 3) ** 2, "yd2", "yd^2", "square yard", "square yards"),
    _unit("area", "mi²", (_FOOT * 5280) ** 2, "mi2", "mi^2", "sq mi", "square mile", "square miles"),
    _unit("data", "B", "1", "byte", "bytes"),
    _unit("data", "bit", Fraction(1, 8), "bits"),
    _unit("data", "kB", "1e3", "KB", "kilobyte", "kilobytes"),
    _unit("data", "MB", "1e6", "mb", "megabyte", "megabytes"),
    _unit("data", "GB", "1e9", "gb", "gigabyte", "gigabytes"),
    _unit("data", "TB", "1e12", "terabyte", "terabytes"),
    _unit("data", "PB", "1e15", "petabyte", "petabytes"),
    _unit("data", "kbit", 125, "kilobit", "kilobits"),
    _unit("data", "Mbit", 125_000, "Mb", "megabit", "megabits"),
    _unit("data", "Gbit", 125_000_000, "Gb", "gigabit", "gigabits"),
    _unit("data", "KiB", 2**10, "kibibyte", "kibibytes"),
    _unit("data", "MiB", 2**20, "mebibyte", "mebibytes"),
    _unit("data", "GiB", 2**30, "gibibyte", "gibibytes"),
    _unit("data", "TiB", 2**40, "tebibyte", "tebibytes"),
    _unit("time", "s", "1", "sec", "secs", "second", "seconds"),
    _unit("time", "ms", "0.001", "millisecond", "milliseconds"),
    _unit("time", "µs", "1e-6", "us", "microsecond", "microseconds"),
    _unit("time", "ns", "1e-9", "nanosecond", "nanoseconds"),
    _unit("time", "min", "60", "mins", "minute", "minutes"),
    _unit("time", "h", "3600", "hr", "hrs", "hour", "hours"),
    _unit("time", "day", "86400", "d", "days"),
    _unit("time", "week", "604800", "weeks", "wk", "wks"),
    _unit("time", "year", "31536000", "years", "yr", "yrs"),
)  # fmt: skip
KINDS: Final = tuple(dict.fromkeys(unit.kind for unit in UNITS))


def _names(unit: Unit) -> tuple[str, ...]:
    return (unit.symbol, *unit.words)


_EXACT: Final[Mapping[str, Unit]] = {name: unit for unit in UNITS for name in _names(unit)}


def _without_case() -> Mapping[str, Unit]:
    """Names whose case doesn't matter: those that only one unit has in any case. "mB" is none of
    them, since Mb is a megabit and MB a megabyte (which is also what people mean by "mb")."""
    owners: dict[str, set[str]] = {}
    for unit in UNITS:
        for name in _names(unit):
            owners.setdefault(name.lower(), set()).add(unit.symbol)
    return {name.lower(): unit for name, unit in _EXACT.items() if len(owners[name.lower()]) == 1}


_ANY_CASE: Final = _without_case()


def find(name: str) -> Unit | None:
    """The unit that people call ``name``; None when there is none, or when its case decides."""
    tidy = " ".join(name.split()).removesuffix(".")
    return _EXACT.get(tidy) or _ANY_CASE.get(tidy.lower())


def names_of(kind: str) -> list[str]:
    """All names of the units of ``kind``."""
    return [name for unit in UNITS if unit.kind == kind for name in _names(unit)]


def convert(value: Fraction, source: Unit, target: Unit) -> Fraction:
    """``value`` of ``source`` in ``target``, exactly. Both are of one kind."""
    return (value * source.factor + source.offset - target.offset) / target.factor

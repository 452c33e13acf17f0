"""What tokens cost, by the operator's price table. Decimal throughout: no sum of money is ever a float.

    WEFT_GENERATOR__PRICES='{"gpt": {"input": 2.5, "cached": 1.25, "output": 10, "currency": "USD"}}'

Prices are per million tokens, so the cost of one token in millionths of the currency is just its price.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from weft.values import Usage

EXAMPLE: Final = '{"gpt": {"input": 2.5, "cached": 1.25, "output": 10, "currency": "USD"}}'
MAX_PRICE: Final = Decimal(1_000_000)
MAX_DIGITS: Final = 12
_NUMBERS: Final = ("input", "cached", "output")
_KEYS: Final = (*_NUMBERS, "currency")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, per million."""

    input: Decimal
    cached: Decimal
    """Of input that the backend had in its cache."""
    output: Decimal
    currency: str
    """ISO 4217."""

    def micros(self, usage: Usage) -> Decimal:
        """The exact cost, in millionths of the currency."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        return (usage.input_tokens - cached) * self.input + cached * self.cached + usage.output_tokens * self.output


def whole(micros: Decimal) -> int:
    """Millionths as they go over the wire."""
    return int(micros.quantize(Decimal(1), ROUND_HALF_UP))


def parse(text: str) -> dict[str, Any]:
    """Read a JSON object, numbers as Decimal.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except ValueError as err:
        raise ValueError(f"is no JSON object ({err}); an example is {EXAMPLE}") from None
    if not isinstance(found, dict):
        raise ValueError(f"is no JSON object; an example is {EXAMPLE}")
    return found


def check(name: str, given: object) -> Price:
    """Check the prices of one model.

    Raises:
        ValueError: what is wrong, with the model's name.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}: is no object; an example is {EXAMPLE}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"{name}: {key!r} is no part of a price; there are: {', '.join(_KEYS)}")
    currency = given.get("currency", "")
    if not isinstance(currency, str) or len(currency) != 3 or not (currency.isascii() and currency.isupper()):
        raise ValueError(f"{name}: currency is {currency!r}; it must be three capital letters, such as USD")
    numbers = {"cached": given.get("input"), **given}
    amounts = {key: _number(name, key, numbers.get(key)) for key in _NUMBERS}
    return Price(**amounts, currency=currency)


def _number(name: str, key: str, value: object) -> Decimal:
    if value is None:
        raise ValueError(f"{name}: {key} is missing; it is the price of a million tokens")
    if not isinstance(value, Decimal) or not value.is_finite() or not 0 <= value <= MAX_PRICE:
        raise ValueError(f"{name}: {key} is {str(value)[:40]}; allowed is a number from 0 to {MAX_PRICE}")
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MAX_DIGITS:
        raise ValueError(f"{name}: {key} is {str(value)[:40]}; allowed are {MAX_DIGITS} digits behind the point")
    return value

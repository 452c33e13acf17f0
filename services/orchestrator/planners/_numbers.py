"""Numbers as people write them: "1,250", "12.5", "twenty-seven", "two hundred and five", "a", "half a",
"two and a half"."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = {
    word: value
    for value, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
_TENS: Final = {
    word: 10 * value
    for value, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_ANY: Final = "|".join((*_UNITS, *_TENS, "hundred", *_SCALES))
IN_WORDS: Final = re.compile(rf"\b(?:{_ANY})\b(?>(?:(?:[ -]| and )(?:{_ANY})\b)*)")
_IN_DIGITS: Final = re.compile(r"[-−]? ?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-−]? ?\.\d+")
_ARTICLES: Final = {"a": Decimal(1), "an": Decimal(1), "half a": Decimal("0.5"), "half an": Decimal("0.5")}
_AND_A_HALF: Final = " and a half"
_MAX_CHARS: Final = 200


def words_to_int(words: str) -> int | None:
    """The number that English ``words`` spell; None when they spell none ("five twenty")."""
    total, part, below = 0, 0, 10**12  # `below`: what the next word of this part may be at most
    for word in re.split(r"[ -]", words):
        if word == "and":
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            if part == 0 or (total and total % (scale * 1000)):
                return None
            total, part, below = total + part * scale, 0, 10**12
        elif word == "hundred":
            if not 0 < part < 20 or below == 100:
                return None
            part, below = part * 100, 100
        else:
            value = _UNITS.get(word, _TENS.get(word, -1))
            if value < 0 or value >= below or (part and below == 10**12):
                return None
            part, below = part + value, 10 if word in _TENS else 0
    return total + part


def number(text: str) -> int | float | None:
    """The value of ``text``; None when it is no number."""
    tidy = text.strip().lower()
    if len(tidy) > _MAX_CHARS:
        return None
    sign = 1
    for word in ("minus ", "negative "):
        if tidy.startswith(word):
            sign, tidy = -1, tidy.removeprefix(word)
    half = tidy.endswith(_AND_A_HALF)
    tidy = tidy.removesuffix(_AND_A_HALF)
    if _IN_DIGITS.fullmatch(tidy):
        value = Decimal(tidy.replace(",", "").replace("−", "-").replace(" ", ""))
    elif tidy in _ARTICLES:
        value = _ARTICLES[tidy]
    else:
        spelt = words_to_int(tidy)
        if spelt is None:
            return None
        value = Decimal(spelt)
    value = sign * (value + Decimal("0.5") if half else value)
    return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)

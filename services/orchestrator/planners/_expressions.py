"""Arithmetic as people say it, turned into arithmetic as calculators take it.

    "twelve times seven"           12 * 7
    "the square root of 144"       sqrt(144)
    "20 percent of 85"             20% of 85
    "subtract 58 from 100"         100 - 58
    "the average of 4, 8 and 15"   avg(4, 8, 15)
    "12乘以7"                       12 * 7

What comes out has an operator or a function and balanced parentheses, or nothing comes out at all: a
bare number is no request to reckon.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from services.orchestrator.planners._numbers import IN_WORDS, words_to_int

_HALVES: Final = re.compile(r"(?<![\d.,])(\d+) and a half\b")
_LIST_COMMA: Final = re.compile(r",(?=\s)(?: and)?\s|\s(?:and|&)\s")
_OPERATORS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?:the )?square root of ([\d.,]*\d)", r"sqrt(\1)"),
        (r"[$€£]", ""),
        (r"\bnegative ", "-"),
        (r"(?:raised )?to the (\d+)(?:st|nd|rd|th) power", r"^\1"),
        (r"(?:raised )?to the power of", "^"),
        (r"multiplied by|\btimes\b|乘以?", " * "),
        (r"divided by|\bover\b|除以?", " / "),
        (r"\bplus\b|加上?", " + "),
        (r"\bminus\b|减去?", " - "),
        (r"\bmodulo\b|\bmod\b", " mod "),
        (r"(?<=%)\s?的|的(?=\s?[\d.]+\s?%)", " of "),
        (r"\s?percent\b", "%"),
        (r"\s?squared\b", "^2"),
        (r"\s?cubed\b", "^3"),
        (r"×|·", " * "),
        (r"÷", " / "),
        (r"[−–]", "-"),
    )
)
_SPOKEN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = tuple(
    (re.compile(pattern), write)
    for pattern, write in (
        (r"multiply (.+?) (?:by|with|and|times) (.+)", lambda m: f"{m[1]} * {m[2]}"),
        (r"divide (.+?) by (.+)", lambda m: f"{m[1]} / {m[2]}"),
        (r"(?:subtract|take)(?: away)? (.+?)(?: away)? from (.+)", lambda m: f"{m[2]} - {m[1]}"),
        (r"add (.+?) to (.+)", lambda m: f"{m[2]} + {m[1]}"),
        (r"add (.+)", lambda m: _joined(" + ", m[1])),
        (r"(?:sum|total) of (.+)", lambda m: _joined(" + ", m[1])),
        (r"product of (.+)", lambda m: _joined(" * ", m[1])),
        (r"(?:average|mean) of (.+)", lambda m: f"avg({_joined(', ', m[1])})"),
        (r"(?:maximum|largest|biggest|highest) of (.+)", lambda m: f"max({_joined(', ', m[1])})"),
        (r"(?:minimum|smallest|lowest) of (.+)", lambda m: f"min({_joined(', ', m[1])})"),
        (r"difference (?:between|of) (.+?) and (.+)", lambda m: f"abs({m[1]} - {m[2]})"),
        (r"quotient (?:between|of) (.+?) and (.+)", lambda m: f"{m[1]} / {m[2]}"),
        (r"(.+?) less than (.+)", lambda m: f"{m[2]} - {m[1]}"),
        (r"(.+?) more than (.+)", lambda m: f"{m[2]} + {m[1]}"),
        (r"remainder (?:of|when|if) (.+?) (?:is )?divided by (.+)", lambda m: f"{m[1]} mod {m[2]}"),
        (r"round (.+?) to the nearest (?:integer|whole number)", lambda m: f"round({m[1]})"),
        (r"round (.+?) to (\d+) (?:decimals?|digits|(?:decimal )?places)", lambda m: f"round({m[1]}, {m[2]})"),
        (r"(?:an? )?([\d.]+) ?(?:%|percent) [a-z]+ (?:on|of) (.+)", lambda m: f"{m[1]}% of {m[2]}"),
        (r"square of (.+)", lambda m: f"{m[1]}^2"),
        (r"cube of (.+)", lambda m: f"{m[1]}^3"),
        (r"([\d., &]+(?:and [\d.,]+)+)", lambda m: _joined(" + ", m[1])),  # what do 4 and 5 add up to
        (r"(?:twice|double) (.+)", lambda m: f"2 * {m[1]}"),
        (r"half(?: of)? (.+)", lambda m: f"{m[1]} / 2"),
        (r"(an?|\d+) (hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?) of (.+)", lambda m: _share(*m.groups())),
        (r"([\d.]+) ?(?:%|percent) off(?: of)? (.+)", lambda m: f"{m[2]} - {m[1]}%"),
    )
)
_PARTS: Final = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "ten": 10}
# A sign or a function between or before operands; "(42)", "-5" and "7%" reckon nothing.
_RECKONS: Final = re.compile(r"(?:[\d)%π]|\bpi)\s*(?:[-+*/^]|%\s*[\d(]|of\b|mod\b)|[a-z]{3,}\s?\(")
_FOREIGN: Final = re.compile(
    r"[^\d\s.,+\-*/^%()a-zπ]|\b(?!(?:of|mod|x|e|pi|sqrt|abs|round|min|max|sum|avg|percent)\b)[a-z]{2,}"
)


def expression(text: str) -> str | None:
    """``text`` as an expression; None when it reckons nothing."""
    said = " ".join(text.lower().split())
    spelt = _spell_out(said)
    if spelt is None:
        return None
    for pattern, write in _SPOKEN:
        match = pattern.fullmatch(spelt)
        if match:
            spelt = write(match)
            break
    for pattern, replacement in _OPERATORS:
        spelt = pattern.sub(replacement, spelt)
    tidy = _balanced(" ".join(spelt.split()))
    if tidy is None or not _RECKONS.search(tidy) or _FOREIGN.search(tidy):
        return None
    return tidy


def _share(count: str, part: str, whole: str) -> str:
    return f"{'1' if count.startswith('a') else count} / {_PARTS[part[:3]]} * {whole}"


def _joined(separator: str, items: str) -> str:
    return separator.join(item.strip() for item in _LIST_COMMA.split(items))


def _spell_out(text: str) -> str | None:
    """Number words replaced by digits; None when a run of them spells no number."""
    failed = False

    def digits(match: re.Match[str]) -> str:
        nonlocal failed
        parts = re.split(r"(?<!hundred)(?<!thousand)(?<!million) and ", match.group())  # "four and five" are two
        values = [words_to_int(part) for part in parts]
        failed = failed or None in values
        return " and ".join(map(str, values))

    spelt = _HALVES.sub(r"\1.5", IN_WORDS.sub(digits, text))
    return None if failed else spelt


def _balanced(text: str) -> str | None:
    """``text`` without a closing parenthesis too many at its end; None when its parentheses don't pair."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return text[:position].strip() if not text[position:].strip(" )") else None
    return text if depth == 0 else None

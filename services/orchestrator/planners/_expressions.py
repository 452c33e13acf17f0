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
_LIST_COMMA: Final = re.compile(r",(?=\s)(?: and| or)?\s|\s(?:and|or|&)\s")
_OPERATORS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?:the )?cube root of ([\d.,]*\d)", r"\1^(1/3)"),
        (r"(?:(?:the )?(?:(?:square )?root|sqrt) of |√ ?)([\d.,]*\d)", r"sqrt(\1)"),
        (r"[$€£]", ""),
        (r"\bnegative ", "-"),
        (r"(?:raised )?to the (\d+)(?:st|nd|rd|th)\b(?: power)?", r"^\1"),
        (r"(?:raised )?to the power(?: of)?", "^"),
        (r"(?:\bis )?multiplied by|\btimes\b|乘以?", " * "),
        (r"(?:\bis )?divided by|\bover\b|除以?", " / "),
        (r"\bplus\b|\badded to\b|加上?", " + "),
        (r"\bminus\b|\btake away\b|减去?", " - "),
        (r"\bmodulo\b|\bmod\b", " mod "),
        (r"(?<=%)\s?的|的(?=\s?[\d.]+\s?%)", " of "),
        (r"\s?percent\b", "%"),
        (r"\s?squared\b", "^2"),
        (r"\s?cubed\b", "^3"),
        (r"×|·|(?<=[\d)%])\s?x\s?(?=[\d(])", " * "),
        (r"÷", " / "),
        (r"[−–]", "-"),
    )
)
_AMONG: Final = r"(?: (?:number|value|one))? (?:of|among|out of|between) (?:the numbers )?"
_MOST: Final = "(?:max|maximum|largest|biggest|highest|greatest)"
_LEAST: Final = "(?:min|minimum|smallest|lowest|least)"
_MONEY: Final = r"[$€£]?([-−]?[\d.,]*\d)"
_SHARE: Final = r"([\d.]+) ?(?:%|percent)"
_SPOKEN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = tuple(
    (re.compile(pattern), write)
    for pattern, write in (
        # the bill is 90, what is 20% of that
        (rf"{_MONEY}[^\d%]*? {_SHARE} off (?:that|it|this|the [a-z]+)", lambda m: f"{m[1]} - {m[2]}%"),
        (rf"{_MONEY}[^\d%]*? {_SHARE}[a-z ]*? (?:of|on) (?:that|it|this|the [a-z]+)", lambda m: f"{m[2]}% of {m[1]}"),
        (rf"add {_SHARE}[a-z ]*? to (.+)", lambda m: f"{m[2]} + {m[1]}%"),
        (
            rf"{_MOST}[a-z ]*: (.+)|(.+?),? (?:which|what)(?: one| number)? is (?:the )?{_MOST}",
            lambda m: _most("max", m),
        ),
        (
            rf"{_LEAST}[a-z ]*: (.+)|(.+?),? (?:which|what)(?: one| number)? is (?:the )?{_LEAST}",
            lambda m: _most("min", m),
        ),
        (r"multiply (.+?) (?:by|with|and|times) (.+)", lambda m: f"{m[1]} * {m[2]}"),
        (r"divide (.+?) by (.+)", lambda m: f"{m[1]} / {m[2]}"),
        (r"(?:subtract|take|deduct)(?: away)? (.+?)(?: away)? from (.+)", lambda m: f"{m[2]} - {m[1]}"),
        (r"add (.+?) to (.+)", lambda m: f"{m[2]} + {m[1]}"),
        (r"(?:add|sum|total)(?: up| together)? (?!of\b)(.+)", lambda m: _joined(" + ", m[1])),
        (rf"(?:sum|total){_AMONG}(.+)", lambda m: _joined(" + ", m[1])),
        (rf"product{_AMONG}(.+)", lambda m: _joined(" * ", m[1])),
        (rf"(?:average|mean){_AMONG}(.+)|average (.+)", lambda m: f"avg({_joined(', ', m[1] or m[2])})"),
        (rf"{_MOST}{_AMONG}(.+)|(.+) (?:is|are) (?:the )?{_MOST}", lambda m: _most("max", m)),
        (rf"{_LEAST}{_AMONG}(.+)|(.+) (?:is|are) (?:the )?{_LEAST}", lambda m: _most("min", m)),
        (r"(.+) (?:added|combined|summed)", lambda m: _joined(" + ", m[1])),
        (r"difference (?:between|of) (.+?) and (.+)", lambda m: f"abs({m[1]} - {m[2]})"),
        (r"quotient (?:between|of) (.+?) and (.+)", lambda m: f"{m[1]} / {m[2]}"),
        (r"(?:more|greater|larger|bigger|higher) is (.+?) than (.+)", lambda m: f"{m[1]} - {m[2]}"),
        (r"(.+?) (?:go|fit|divide) (?:in|into) (.+)", lambda m: f"{m[2]} / {m[1]}"),
        (r"(.+?) times as [a-z]+ as (.+)", lambda m: f"{m[1]} * {m[2]}"),
        (r"([\d.,]+)['’]?s [a-z ]+ ([\d.,]+)", lambda m: f"{m[2]} / {m[1]}"),  # how many 15s are in 180
        (r"(.+?) (?:subtracted|taken(?: away)?) from (.+)", lambda m: f"{m[2]} - {m[1]}"),
        (
            rf"{_SHARE} (?:off(?: of)?|discount (?:on|off|from)|(?:less|lower) than) (.+)",
            lambda m: f"{m[2]} - {m[1]}%",
        ),
        (rf"{_SHARE} (?:more|higher) than (.+)", lambda m: f"{m[2]} + {m[1]}%"),
        (r"(.+?) less than (.+)", lambda m: f"{m[2]} - {m[1]}"),
        (r"(.+?) more than (.+)", lambda m: f"{m[2]} + {m[1]}"),
        (r"(?:remainder|remains) (?:of|when|if) (.+?) (?:is )?divided by (.+)", lambda m: f"{m[1]} mod {m[2]}"),
        (
            r"round (?:off )?(.+?) to the nearest (?:integer|whole number)|(.+) rounded (?:off )?to the nearest .+",
            lambda m: f"round({m[1] or m[2]})",
        ),
        (r"(.+) rounded (?:off )?to (\d+) [a-z ]+", lambda m: f"round({m[1]}, {m[2]})"),
        (
            r"round (?:off )?(.+?) to (\d+) (?:decimals?|digits|(?:decimal )?places?)",
            lambda m: f"round({m[1]}, {m[2]})",
        ),
        (r"(?:an? )?([\d.]+) ?(?:%|percent)(?: [a-z ]+)? on (.+)", lambda m: f"{m[1]}% of {m[2]}"),
        (r"(?:an? )?([\d.]+) ?(?:%|percent) [a-z]+ (?:on|of) (.+)", lambda m: f"{m[1]}% of {m[2]}"),
        (r"square of (.+)", lambda m: f"{m[1]}^2"),
        (r"cube of (.+)", lambda m: f"{m[1]}^3"),
        (r"([\d., &]+(?:and [\d.,]+)+)", lambda m: _joined(" + ", m[1])),  # what do 4 and 5 add up to
        (r"(?:twice|double) (.+)", lambda m: f"2 * {m[1]}"),
        (r"triple (.+)", lambda m: f"3 * {m[1]}"),
        (r"quadruple (.+)", lambda m: f"4 * {m[1]}"),
        (r"(?:half(?: of)?|halve) (.+)", lambda m: f"{m[1]} / 2"),
        (r"absolute value of (.+)", lambda m: f"abs({m[1]})"),
        (r"raise (.+)(?= to the )( to the .+)", lambda m: f"{m[1]}{m[2]}"),
        (r"(an?|\d+) (hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?) of (.+)", lambda m: _share(*m.groups())),
        (rf"(?:take|knock|get) {_SHARE} off(?: of)? (.+)", lambda m: f"{m[2]} - {m[1]}%"),
        (rf"(.+?) (?:increased|raised) by {_SHARE}", lambda m: f"{m[1]} + {m[2]}%"),
        (rf"(.+?) (?:reduced|decreased|lowered|cut|discounted) by {_SHARE}", lambda m: f"{m[1]} - {m[2]}%"),
        (rf"(?:increase|raise) (.+?) by {_SHARE}", lambda m: f"{m[1]} + {m[2]}%"),
        (rf"(?:reduce|decrease|lower|cut|discount) (.+?) by {_SHARE}", lambda m: f"{m[1]} - {m[2]}%"),
        (
            rf"{_MONEY}(?: [a-z]+){{0,2}}? (?:plus|with|including|and) (?:an? )?{_SHARE} "
            r"(?:vat|sales tax|tax|tip|interest|service)",
            lambda m: f"{m[1]} + {m[2]}%",
        ),
        (
            rf"{_MONEY}(?: [a-z]+){{0,2}}? (?:with|after|at|is|minus|less) (?:an? )?{_SHARE} "
            r"(?:off|discount|reduction)",
            lambda m: f"{m[1]} - {m[2]}%",
        ),
        (rf"(?:percent(?:age)?|%) of {_MONEY} [a-z]+ {_MONEY}", lambda m: f"{m[2]} / {m[1]} * 100"),
        (rf"(?:percent(?:age)?|%) (?:is|are) {_MONEY} (?:out )?of {_MONEY}", lambda m: f"{m[1]} / {m[2]} * 100"),
        (
            rf"{_MONEY} (?:is|are) (?:what|which|how many) (?:percent(?:age)?|%) of {_MONEY}",
            lambda m: f"{m[1]} / {m[2]} * 100",
        ),
        (
            rf"{_MONEY} ?(?:out of|of|over|/) ?{_MONEY} (?:as|in|expressed as) (?:an? )?(?:percent(?:age)?|%)",
            lambda m: f"{m[1]} / {m[2]} * 100",
        ),
        (
            rf"{_MONEY}(?: [a-z]+){{0,4}}? (?:between|among|amongst|across|into|by) {_MONEY}"
            rf"|{_MONEY}(?: [a-z]+){{0,2}}? {_MONEY} ways",
            lambda m: f"{m[1] or m[3]} / {m[2] or m[4]}",
        ),
        (
            rf"{_MONEY} [a-z -]+ {_MONEY}(?: (?:dollars|euros|pounds|bucks))? (?:each|apiece|a piece|per [a-z]+)",
            lambda m: f"{m[1]} * {m[2]}",
        ),
    )
)
_THEN: Final = re.compile(
    r"((?:multiply|divide|subtract|take|deduct|add|sum|total|average) .+?),? (?:and|then|and then) "
    r"(add|subtract|multiply|divide) (?:(?:(?:it|that|this|them|the result) )?by )?([\d.,]*\d)"
)
_SIGNS: Final = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
# Among the arguments of a call "1,250" would be two of them.
_CALLS: Final = re.compile(r"[a-z]{3,}\(")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
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
    head, then, last = spelt, "", ""
    if match := _THEN.fullmatch(spelt):
        head, then, last = match.groups()
    for pattern, write in _SPOKEN:
        match = pattern.fullmatch(head)
        if match and _CALLS.match(write(match)):
            match = pattern.fullmatch(_THOUSANDS.sub("", head))
        if match:
            spelt = f"({write(match)}) {_SIGNS[then[:3]]} {last}" if then else write(match)
            break
    for pattern, replacement in _OPERATORS:
        spelt = pattern.sub(replacement, spelt)
    tidy = _balanced(" ".join(spelt.split()))
    if tidy is None or not _RECKONS.search(tidy) or _FOREIGN.search(tidy):
        return None
    return tidy


def _share(count: str, part: str, whole: str) -> str:
    return f"{'1' if count.startswith('a') else count} / {_PARTS[part[:3]]} * {whole}"


def _most(function: str, match: re.Match[str]) -> str:
    return f"{function}({_joined(', ', match[1] or match[2])})"


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

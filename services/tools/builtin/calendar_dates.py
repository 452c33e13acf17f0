"""Dates and the calendar: the proleptic Gregorian one, years 1 to 9999, whole days without time zones.

"Today" comes with the call, from the caller's own calendar. A month added to 31 January ends on the
last of February. "Next Friday" is the first Friday after the day it is asked on, that day excluded.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable
from typing import Any, Final

from services.tools.builtin._wording import AMOUNT, BEGIN, DATE, END, WEEKDAY
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import (
    BadArgument,
    Context,
    Example,
    Output,
    Pattern,
    ToolFailed,
    ToolSpec,
    constant,
    date,
    number,
    text,
)

_NAMES: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORDS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_MAX_AMOUNT: Final = 4_000_000  # days between the years 1 and 9999, rounded up
_DAY: Final = {
    "type": "string",
    "pattern": r"^([0-9]{4}-[0-9]{2}-[0-9]{2}|today|tomorrow|yesterday)$",
    "description": "a day as YYYY-MM-DD, or one of today, tomorrow, yesterday",
}
_OUT_DAY: Final = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_OUT_NAME: Final = {"enum": list(_NAMES)}


def _needs(operation: str, *names: str) -> dict[str, Any]:
    return {"if": {"properties": {"operation": {"const": operation}}}, "then": {"required": list(names)}}


_IN: Final = r"(?: in days| in weeks)?+"
_UNIT: Final = r"(?P<unit>days?+|weeks?+|months?+|years?+)\b"
_IS: Final = r"(?:['’]?s| is| was| will be| falls? on)"
_HOW_LONG: Final = r"\bhow (?:many (?:more )?(?:full )?(?:days|weeks)|long)"
_THERE: Final = (
    r"(?: (?:is|are|was|were|do|does|it|there|we|i|have|has|be|been|left|remain|remaining|to go|to wait|go)\b)"
)
_WHAT_DATE: Final = rf"(?:what(?:{_IS})? (?:the )?(?:calendar )?(?:date|day|weekday)|when)"
_WHICH_DAY: Final = r"(?:what|which) (?:day of the week|week ?day|day)"
_FROM_NOW: Final = r"(?:from now|from today|hence)"

SPEC: Final = ToolSpec(
    name="calendar_dates",
    description=(
        "Reckons with days: today's date, the weekday of a day, the days between two, a day plus or minus days, "
        "weeks, months or years, the next Friday, leap years, ISO weeks. Use it whenever the calendar matters."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "operation": {
                "enum": ["today", "weekday", "days_between", "add", "subtract", "next_weekday", "leap_year", "iso_week"]
            },
            "date": {**_DAY, "default": "today"},
            "start": {**_DAY, "default": "today"},
            "end": _DAY,
            "amount": {"type": "integer", "minimum": 0, "maximum": _MAX_AMOUNT},
            "unit": {
                "enum": ["day", "days", "week", "weeks", "month", "months", "year", "years"],
                "default": "days",
            },
            "weekday": {
                "type": "string",
                "pattern": "^([Mm]on|[Tt]ues|[Ww]ednes|[Tt]hurs|[Ff]ri|[Ss]atur|[Ss]un)day$",
                "description": "a day of the week such as 'Friday'",
            },
            "year": {"type": "integer", "minimum": 1, "maximum": 9999},
        },
        "required": ["operation"],
        "additionalProperties": False,
        "allOf": [
            _needs("days_between", "end"),
            _needs("add", "amount"),
            _needs("subtract", "amount"),
            _needs("next_weekday", "weekday"),
        ],
    },
    output_schema={
        "type": "object",
        "properties": {
            "operation": {"type": "string"},
            "date": _OUT_DAY,
            "weekday": _OUT_NAME,
            "start": _OUT_DAY,
            "end": _OUT_DAY,
            "days": {"type": "integer", "description": "from start to end; negative when end is before start"},
            "weeks": {"type": "number", "description": "the same in weeks"},
            "year": {"type": "integer"},
            "leap": {"type": "boolean"},
            "iso_year": {"type": "integer"},
            "iso_week": {"type": "integer", "minimum": 1, "maximum": 53},
        },
        "required": ["operation"],
        "additionalProperties": False,
    },
    timeout_s=1.0,
    max_concurrency=64,
    patterns=(
        # days until, since, between
        Pattern(
            rf"(?:{_HOW_LONG}{_THERE}{{0,3}}+{_IN}|(?:^|number of )days(?: left)?+) (?:until|till|til|before|to) "
            rf"(?P<end>{DATE}){_IN}{END}",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
        Pattern(
            rf"(?:{_HOW_LONG}{_THERE}{{0,3}}+(?: (?:have |has )?(?:passed|gone by|elapsed))?+{_IN}|^days) since "
            rf"(?P<start>{DATE}){END}",
            (constant("operation", "days_between"), date("start", past=True), constant("end", "today")),
        ),
        Pattern(
            rf"(?:{_HOW_LONG}{_THERE}{{0,3}}+|(?:number of|the|^) ?days) (?:between|from) "
            rf"(?P<start>{DATE}) (?:and|to|until|till) (?P<end>{DATE}){END}",
            (constant("operation", "days_between"), date("start"), date("end")),
        ),
        # today
        Pattern(
            r"\b(?:what(?:['’]?s| is) (?:the date(?: of)?(?: today)?|today['’]?s date|the current date|today)"
            r"|what(?: date| day(?: of the week)?) is (?:it(?: today)?|today)|today['’]?s date"
            rf"|what date(?: do we have|['’]s it)(?: today)?){END}",
            (constant("operation", "today"),),
        ),
        Pattern(
            r"今天(?:是|的日期)?(?:几号|几月几[号日]|什么日期|星期几|周几|礼拜几)", (constant("operation", "today"),)
        ),
        # weekday of a day
        Pattern(
            rf"\b{_WHICH_DAY}(?: of the week)?+"
            r"(?: (?:is|was|will|does|did|do|it|be|fall|falls|on|land)\b){1,4}+ "
            rf"(?P<date>{DATE})(?: (?:be|fall|land))?+(?: on)?+(?: in)?+{END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b{_WHICH_DAY}(?: of the week)?+ (?:is it|will it be|was it) (?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?:\bwhat{_IS}|{BEGIN}) ?(?:the )?(?:week ?day|day of the week) (?:of|for|on) (?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\bwhat{_IS} (?:the date )?(?P<date>tomorrow|yesterday|the day (?:after tomorrow|before yesterday))"
            rf"(?:['’]s date)?+{END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b(?:what|which) date (?:is|was|will) (?:it )?(?:be )?(?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?P<date>{DATE})(?:是|那天是)?(?:星期几|周几|礼拜几)", (constant("operation", "weekday"), date("date"))
        ),
        # next Friday
        Pattern(
            rf"(?:\b{_WHAT_DATE}{_IS}?+|\bwhat{_IS}) (?:it )?(?:on )?(?:the )?(?:date of )?(?:the )?"
            rf"(?:next|this|coming|this coming) (?P<weekday>{WEEKDAY}){END}",
            (constant("operation", "next_weekday"), text("weekday")),
        ),
        # a day plus or minus
        Pattern(
            rf"\b{_WHAT_DATE}(?: (?:is|was|will|would|it|be|the date|that|fall|comes?)\b){{0,3}}+ "
            rf"(?P<amount>{AMOUNT}) {_UNIT} (?:{_FROM_NOW}|(?:from|after) (?P<date>{DATE})){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        Pattern(
            rf"\b{_WHAT_DATE}(?: (?:is|was|will|would|it|be|the date)\b){{0,3}}+ in (?P<amount>{AMOUNT}) {_UNIT}{END}",
            (constant("operation", "add"), number("amount"), text("unit")),
        ),
        Pattern(
            rf"\b{_WHAT_DATE}(?: (?:is|was|will|would|it|be|the date|that|fall)\b){{0,3}}+ "
            rf"(?P<amount>{AMOUNT}) {_UNIT} (?:ago|earlier|before (?P<date>{DATE})){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        Pattern(
            rf"{BEGIN}(?:what(?:['’]?s| is) )?(?P<date>{DATE}) (?:plus|\+) (?P<amount>{AMOUNT}) {_UNIT}{END}",
            (constant("operation", "add"), date("date"), number("amount"), text("unit")),
        ),
        Pattern(
            rf"{BEGIN}(?:what(?:['’]?s| is) )?(?P<date>{DATE}) (?:minus|-|−) (?P<amount>{AMOUNT}) {_UNIT}{END}",
            (constant("operation", "subtract"), date("date"), number("amount"), text("unit")),
        ),
        Pattern(
            rf"{BEGIN}add (?P<amount>{AMOUNT}) {_UNIT} to (?P<date>{DATE}){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date")),
        ),
        Pattern(
            rf"{BEGIN}subtract (?P<amount>{AMOUNT}) {_UNIT} from (?P<date>{DATE}){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date")),
        ),
        Pattern(
            rf"^(?P<amount>{AMOUNT}) {_UNIT} (?:{_FROM_NOW}|(?:from|after) (?P<date>{DATE})){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        # leap years
        Pattern(
            rf"\b(?:is|was|will|isn['’]t|wasn['’]t) (?:the year )?(?:this year|(?P<year>\d{{4}}))(?: be)?+ "
            rf"(?:a )?leap year{END}",
            (constant("operation", "leap_year"), number("year", optional=True)),
        ),
        # ISO weeks
        Pattern(
            r"\b(?:what|which)(?:['’]?s| is)?+ (?:the )?(?:(?:iso |calendar )?week(?: number| of the year)?+)"
            r"(?: (?:is|are|does|was|will|we|it|for|of|in|be|this)\b){1,3}+ "
            rf"(?P<date>{DATE})(?: (?:fall|be))?+(?: in)?+{END}",
            (constant("operation", "iso_week"), date("date")),
        ),
        Pattern(
            r"\b(?:what|which)(?:['’]?s| is)?+ (?:the )?(?:current )?(?:iso |calendar )?week(?: number| of the year)"
            rf"(?: (?:is it|are we in|is this))?+(?: (?:today|now|this week))?+{END}",
            (constant("operation", "iso_week"),),
        ),
        # 距离2027年1月1日还有多少天
        Pattern(
            rf"(?:距离?|离|到)\s?(?P<end>{DATE})\s?(?:还有|有|还剩)(?:多少|几)天",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
    ),
    examples=(
        Example({"operation": "today"}, "Today is Thursday, 2026-11-12."),
        Example({"operation": "weekday", "date": "2026-12-24"}, "2026-12-24 is a Thursday."),
        Example({"operation": "days_between", "end": "2027-01-01"}, "From 2026-11-12 to 2027-01-01 it is 50 days."),
        Example(
            {"operation": "add", "date": "2027-01-31", "amount": 1, "unit": "month"},
            "2027-01-31 plus 1 month is Sunday, 2027-02-28.",
        ),
        Example({"operation": "next_weekday", "weekday": "Friday"}, "The next Friday is 2026-11-13."),
        Example({"operation": "leap_year", "year": 2100}, "2100 is no leap year."),
        Example({"operation": "iso_week", "date": "2026-12-31"}, "2026-12-31 is in ISO week 53 of 2026."),
    ),
)


def open(documents: DocumentFinder) -> ToolFunction:
    """The calendar needs nothing."""
    return reckon


async def reckon(arguments: dict[str, Any], context: Context, /) -> Output:
    """Run ``arguments["operation"]``."""
    operation: str = arguments["operation"]
    result, sentence = _OPERATIONS[operation](arguments, context.today)
    return Output({"operation": operation, **result}, sentence)


_Reckoned = tuple[dict[str, Any], str]


def _day(arguments: dict[str, Any], name: str, today: datetime.date) -> datetime.date:
    given = arguments.get(name, "today")
    try:
        if given in _WORDS:
            return today + datetime.timedelta(days=_WORDS[given])
        return datetime.date.fromisoformat(given)
    except (ValueError, OverflowError) as exc:
        raise BadArgument(name, given, f"no such day in the calendar ({exc}); expected YYYY-MM-DD") from exc


def _today(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    name = _NAMES[today.weekday()]
    return {"date": today.isoformat(), "weekday": name}, f"Today is {name}, {today}."


def _weekday(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    day = _day(arguments, "date", today)
    name = _NAMES[day.weekday()]
    return {"date": day.isoformat(), "weekday": name}, f"{day} is a {name}."


def _days_between(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    start, end = _day(arguments, "start", today), _day(arguments, "end", today)
    days = (end - start).days
    result = {"start": start.isoformat(), "end": end.isoformat(), "days": days, "weeks": round(days / 7, 6)}
    return result, f"From {start} to {end} it is {days} day{'' if abs(days) == 1 else 's'}."


def _add(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    return _moved(arguments, today, +1, "plus")


def _subtract(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    return _moved(arguments, today, -1, "minus")


def _moved(arguments: dict[str, Any], today: datetime.date, sign: int, word: str) -> _Reckoned:
    start, amount = _day(arguments, "date", today), int(arguments["amount"])
    unit = re.sub("s$", "", arguments.get("unit", "days"))
    try:
        end = _shift(start, sign * amount, unit)
    except (OverflowError, ValueError) as exc:
        raise ToolFailed(f"{start} {word} {amount} {unit}s is outside the years 1 to 9999") from exc
    name = _NAMES[end.weekday()]
    counted = f"{amount} {unit}{'' if amount == 1 else 's'}"
    return {"date": end.isoformat(), "weekday": name}, f"{start} {word} {counted} is {name}, {end}."


def _shift(start: datetime.date, amount: int, unit: str) -> datetime.date:
    if unit in ("day", "week"):
        return start + datetime.timedelta(days=amount * (7 if unit == "week" else 1))
    months = start.year * 12 + start.month - 1 + amount * (12 if unit == "year" else 1)
    year, month = divmod(months, 12)
    if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
        raise OverflowError
    return start.replace(year=year, month=month + 1, day=min(start.day, calendar.monthrange(year, month + 1)[1]))


def _next_weekday(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    start, name = _day(arguments, "date", today), arguments["weekday"].capitalize()
    days = (_NAMES.index(name) - start.weekday() - 1) % 7 + 1
    try:
        day = start + datetime.timedelta(days=days)
    except OverflowError as exc:
        raise ToolFailed(f"the next {name} after {start} is outside the years 1 to 9999") from exc
    return {"date": day.isoformat(), "weekday": name}, f"The next {name} is {day}."


def _leap_year(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    year = int(arguments.get("year", today.year))
    leap = calendar.isleap(year)
    return {"year": year, "leap": leap}, f"{year} is {'a' if leap else 'no'} leap year."


def _iso_week(arguments: dict[str, Any], today: datetime.date) -> _Reckoned:
    day = _day(arguments, "date", today)
    week = day.isocalendar()
    result = {"date": day.isoformat(), "iso_year": week.year, "iso_week": week.week}
    return result, f"{day} is in ISO week {week.week} of {week.year}."


_OPERATIONS: Final[dict[str, Callable[[dict[str, Any], datetime.date], _Reckoned]]] = {
    "today": _today,
    "weekday": _weekday,
    "days_between": _days_between,
    "add": _add,
    "subtract": _subtract,
    "next_weekday": _next_weekday,
    "leap_year": _leap_year,
    "iso_week": _iso_week,
}

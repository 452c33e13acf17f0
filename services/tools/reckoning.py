"""Reckoning with days: the proleptic Gregorian calendar, years 1 to 9999, whole days without time zones.

"Today" comes with the call, from the caller's own calendar. A month added to 31 January ends on the
last of February. "Next Friday" is the first Friday after the day it is asked on, that day excluded.

Each operation takes checked arguments and today, and returns its result with a sentence.
"""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final

from services.tools.types import BadArgument, ToolFailed

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORDS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_Arguments = Mapping[str, Any]
_Reckoned = tuple[dict[str, Any], str]


def _day(arguments: _Arguments, name: str, today: datetime.date) -> datetime.date:
    given = arguments.get(name, "today")
    try:
        if given in _WORDS:
            return today + datetime.timedelta(days=_WORDS[given])
        return datetime.date.fromisoformat(given)
    except (ValueError, OverflowError) as exc:
        raise BadArgument(name, given, f"no such day in the calendar ({exc}); expected YYYY-MM-DD") from exc


def _today(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    name = WEEKDAYS[today.weekday()]
    return {"date": today.isoformat(), "weekday": name}, f"Today is {name}, {today}."


def _weekday(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    day = _day(arguments, "date", today)
    name = WEEKDAYS[day.weekday()]
    return {"date": day.isoformat(), "weekday": name}, f"{day} is a {name}."


def _days_between(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    start, end = _day(arguments, "start", today), _day(arguments, "end", today)
    days = (end - start).days
    result = {"start": start.isoformat(), "end": end.isoformat(), "days": days, "weeks": round(days / 7, 6)}
    return result, f"From {start} to {end} it is {days} day{'' if abs(days) == 1 else 's'}."


def _add(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    return _moved(arguments, today, +1, "plus")


def _subtract(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    return _moved(arguments, today, -1, "minus")


def _moved(arguments: _Arguments, today: datetime.date, sign: int, word: str) -> _Reckoned:
    start, amount = _day(arguments, "date", today), int(arguments["amount"])
    unit = arguments.get("unit", "days").removesuffix("s")
    try:
        end = _shift(start, sign * amount, unit)
    except (OverflowError, ValueError) as exc:
        raise ToolFailed(f"{start} {word} {amount} {unit}s is outside the years 1 to 9999") from exc
    name = WEEKDAYS[end.weekday()]
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


def _next_weekday(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    start, name = _day(arguments, "date", today), arguments["weekday"].capitalize()
    days = (WEEKDAYS.index(name) - start.weekday() - 1) % 7 + 1
    try:
        day = start + datetime.timedelta(days=days)
    except OverflowError as exc:
        raise ToolFailed(f"the next {name} after {start} is outside the years 1 to 9999") from exc
    return {"date": day.isoformat(), "weekday": name}, f"The next {name} is {day}."


def _leap_year(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    year = int(arguments.get("year", today.year))
    leap = calendar.isleap(year)
    return {"year": year, "leap": leap}, f"{year} is {'a' if leap else 'no'} leap year."


def _iso_week(arguments: _Arguments, today: datetime.date) -> _Reckoned:
    day = _day(arguments, "date", today)
    week = day.isocalendar()
    result = {"date": day.isoformat(), "iso_year": week.year, "iso_week": week.week}
    return result, f"{day} is in ISO week {week.week} of {week.year}."


OPERATIONS: Final[dict[str, Callable[[_Arguments, datetime.date], _Reckoned]]] = {
    "today": _today,
    "weekday": _weekday,
    "days_between": _days_between,
    "add": _add,
    "subtract": _subtract,
    "next_weekday": _next_weekday,
    "leap_year": _leap_year,
    "iso_week": _iso_week,
}

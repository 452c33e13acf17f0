"""Days as people name them, as a date of the calendar: "March 5, 2027", "5th of March", "24.12.2026",
"tomorrow", "next Friday", "Christmas", "2027年1月1日".

A day without a year is the next such day from today on, or the last one where the wording looks back.
"12/11/2026" could be two days and is none; "12/25/2026" is one.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_RELATIVE: Final = {
    "the day before yesterday": -2,
    "yesterday": -1,
    "today": 0,
    "tomorrow": 1,
    "the day after tomorrow": 2,
    "前天": -2,
    "昨天": -1,
    "今天": 0,
    "明天": 1,
    "后天": 2,
}
_HOLIDAYS: Final = {
    "christmas eve": (12, 24),
    "christmas day": (12, 25),
    "christmas": (12, 25),
    "xmas": (12, 25),
    "boxing day": (12, 26),
    "the end of the year": (12, 31),
    "end of the year": (12, 31),
    "the year": (12, 31),  # the days that are left in it
    "this year": (12, 31),
    "the end of": (12, 31),  # this year, next year
    "end of": (12, 31),
    "new years eve": (12, 31),
    "new years day": (1, 1),
    "new year day": (1, 1),
    "new years": (1, 1),
    "new year": (1, 1),
    "halloween": (10, 31),
    "valentines day": (2, 14),
    "valentines": (2, 14),
}
_YEAR_FIRST: Final = re.compile(r"(\d{4})(?:[-/]|\s?年\s?)(\d{1,2})(?:[-/]|\s?月\s?)(\d{1,2})(?:\s?[日号])?")
_YEAR_LAST: Final = re.compile(r"(\d{1,2})([/.])(\d{1,2})[/.](\d{4})")
_YEAR: Final = r"(?:,? (\d{4}|(?:this|next|last) year))?"
_MONTH_FIRST: Final = re.compile(rf"([a-z]{{3,9}})\.? (?:the )?(\d{{1,2}})(?:st|nd|rd|th)?{_YEAR}")
_DAY_FIRST: Final = re.compile(rf"(?:the )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?([a-z]{{3,9}})\.?{_YEAR}")
_WEEKDAY: Final = re.compile(r"(?:(next|this|last|coming) )?([a-z]{6,9})")
_HOLIDAY: Final = re.compile(rf"([a-z ]+?){_YEAR}")
_BEFORE_YEAR: Final = re.compile(  # "christmas falls on next year"
    r"(?: (?:falls?|lands?|be|is))?(?: on)?(?: in)?(?= (?:\d{4}|(?:this|next|last) year)$)"
)
_YEARS_SEARCHED: Final = 8  # 29 February comes back within eight years


def day(text: str, today: datetime.date, *, past: bool = False) -> str | None:
    """The day as YYYY-MM-DD; None when ``text`` names none, or one that the calendar hasn't."""
    try:
        tidy = " ".join(text.lower().replace("’", "'").split())
        found = _day(_BEFORE_YEAR.sub("", tidy), today, past)
    except (ValueError, OverflowError):
        return None
    return None if found is None else found.isoformat()


def _day(text: str, today: datetime.date, past: bool) -> datetime.date | None:
    if text in _RELATIVE:
        return today + datetime.timedelta(days=_RELATIVE[text])
    if match := _YEAR_FIRST.fullmatch(text):
        return datetime.date(*map(int, match.groups()))
    if match := _YEAR_LAST.fullmatch(text):
        return _year_last(int(match[1]), match[2], int(match[3]), int(match[4]))
    if match := _MONTH_FIRST.fullmatch(text):
        return _named(_month(match[1]), int(match[2]), match[3], today, past)
    if match := _DAY_FIRST.fullmatch(text):
        return _named(_month(match[2]), int(match[1]), match[3], today, past)
    if (match := _WEEKDAY.fullmatch(text)) and match[2] in _WEEKDAYS:
        return _weekday(_WEEKDAYS.index(match[2]), match[1], today, past)
    if (match := _HOLIDAY.fullmatch(text.replace("'", ""))) and match[1] in _HOLIDAYS:
        return _named(*_HOLIDAYS[match[1]], match[2], today, past)
    return None


def _month(name: str) -> int:
    for number, month in enumerate(_MONTHS, start=1):
        if month.startswith(name):
            return number
    raise ValueError(f"{name!r} is no month")


def _year_last(first: int, mark: str, second: int, year: int) -> datetime.date | None:
    if mark == "." or first > 12 or first == second:  # 24.12.2026, 24/12/2026
        return datetime.date(year, second, first)
    if second > 12:
        return datetime.date(year, first, second)
    return None


def _named(month: int, day_of_month: int, year: str | None, today: datetime.date, past: bool) -> datetime.date | None:
    if year is not None:
        years = {"last year": today.year - 1, "this year": today.year, "next year": today.year + 1}
        return datetime.date(years.get(year) or int(year), month, day_of_month)
    step = -1 if past else 1
    for distance in range(_YEARS_SEARCHED + 1):
        try:
            found = datetime.date(today.year + step * distance, month, day_of_month)
        except ValueError:
            continue  # 29 February of a common year
        if (found <= today) if past else (found >= today):
            return found
    return None


def _weekday(index: int, which: str | None, today: datetime.date, past: bool) -> datetime.date:
    """The nearest such weekday, today excluded: before today with "last" or a wording that looks back."""
    if which == "last" or (past and which is None):
        return today - datetime.timedelta(days=(today.weekday() - index - 1) % 7 + 1)
    return today + datetime.timedelta(days=(index - today.weekday() - 1) % 7 + 1)

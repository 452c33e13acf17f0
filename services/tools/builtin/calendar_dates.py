"""Dates and the calendar. How days are reckoned with stands in ``reckoning.py``."""

from __future__ import annotations

from typing import Any, Final

from services.tools import reckoning
from services.tools.builtin._wording import AMOUNT, BEGIN, DATE, END, WEEKDAY
from services.tools.ports import DocumentFinder, ToolFunction
from services.tools.types import (
    Context,
    Example,
    Output,
    Pattern,
    ToolSpec,
    constant,
    date,
    number,
    text,
)

_MAX_AMOUNT: Final = 4_000_000  # days between the years 1 and 9999, rounded up
_DAY: Final = {
    "type": "string",
    "pattern": r"^([0-9]{4}-[0-9]{2}-[0-9]{2}|today|tomorrow|yesterday)$",
    "description": "a day as YYYY-MM-DD, or one of today, tomorrow, yesterday",
}
_OUT_DAY: Final = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_OUT_NAME: Final = {"enum": list(reckoning.WEEKDAYS)}


def _needs(operation: str, *names: str) -> dict[str, Any]:
    return {"if": {"properties": {"operation": {"const": operation}}}, "then": {"required": list(names)}}


_IN: Final = r"(?>(?: in days| in weeks)?)"
_UNIT: Final = r"(?P<unit>days?+|weeks?+|months?+|years?+)\b['’]?+"
_IS: Final = r"(?:['’]?s| is| was| will be| would be| will| would| falls? on)"
_HOW_LONG: Final = r"\bhow (?:many(?: more)?(?: full)?(?: days| weeks| nights| sleeps)?|long|much (?:time|longer))"
_EVENT: Final = r"(?:(?:my|our|the|his|her|their)(?: [a-z'’]++){1,3}?(?: on|,|:) )?"  # "my birthday on …"
_THERE: Final = (
    r"(?: (?:will|is|are|was|were|do|does|it|there|we|i|have|has|be|been|left|remain|remaining|lie|pass"
    r"|to go|to wait|go|away|got|get|had|from now|from today|in(?= between)|pass(?:ed)?|elapsed?|takes?|fall)\b)"
)
_WHAT_DATE: Final = rf"(?:(?:what|which)(?:{_IS})? (?:the )?(?:calendar )?(?:date|day|weekday)|when)"
_WHICH_DAY: Final = r"(?:what|which) (?:day of the week|week ?day|day)"
_FROM_NOW: Final = r"(?:from now|from today|hence)"
_ALONE: Final = r"(?=\s?[=?.!]?\s?$|,? (?:and|then|please)\b|[?!;] )"
_NOW: Final = r"(?>(?: (?:today|right now|now|currently|at present|this week))?)"
# "Christmas falls on next year": the year stands behind the verb
_ON_YEAR: Final = (
    r"(?: (?:(?:falls?|lands?|be|is)(?: on)?|on)(?= (?:in \d|this|next|last)))?"
    r"(?: (?:in \d{4}|(?:this|next|last) year)\b)?"
)
_ASK_DATE: Final = (
    r"(?:(?:what|which) (?:day of the week|week ?day|calendar date|date|day)(?>(?: of the week)?)"
    r"(?:['’]?s| is| was| will| would|(?= it['’]ll))(?>(?: (?:it['’]ll|it|that|be)){0,3})"
    r"|what(?:['’]?s| is| was| will| would) (?:be )?(?:the|that) (?:date|day)(?: be)?"
    r"|when(?:['’]?s| is| was| will) (?:that|it)(?: be)?)"
)

# "birthday" and "update" pass: a hint may let through too much, never too little
_HINT: Final = (
    r"\d|day|week|month|year|tomorrow|date|calendar|fortnight|christmas|xmas|halloween|valentine|leap"
    r"|[年月日天号周星期]"
)

SPEC: Final = ToolSpec(
    name="calendar_dates",
    description=(
        "Reckons with days: today's date, the weekday of a day, the days between two, a day plus or minus days, "
        "weeks, months or years, the next Friday, leap years, ISO weeks. Use it whenever the calendar matters."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "operation": {"enum": list(reckoning.OPERATIONS)},
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
    hint=_HINT,
    patterns=(
        # days until, since, between
        Pattern(
            rf"(?:{_HOW_LONG}(?>{_THERE}{{0,4}}){_IN}|(?:^|number of )days(?>(?: left)?)) (?:until|till|til|before|to) "
            rf"{_EVENT}(?P<end>{DATE}){_IN}{END}",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
        Pattern(
            rf"(?:{_HOW_LONG}(?>{_THERE}{{0,3}})(?>(?: (?:have |has )?(?:passed|gone by|elapsed))?){_IN}|^days) since "
            rf"(?P<start>{DATE}){END}",
            (constant("operation", "days_between"), date("start", past=True), constant("end", "today")),
        ),
        Pattern(
            rf"(?:{_HOW_LONG}(?>{_THERE}{{0,3}})|(?:number of|the|^) ?days"
            rf"|(?:difference|gap|interval|time|distance)(?: in days)?) (?:between|from) "
            rf"(?P<start>{DATE}) (?:and|to|until|till) (?P<end>{DATE}){END}",
            (constant("operation", "days_between"), date("start"), date("end")),
        ),
        Pattern(
            rf"(?:between|from) (?P<start>{DATE}) (?:and|to|until|till) (?P<end>{DATE})"
            r"(?:(?>(?:[,.;:?!]| -)?) (?:and |so )?| (?:is|are|it is|makes) )how (?:many (?:days|weeks|nights)|long)"
            r"(?>(?: (?:is|are|was|were|do|does|will|would|that|it|there|this|be|in between|take|pass)\b)"
            rf"{{0,3}}){END}",
            (constant("operation", "days_between"), date("start"), date("end")),
        ),
        Pattern(
            rf"\bhow (?:far(?: away)?|many (?:days|weeks) (?:away|off)|soon) is (?P<end>{DATE}){END}",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
        Pattern(
            rf"\bhow (?:many (?:days|weeks)|long) ago was (?P<start>{DATE}){END}",
            (constant("operation", "days_between"), date("start", past=True), constant("end", "today")),
        ),
        Pattern(
            rf"\bhow (?:far|many (?:days|weeks)|long) apart (?:are|is|were) (?P<start>{DATE}) and (?P<end>{DATE}){END}",
            (constant("operation", "days_between"), date("start"), date("end")),
        ),
        Pattern(
            rf"\bhow many (?:days|weeks) (?:separate|divide) (?P<start>{DATE}) (?:and|from) (?P<end>{DATE}){END}",
            (constant("operation", "days_between"), date("start"), date("end")),
        ),
        Pattern(
            rf"(?P<end>{DATE}) is (?:in )?how (?:many (?:days|weeks)|far)"
            rf"(?>(?: (?:away|off|from (?:now|today)))?){END}",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
        Pattern(
            rf"\bhow many (?:days|weeks)(?>(?: of the year)?)(?>(?: (?:are|is))?)"
            rf"(?>(?: there)?) (?:left|remaining|remain|to go)"
            rf"(?>(?: (?:until|till|before|in|of))?) (?P<end>(?:the|this) year){END}",
            (constant("operation", "days_between"), constant("start", "today"), date("end")),
        ),
        # today
        Pattern(
            r"\b(?:what(?:['’]?s| is) (?:the date(?: of)?(?: today)?|today['’]?s date|the current date"
            r"|the (?:day|weekday)(?: of the week)?(?: today)?|today)"
            r"|today['’]?s (?:week ?day|day(?: of the week)?)"
            r"|(?:what|which) (?:date|day(?: of the week)?) it is(?: today)?|what day are we(?: today)?"
            r"|what(?: date| day(?: of the week)?) is (?:it(?: today)?|today)|today['’]?s date"
            rf"|what date(?: do we have|['’]s it)(?: today)?){_NOW}{END}",
            (constant("operation", "today"),),
        ),
        Pattern(
            r"^(?>(?:(?:hi|hello|hey|please|can you|could you|would you)[,!]? )*)(?:tell|give) me the "
            rf"(?:current )?(?:date|day)(?: today)?{END}",
            (constant("operation", "today"),),
        ),
        Pattern(
            r"今天(?:是|的日期)?(?:几号|几月几[号日]|什么日期|星期几|周几|礼拜几)", (constant("operation", "today"),)
        ),
        # weekday of a day
        Pattern(
            rf"\b{_WHICH_DAY}(?>(?: of the week)?)"
            r"(?>(?: (?:is|was|will|does|did|do|it|be|fall|falls|on|land)\b){1,4}) "
            rf"(?P<date>{DATE}{_ON_YEAR})(?>(?: (?:going to )?(?:be|fall|land))?)(?>(?: on)?)(?>(?: in)?){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b{_WHICH_DAY}(?>(?: of the week)?) (?P<date>{DATE}{_ON_YEAR})"
            rf"(?: (?:is|was|will be|would be|(?:falls|fell|lands|is)(?: on)?))?{END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?P<date>{DATE}) (?:is|was|falls on|will be) (?:a |on )?(?:what|which) (?:week ?day|day)"
            rf"(?>(?: of the week)?){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b(?:is|was|will|does|did) (?P<date>{DATE}) (?:be |fall |land )?(?:on )?(?:an? "
            rf"(?:{WEEKDAY}|week ?day|weekend|work(?:ing)? ?day)(?>(?: or (?:an? )?{WEEKDAY})?)|{WEEKDAY}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b{_WHICH_DAY}(?>(?: of the week)?) (?:is it|will it be|was it) (?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?:\bwhat{_IS}|{BEGIN}) ?(?:the )?(?:week ?day|day of the week) (?:of|for|on) (?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\bwhat{_IS} (?:the date )?(?P<date>tomorrow|yesterday|the day (?:after tomorrow|before yesterday))"
            rf"(?>(?:['’]s date)?){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?P<date>{DATE})(?>(?:[,.;:]| -)?) (?:(?:and|so) )?(?:on )?{_WHICH_DAY}"
            rf"(?>(?: of the week)?) (?:is|was|will) "
            rf"(?:that|this)(?>(?: be| fall on)?){END}",
            (constant("operation", "weekday"), date("date", past=True)),
        ),
        Pattern(
            rf"(?P<date>{DATE})(?>(?:[,;:]| ?[-–—])?) (?:what|which) (?:week ?day|day of the week){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b(?:what['’]?s|what (?:is|was)|when was|tell me|give me) (?:the (?:date|day) (?:of |for |on )?)?"
            rf"(?P<date>last {WEEKDAY})(?>(?:['’]s date)?){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\bwhat(?:['’]?s| is) (?P<date>{WEEKDAY})['’]s date{END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"\b(?:what|which) date (?:is|was|will) (?:it )?(?:be )?(?:on )?(?P<date>{DATE}){END}",
            (constant("operation", "weekday"), date("date")),
        ),
        Pattern(
            rf"(?P<date>{DATE})(?:是|那天是)?(?:星期几|周几|礼拜几)", (constant("operation", "weekday"), date("date"))
        ),
        # next Friday
        Pattern(
            rf"(?:\b{_WHAT_DATE}(?>{_IS}?)|\bwhat{_IS}) (?:it )?(?:on )?(?:the )?(?:date of )?(?:the )?"
            rf"(?:next|this|coming|this coming) (?P<weekday>{WEEKDAY})(?>(?:['’]s date)?){END}",
            (constant("operation", "next_weekday"), text("weekday")),
        ),
        Pattern(
            rf"(?:\b(?:what|which) date (?:does|will|is) |\bwhen (?:does|will) |{BEGIN}(?:the )?date (?:of |for |on )?)"
            rf"(?:the )?(?:next|coming|this coming) (?P<weekday>{WEEKDAY})(?>(?: (?:fall|be|land)(?: on)?)?){END}",
            (constant("operation", "next_weekday"), text("weekday")),
        ),
        # when is Friday, next Friday's date, next Friday is what date
        Pattern(
            rf"\b(?:when(?:['’]?s| is)|(?:what|which) date (?:does|will)) (?P<weekday>{WEEKDAY})"
            rf"(?>(?: (?:fall|be|land)(?: on)?)?){END}",
            (constant("operation", "next_weekday"), text("weekday")),
        ),
        Pattern(
            rf"\b(?:next|this|coming) (?P<weekday>{WEEKDAY})"
            rf"(?:['’]s date| (?:is|falls on|will be) (?:what|which) date){END}",
            (constant("operation", "next_weekday"), text("weekday")),
        ),
        # a day plus or minus
        Pattern(
            rf"\b(?:{_WHAT_DATE}(?>(?: (?:is|was|will|would|it['’]ll|it|be|the date|that|falls?|comes?"
            r"|(?:do )?(?:i|we|you) get)\b){0,3})"
            rf"|what(?:['’]?s| is)|the (?:date|day)(?: that is)?)(?>(?: exactly)?) (?P<amount>{AMOUNT}) {_UNIT} "
            rf"(?:{_FROM_NOW}|(?:from|after) (?P<date>{DATE})){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        Pattern(
            rf"\b(?:{_WHAT_DATE}(?>(?: (?:is|was|will|would|it['’]ll|it|be|the date)\b){{0,3}})|the (?:date|day)) in "
            rf"(?P<amount>{AMOUNT}) {_UNIT}(?>(?: from now| time)?){END}",
            (constant("operation", "add"), number("amount"), text("unit")),
        ),
        Pattern(
            rf"\b(?:{_WHAT_DATE}(?>(?: (?:is|was|will|would|it|be|the date|that|fall)\b){{0,3}})"
            r"|what(?:['’]?s| is| was)"
            rf"|the (?:date|day)(?: that is)?)(?>(?: exactly)?) (?P<amount>{AMOUNT}) {_UNIT} "
            rf"(?:ago|earlier|before (?P<date>{DATE})){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        # 10 days before Christmas is what date; in 3 weeks, what day will it be
        Pattern(
            rf"(?P<amount>{AMOUNT}) {_UNIT} (?:{_FROM_NOW}|(?:from|after) (?P<date>{DATE}))(?>(?:[,.;:]| -)?) "
            rf"(?:so |and )?(?:(?:is|was|will be|falls on) (?:what|which) (?:date|day)|{_ASK_DATE}){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        Pattern(
            rf"(?P<amount>{AMOUNT}) {_UNIT} (?:ago|before (?P<date>{DATE}))(?>(?:[,.;:]| -)?) (?:so |and )?"
            rf"(?:(?:is|was|will be|falls on) (?:what|which) (?:date|day)|{_ASK_DATE}){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        Pattern(
            rf"\bin (?P<amount>{AMOUNT}) {_UNIT}(?>(?: (?:from now|time))?),? {_ASK_DATE}{END}",
            (constant("operation", "add"), number("amount"), text("unit")),
        ),
        Pattern(
            rf"^(?P<amount>{AMOUNT}) {_UNIT} (?:ago|(?:before|prior to) (?P<date>{DATE})){_ALONE}",
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
            rf"{BEGIN}(?:add|(?:count|go)(?: forwards?)?) (?P<amount>{AMOUNT}) {_UNIT} "
            rf"(?:to|on to|onto|after|(?:forwards? |on )?from) (?P<date>{DATE}){END}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date")),
        ),
        Pattern(
            rf"{BEGIN}(?:subtract|take(?: away)?|deduct|(?:count|go) back(?:wards?)?) (?P<amount>{AMOUNT}) {_UNIT} "
            rf"(?:off|from) (?P<date>{DATE}){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date")),
        ),
        Pattern(
            rf"{BEGIN}(?:count|go) (?P<amount>{AMOUNT}) {_UNIT} back(?:wards?)? from (?P<date>{DATE}){END}",
            (constant("operation", "subtract"), number("amount"), text("unit"), date("date")),
        ),
        Pattern(
            rf"^(?:date |day )?(?P<amount>{AMOUNT}) {_UNIT} (?:{_FROM_NOW}|(?:from|after) (?P<date>{DATE})){_ALONE}",
            (constant("operation", "add"), number("amount"), text("unit"), date("date", optional=True)),
        ),
        # leap years
        Pattern(
            rf"\b(?:is|was|will|isn['’]t|wasn['’]t) (?:the year )?(?:this year|(?P<year>\d{{4}}))"
            rf"(?>(?: be| going to be)?) (?:a )?leap year{END}",
            (constant("operation", "leap_year"), number("year", optional=True)),
        ),
        Pattern(
            rf"\b(?:does|is) (?:the year )?(?P<year>\d{{4}}) (?:count as (?:a )?leap year|leap){END}",
            (constant("operation", "leap_year"), number("year")),
        ),
        Pattern(
            rf"\b(?:(?:if|whether|that) (?P<year>\d{{4}}) (?:is|was|will be)"
            rf"|is it|was it|will it be|are we in|is this) a leap year{END}",
            (constant("operation", "leap_year"), number("year", optional=True)),
        ),
        Pattern(
            rf"\b(?:is|was|will) (?:it|there) (?:be )?a leap year in (?P<year>\d{{4}}){END}",
            (constant("operation", "leap_year"), number("year")),
        ),
        # ISO weeks
        Pattern(
            r"\b(?:(?:what|which) week|(?:iso|calendar) week(?>(?: number)?)|week number|week of the year)"
            r"(?>(?: (?:is|are|does|was|will|we|it|for|of|in|on|be|this)\b){0,3}) "
            rf"(?P<date>{DATE})(?>(?: (?:falls?|be|is|was|will be|belongs))?)(?>(?: (?:in(?:to)?|to))?){END}",
            (constant("operation", "iso_week"), date("date")),
        ),
        Pattern(
            r"\b(?:what|which)(?>(?:['’]?s\b| is\b)?) (?:the )?(?:current )?(?:iso |calendar )?"
            r"week(?>(?: number| of the year)?)"
            rf" (?:is it|are we in|do we have|is this){_NOW}{END}",
            (constant("operation", "iso_week"),),
        ),
        Pattern(
            r"\b(?:what(?:['’]?s| is)|tell me|give me) (?:the |this )?"
            r"(?:(?:current )?(?:iso |calendar )?week(?: number| of the year)|current (?:iso |calendar )?week)"
            rf"{_NOW}{END}",
            (constant("operation", "iso_week"),),
        ),
        Pattern(
            rf"(?P<date>{DATE}) (?:is in|falls in(?:to)?|belongs to) (?:what|which) (?:iso |calendar )?week{END}",
            (constant("operation", "iso_week"), date("date")),
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
    return call


async def call(arguments: dict[str, Any], context: Context, /) -> Output:
    """Run ``arguments["operation"]``."""
    operation: str = arguments["operation"]
    result, sentence = reckoning.OPERATIONS[operation](arguments, context.today)
    return Output({"operation": operation, **result}, sentence)

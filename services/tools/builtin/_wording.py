"""Pieces of regular expressions that several tools' patterns share.

A planner searches these in text that strangers wrote, with white space collapsed to single blanks.
Python's regular expressions have no time limit, so nothing here may backtrack much: repeats are
possessive (``*+``, ``++``, ``?+``) or bounded, and alternatives begin differently. A group is repeated within an
atomic one, ``(?>(?:…)?)``, and not by ``(?:…)?+``, which Python before 3.11.5 matches wrongly (python/cpython#106052).
"""

from __future__ import annotations

from typing import Final


def any_of(*words: str) -> str:
    """A group that matches one of ``words``, the longest first."""
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


# -- numbers ------------------------------------------------------------------------------------------
DIGITS: Final = r"(?:\d++(?>(?:,\d{3}(?!\d))*)(?>(?:\.\d++)?)|\.\d++)"
_LARGE: Final = ("hundred", "thousand", "million", "billion")
_WORD: Final = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    r"|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    rf"|{'|'.join(_LARGE)})\b"
)
_AFTER_LARGE: Final = "(?:" + "|".join(f"(?<={word})" for word in _LARGE) + ") and "
WORDS: Final = rf"\b{_WORD}(?>(?:(?:[ -]|{_AFTER_LARGE}){_WORD}){{0,9}})"  # "two hundred and five"
NUMBER: Final = rf"(?:[-−]?{DIGITS}|{WORDS})(?>(?: and a half\b)?)"
AMOUNT: Final = rf"(?:{NUMBER}|(?:half )?an?(?= \w\w))"  # "3", "three", "a week" but not "a C"
# What a question with a number holds, but for "one", which is more often no number; a ``hint`` begins with it.
ANY_NUMBER: Final = rf"\d|\b(?!one\b){_WORD}|[〇零一二两三四五六七八九十百千万]"

# -- the edges of a request ---------------------------------------------------------------------------
# What was asked for ends here: a mark, the end, or a word that begins something else. "5-4-3 rule" and
# "24 to 10 in overtime" are no sums, since a noun or a preposition follows.
END: Final = (
    r"(?=\s?(?:=\s?)?(?:[?!,;:)？。！，；]|\.(?!\d)|$)|\s(?:is|equals|makes)\s?(?:\?|$)"
    r"|\s?[—…]|\s(?:and|then|please|pls|for me|as well|too|also|thanks|thank you|or not|together|altogether|in total"
    r"|but|exactly|roughly|approximately|by the way|(?:right )?now|at the moment|real quick|plus (?:the|how|what))\b)"
)
# Where a request may begin: at the start, behind a mark, or behind a word that asks or joins.
BEGIN: Final = (
    r"(?:^|[?!,;:.] |[—…] ?|\b(?:and|then|also|please|can you|could you|would you|will you|kindly"
    r"|(?<!made )(?<!helped )(?:me|you)|know|need"
    r"|(?<!how )(?<!used )(?<!able )(?<!ways )(?<!way )to|about|(?:if|when|after) (?:i|you|we)|let['’]?s|quickly|just"
    r"|want|like|first|next|finally|plus) )"
)
ASK: Final = (
    r"\b(?:what(?:['’]?s| is| are| was| will be| would be| about)|how about|how much (?:is|are|would be)|what number is"
    r"|(?:calculate|compute|evaluate|solve|work out|figure out|tell me|give me|find)(?>(?: what(?:['’]?s| is))?))"
    r"(?>(?: the (?:result|value|answer) (?:of|to|for))?) "
)

# -- days ---------------------------------------------------------------------------------------------
_MONTH: Final = (
    r"(?:jan(?>(?:uary)?)|feb(?>(?:ruary)?)|mar(?>(?:ch)?)|apr(?>(?:il)?)|may|june?+|july?+|aug(?>(?:ust)?)|sept?+"
    r"(?>(?:ember)?)"
    r"|oct(?>(?:ober)?)|nov(?>(?:ember)?)|dec(?>(?:ember)?))\b\.?+"
)
_DAY: Final = r"(?:3[01]|[12]\d|0?[1-9])(?>(?:st|nd|rd|th)?)\b"
_YEAR: Final = r"(?>(?:,? (?:\d{4}|(?:this|next|last) year)\b)?)"
WEEKDAY: Final = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day\b"
_HOLIDAY: Final = (
    r"(?:christmas(?>(?: eve| day)?)|xmas|boxing day|new year['’]?s eve|new year(?>(?:['’]?s)?)(?>(?: day)?)|halloween"
    r"|valentine['’]?s(?>(?: day)?)|(?:the )?end of (?:the|this|next) year)\b"
)
_RELATIVE: Final = r"(?:the day (?:after tomorrow|before yesterday)|today|tomorrow|yesterday)\b"
DATE: Final = (
    r"(?:\d{4}-\d{1,2}-\d{1,2}\b|\d{4}/\d{1,2}/\d{1,2}\b|\d{1,2}[/.]\d{1,2}[/.]\d{4}\b"
    rf"|{_MONTH} (?:the )?{_DAY}{_YEAR}|(?:the )?{_DAY} (?:of )?{_MONTH}{_YEAR}"
    rf"|{_RELATIVE}|(?:(?:next|this|last|coming) )?{WEEKDAY}|{_HOLIDAY}{_YEAR}"
    r"|\d{4}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?[日号]|今天|明天|昨天|后天|前天)"
)

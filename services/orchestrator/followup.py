"""Questions that only make sense with the session: "And in Chinese?", "What about Consul?", "How does it
start?"

A search knows nothing of what was said before, so such a question is completed: the telling words of the
question before (as it was completed itself) are put behind it in brackets. That is the turn's *query*: what
the retriever searches. The generator is given both, what was written and the query, so that what is asked can
outweigh what it is about. Rules, no model:

- it **begins like a continuation**: and, or, but, so, also, what about, how about, why, …;
- it is **elliptical**: at most ``_SHORT_WORDS`` words that begin with a preposition;
- it **points back**: it, its, they, them, this, that, these, those, the same, the former, … A pronoun
  that stands behind its own noun ("Does Weft log what it does?") points into the question itself: only
  those within the first ``_POINTING_WORDS`` words count, unless nothing else in the question tells what
  it is about;
- in Chinese: it begins with 那, 那么, 还有, ends with 呢, or holds 它, 他们, 这个, 那个, …

A question that is completed needlessly searches with a few words too many; one that is not completed
finds nothing. The rules lean to the former.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from services.orchestrator.types import Exchange

_SHORT_WORDS: Final = 6
_POINTING_WORDS: Final = 5
_MAX_ADDED_WORDS: Final = 12
_MAX_ADDED_CHARS: Final = 300
_MAX_QUERY_CHARS: Final = 8_192

_WORD: Final = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*")
_CONTINUES: Final = re.compile(
    r"\s*(?:(?:and|or|but|so|also|then|what about|how about|what of|what else|anything else|tell me more|more about"
    r"|go on|same|likewise|instead)\b|(?:why|how so|since when|how come|such as|for example|really)\W*$"
    r"|那么?|还有|然后|另外|而且)",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PREPOSITIONS: Final = _words("in on at for with without by from to of under over during before after as via")
_POINTERS: Final = _words("it its itself they them their theirs this that these those he him his she her hers one ones")
_BACK_REFERENCES: Final = re.compile(
    r"\bthe (?:same|former|latter|first one|second one|last one|other one|others?|above|previous)\b|\bsuch an? \w+"
    r"|它|他们|她们|这个|那个|这些|那些|上述|前者|后者|呢[?？\s]*$",
    re.IGNORECASE,
)
# "It" that points nowhere: "Is it possible…", "How long does it take…", "What time is it".
_EMPTY_IT: Final = re.compile(
    r"\b(?:is|was|would|will) it (?:possible|necessary|safe|ok|okay|allowed|true|better|worth)\b|\bdoes it take\b"
    r"|\btime is it\b|\bday is it\b|\bdate is it\b|\bit is (?:possible|necessary)\b",
    re.IGNORECASE,
)
_CJK: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]")
_FUNCTION_WORDS: Final = _words(
    """a about all also am an and any are aren't as at be been being but by can can't could did didn't do does
    doesn't doing don't else ever every explain find for from get give go had has have he her him his how i if in into
    is isn't it its just let long made make many may me might more most much must my no not of off on one or our out
    over please same shall she should show so some such tell than that the their them then there these they thing
    things this those through to too under up us very was wasn't we were what what's when where which while who whom
    whose why will with without won't would yet you your yours"""
)


def completed(question: str, history: Sequence[Exchange]) -> str:
    """The question as it stands alone: itself, or with the telling words of the one before."""
    if not history or not leans_back(question):
        return question
    before = history[-1].query or history[-1].question
    added = _telling_words(before, question)
    return f"{question} ({added})"[:_MAX_QUERY_CHARS] if added else question


def leans_back(question: str) -> bool:
    """Whether a question needs what was said before."""
    if _CONTINUES.match(question) or _BACK_REFERENCES.search(question):
        return True
    words = [word.lower() for word in _WORD.findall(question)]
    if not words:
        return False
    if len(words) <= _SHORT_WORDS and words[0] in _PREPOSITIONS:
        return True
    places = [place for place, word in enumerate(words) if word in _POINTERS]
    if not places or _EMPTY_IT.search(question):
        return False
    telling = [place for place, word in enumerate(words) if word not in _FUNCTION_WORDS]
    begins_with_it = places[0] < _POINTING_WORDS and not any(place < places[0] for place in telling)
    return begins_with_it or len(telling) <= 1


def _telling_words(before: str, question: str) -> str:
    """What ``before`` is about and ``question`` doesn't say itself."""
    if _CJK.search(before):  # no spaces to find words by
        return before[:_MAX_ADDED_CHARS]
    said = {word.lower() for word in _WORD.findall(question)}
    added: list[str] = []
    for word in _WORD.findall(before):
        if word.lower() not in said and word.lower() not in _FUNCTION_WORDS:
            said.add(word.lower())
            added.append(word)
    return " ".join(added[:_MAX_ADDED_WORDS])[:_MAX_ADDED_CHARS]

"""Where sentences end.

A sentence ends at . ! ? or … when white space and a plausible beginning follow: an upper-case letter, a
digit, an opening quote or bracket, or a letter of a script without case. It does not end after an
abbreviation ("Dr.", "e.g.") or a lone capital ("J. Smith"). The full-width 。！？； end one wherever they
stand, with closing quotes and brackets after them. A blank line always ends one.

The answer is a list of spans that covers the text without gap or overlap, trailing white space with
the sentence before it, so that joining the spans gives the text back.
"""

from __future__ import annotations

import re

_CLOSERS = "\"'”’»)\\]}」』）】》〉"
_END = re.compile(
    rf"(?P<wide>[。！？；]+[{_CLOSERS}]*\s*)"
    rf"|(?P<narrow>(?P<point>[.!?…]+)[{_CLOSERS}]*\s+)"
    r"|(?P<blank>[^\S\n]*\n[^\S\n]*\n\s*)"
)
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]+$")
_BEFORE_NAME = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "gen", "col", "sgt", "capt", "rev", "hon", "gov", "sen", "rep"}
)
_BEFORE_NUMBER = frozenset({"no", "nos", "vol", "p", "pp", "ch", "sec", "art", "fig", "figs", "eq", "approx", "ca"})
_WITHIN = frozenset({"e.g", "i.e", "cf", "vs", "viz", "resp", "z.b", "d.h", "bzw"})
_OPENERS = "\"'“‘«([{「『（【《〈"


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Spans of the sentences of ``text[start:end]``, as (start, end) in code points of ``text``."""
    stop = len(text) if end is None else end
    spans: list[tuple[int, int]] = []
    begin = start
    for match in _END.finditer(text, start, stop):
        mark = match.group("point")
        if mark is not None and not _ends_here(text, begin, match.start(), match.end(), stop, mark):
            continue
        if match.end() > begin:
            spans.append((begin, match.end()))
            begin = match.end()
    if begin < stop:
        spans.append((begin, stop))
    return spans


def _ends_here(text: str, begin: int, point: int, after: int, stop: int, mark: str) -> bool:
    if after >= stop:
        return True
    following = text[after]
    if following in _OPENERS and after + 1 < stop:
        following = text[after + 1]
    if following.islower():
        return False
    if mark != ".":
        return True
    word = _WORD_BEFORE.search(text, max(begin, point - 24), point)
    if word is None:
        return True
    last = word.group().lower()
    if following.isdigit():
        return last not in _BEFORE_NUMBER
    initial = len(last) == 1 and word.group().isupper()
    return not (initial or last in _BEFORE_NAME or last in _WITHIN)

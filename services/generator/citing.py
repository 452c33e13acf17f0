"""Reads citations off an answer: `[1]` in what a chat model wrote, and which words it stands behind.

    Sessions expire after one hour [1]. They can be renewed.[2, 3]
    └──────── passage 1 ─────────┘      └ passages 2 and 3 ┘

A mark speaks of the sentence it stands in or behind, from the mark before it on; at the beginning of a sentence, of
what follows. Marks are ids in square brackets, `[1]`, `[1, 3]`, `[1][3]`, `[2-4]`, `【1】`. Ids that no passage has are
passed over, and so is what stands in code or is a link. Nothing is guessed beyond that: which words of the passage
carry the claim is not known, so `quote` stays empty.

**The marks stay in the text.** So it passes through unchanged and unheld, a reader sees where a claim comes from, and
offsets, token ids and the text that a resumption counts on keep agreeing. Offsets are code points of the whole answer.

An answer that is the template's sentence for "no answer" and nothing else ends as ABSTAINED. One that is held to a
JSON Schema is left alone: its brackets are lists.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from typing import Final

from services.generator.text.abstention import abstains
from services.generator.types import End, ModelEvent, Piece, Request
from weft.values import Citation, FinishReason, Passage

MAX_CITATIONS: Final = 256  # and marks that are looked at: an answer that is nothing but marks costs no more
MAX_CLAIM_CHARS: Final = 2_000
_IDS: Final = r"\d{1,3}(?:\s?[,;，；、–-]\s?\d{1,3}){0,15}"
_MARK: Final = re.compile(rf"\[({_IDS})\](?!\()|【({_IDS})】|［({_IDS})］")
_BETWEEN: Final = re.compile(r"[ ,;，、]{0,3}")  # of marks that belong together
_CODE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,200}`", re.DOTALL)
_EDGE: Final = re.compile(r"(?:[.!?][\"'”’)*_]{0,3}(?=\s)|[。！？][”’」』）]{0,2}|\n)\s*")
_END: Final = re.compile(r"[.!?。！？\n]")
_LEADING: Final = re.compile(r"(?:[\s.,;:!?，。；：！？、)）*_#>•-]|\d{1,3}[.)]\s)+")
_JOINT: Final = re.compile(r"[ :,–-]+")
_RANGE: Final = re.compile(r"(\d+)\s?[–-]\s?(\d+)")


async def cited(events: AsyncGenerator[ModelEvent, None], request: Request) -> AsyncGenerator[ModelEvent, None]:
    """Yield what `events` yields, the End with the citations of the text before it."""
    resume = request.resume
    pieces, unknown_chars = [resume.emitted_text if resume else ""], 0
    if resume and not resume.emitted_text:
        unknown_chars = resume.emitted_chars
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Piece):
                pieces.append(event.text)
            elif isinstance(event, End) and request.json_schema is None:
                event = _with_citations(event, "".join(pieces), unknown_chars, request)
            yield event


def _with_citations(end: End, text: str, unknown_chars: int, request: Request) -> End:
    if not unknown_chars and (reason := reason_of(end, text, request)) is not end.reason:
        return replace(end, reason=reason)
    if end.citations or not request.passages:
        return end
    found = citations(text, request.passages)
    if unknown_chars:
        found = [
            replace(c, start_char=c.start_char + unknown_chars, end_char=c.end_char + unknown_chars) for c in found
        ]
    return replace(end, citations=tuple(found))


def reason_of(end: End, text: str, request: Request) -> FinishReason:
    """Why a chat model's answer ended, which says by its words that it abstains."""
    said_so = request.grounded_only and end.reason is FinishReason.STOP and abstains(text)
    return FinishReason.ABSTAINED if said_so else end.reason


def citations(text: str, passages: Sequence[Passage]) -> list[Citation]:
    """Return what the marks in a text say, by start."""
    found: dict[tuple[int, int, int], Citation] = {}
    for ids, start, end in islice(_claims(text), MAX_CITATIONS):
        for number in ids:
            if 1 <= number <= len(passages) and len(found) < MAX_CITATIONS:
                passage = passages[number - 1]
                found.setdefault(
                    (start, end, number),
                    Citation(
                        passage=passage.name,
                        start_char=start,
                        end_char=end,
                        title=passage.title,
                        section=passage.section,
                        page=passage.page,
                        source=passage.source,
                    ),
                )
    return sorted(found.values(), key=lambda citation: citation.start_char)


def _claims(text: str) -> Iterator[tuple[list[int], int, int]]:
    """Yield the ids of each group of marks, and where what they speak of begins and ends."""
    behind = 0  # the end of the group before
    for ids, group_start, group_end in _groups(text):
        start, end = _before(text, behind, group_start)
        if start >= end:
            start, end = _after(text, group_end)
        if start < end:
            yield ids, start, end
        behind = group_end


def _groups(text: str) -> Iterator[tuple[list[int], int, int]]:
    code = iter([match.span() for match in _CODE.finditer(text)] if "`" in text else ())
    code_start, code_end = next(code, (len(text), len(text)))
    ids: list[int] = []
    start = end = 0
    for mark in _MARK.finditer(text):
        while code_end <= mark.start() and code_end < len(text):
            code_start, code_end = next(code, (len(text), len(text)))
        if code_start <= mark.start() < code_end:
            continue
        if ids and not _BETWEEN.fullmatch(text, end, mark.start()):
            yield ids, start, end
            ids = []
        if not ids:
            start = mark.start()
        ids += _numbers(mark[1] or mark[2] or mark[3])
        end = mark.end()
    if ids:
        yield ids, start, end


def _numbers(ids: str) -> list[int]:
    """The ids of one mark; a range counts in full."""
    found: list[int] = []
    for part in re.split(r"[,;，；、]", ids):
        if (between := _RANGE.fullmatch(part.strip())) is not None:
            found += range(int(between[1]), int(between[2]) + 1)
        else:
            found += [int(number) for number in re.findall(r"\d+", part)]
    return found


def _before(text: str, behind: int, group_start: int) -> tuple[int, int]:
    """The sentence that stands before a mark, or the part of it since the mark before."""
    end = group_start
    while end > behind and text[end - 1].isspace():
        end -= 1
    start = behind
    for edge in _EDGE.finditer(text, behind, max(behind, end - 1)):
        if edge.end() < end:
            start = edge.end()
    if (leading := _LEADING.match(text, start, end)) is not None:
        start = leading.end()
    return start, end


def _after(text: str, group_end: int) -> tuple[int, int]:
    """What follows a mark at the beginning of a sentence, to the sentence's end."""
    start = group_end
    if (leading := _JOINT.match(text, start)) is not None:
        start = leading.end()
    most = min(len(text), start + MAX_CLAIM_CHARS)
    stop = _END.search(text, start, most)
    return start, stop.start() if stop else len(text[start:most].rstrip()) + start

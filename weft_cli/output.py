"""Text for people, on a terminal and in a pipe: the same words, with colour and bars only where they help.

Nothing is wrapped or cut to fit in a pipe, and columns are padded with blanks, so that ``grep``, ``cut`` and
``awk`` see what is there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import typer

from weft.answers import Answer, Citation, Degradation, Hit, Ledger, SearchResult, Usage, as_dict
from weft.errors import WeftError

_PIPE_WIDTH: Final = 100
_SNIPPET_CHARS: Final = 280
_BAR_CHARS: Final = 32


def is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout.isatty()


def width() -> int:
    """Columns to draw in."""
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns if is_terminal() else _PIPE_WIDTH


def say(text: str = "", *, bold: bool = False, dim: bool = False, colour: str | None = None) -> None:
    """One line; style only on a terminal."""
    typer.secho(text, bold=bold or None, dim=dim or None, fg=colour)


def print_json(value: Any) -> None:
    """``value`` as the SDK's shape, one JSON document."""
    typer.echo(json.dumps(as_dict(value), ensure_ascii=False, indent=2, default=str))


def print_error(error: WeftError, *, as_json: bool) -> None:
    """One line on stderr, or an object on stdout."""
    if as_json:
        print_json({"error": as_dict(error)})
        return
    trace = f" (weft trace {error.trace_id})" if error.trace_id else ""
    wait = f"; try again in {error.retry_after_s:g} s" if error.retry_after_s else ""
    typer.secho(f"weft: {error.message}{wait} [{error.reason}]{trace}", err=True, fg="red")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns padded with blanks, two between them."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(headings), *cells]) for n in range(len(headings))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(value.ljust(size) for value, size in zip(values, widths, strict=True)).rstrip()

    say(line(headings), bold=True)
    for row in cells:
        say(line(row))


def place(title: str, section: str, source: str, page: int) -> str:
    """Where a passage stands, for a person: ``guide.pdf, p. 12, § Setup``, ``guide.md § Setup``."""
    head = source or title or "?"
    if page:
        head += f", p. {page}" + ("," if section else "")
    return f"{head} § {section}" if section else head


def print_answer_tail(answer: Answer, *, ledger: bool) -> None:
    """What stands below an answer's text."""
    cited: dict[str, list[Citation]] = {}
    for citation in answer.citations:
        cited.setdefault(citation.passage, []).append(citation)
    if cited:
        say("\nsources", bold=True)
    marks = {passage.name: number for number, passage in enumerate(answer.passages, 1)}
    for number, (first, *more) in enumerate(cited.values(), 1):
        if not first.quote:  # a chat model's citation: its text says [3] of the third passage
            number = marks.get(first.passage, number)
        say(f"  [{number}] {place(first.title, first.section, first.source, first.page)}")
        for quote in dict.fromkeys(citation.quote for citation in (first, *more) if citation.quote):
            say(f"      “{snippet(quote)}”", dim=True)
    print_degraded(answer.degraded)
    if ledger:
        say()
        print_ledger(answer.ledger)
        if answer.usage.input_tokens:
            print_usage(answer.usage)
    notes = [name for name, true in (("from the cache", answer.cached), ("replayed", answer.replayed)) if true]
    say(
        f"\nsession {answer.session.removeprefix('sessions/')} · trace {answer.trace_id[:16]}"
        + " · ".join(["", *notes])
    )


def print_degraded(degraded: Iterable[Degradation]) -> None:
    """What a reply went without."""
    for item in degraded:
        detail = f": {item.detail}" if item.detail else ""
        say(f"went without {item.stage} ({item.reason}), {item.fallback.replace('_', ' ')}{detail}", colour="yellow")


def print_ledger(ledger: Ledger) -> None:
    """Where the time of a turn went."""
    whole_ms = max(ledger.elapsed_ms, 0.001)
    say(f"ledger: {ledger.elapsed_ms:.0f} ms of {ledger.deadline_ms:.0f} ms", bold=True)
    for entry in ledger.entries:
        bar = draw_bar(entry.start_ms / whole_ms, (entry.start_ms + entry.duration_ms) / whole_ms, _BAR_CHARS)
        status = "" if entry.status == "OK" else f"  {entry.status}"
        say(f"  {entry.stage:<12} {bar} {entry.duration_ms:8.1f} ms{status}")


def print_usage(usage: Usage) -> None:
    """What a model read and wrote, and what that cost where it has a price."""
    cached = f" ({usage.cached_tokens:,} of them cached)" if usage.cached_tokens else ""
    cost = f" · {usage.cost_micros / 1e6:.6f} {usage.currency}" if usage.currency else ""
    say(f"tokens: {usage.input_tokens:,} read{cached}, {usage.output_tokens:,} written{cost}")


def draw_bar(start: float, end: float, size: int) -> str:
    """A bar from ``start`` to ``end``, both shares of the whole; never quite empty."""
    first = min(size - 1, max(0, int(start * size)))
    last = min(size, max(first + 1, round(end * size)))
    return " " * first + "━" * (last - first) + " " * (size - last)


def print_search(result: SearchResult) -> None:
    """Hits, best first."""
    for number, hit in enumerate(result.hits, 1):
        _print_hit(number, hit)
    if not result.hits:
        say("nothing found")
    print_degraded(result.degraded)


def _print_hit(number: int, hit: Hit) -> None:
    say(f"{number}. {place(hit.title, hit.section, hit.source, hit.page)}  ({hit.score:.3f})", bold=True)
    if hit.parts:
        say("   " + ", ".join(f"{name} {score:.3f}" for name, score in sorted(hit.parts.items())))
    say(f"   {snippet(hit.text)}")


def snippet(text: str) -> str:
    """``text`` on one line, cut at a word."""
    line = " ".join(text.split())
    return line if len(line) <= _SNIPPET_CHARS else line[:_SNIPPET_CHARS].rsplit(" ", 1)[0] + " …"

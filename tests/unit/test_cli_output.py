"""What people see: columns, bars, waterfalls; the same in a terminal and in a pipe."""

from __future__ import annotations

import io
import threading
from datetime import datetime
from typing import TextIO, cast

import pytest

from weft.answers import Answer, Citation, Degradation, Hit, Ledger, LedgerEntry, SearchResult, Usage
from weft.mesh.v1 import trace_pb2
from weft.values import Passage
from weft_cli import output
from weft_cli.commands.trace import print_list
from weft_cli.logs import Logs
from weft_cli.waterfall import answered, complete, print_waterfall


def span(number: int, parent: int, name: str, start_ms: float, end_ms: float, **fields: str) -> trace_pb2.Span:
    return trace_pb2.Span(
        span_id=f"{number:016x}",
        parent_span_id=f"{parent:016x}" if parent else "",
        name=name,
        service=fields.pop("service", "orchestrator"),
        start_unix_ns=int(start_ms * 1e6),
        end_unix_ns=int(end_ms * 1e6),
        **fields,
    )


TRACE = [
    span(3, 2, "weft.retriever.v1.RetrieverService/Search", 110, 120, status="error", status_message="gone"),
    span(1, 0, "ask", 100, 140, service="cli"),
    span(2, 1, "turn.retrieval", 105, 125),
]


def test_a_waterfall_is_indented_by_parent_and_ordered_by_start(capsys: pytest.CaptureFixture[str]) -> None:
    print_waterfall("ab" * 16, TRACE)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"trace {'ab' * 16} · 3 spans · 40.0 ms"
    assert [line.split("  cli")[0].split("  orch")[0].rstrip() for line in lines] == [
        "ask",
        "  turn.retrieval",
        "    RetrieverService/Search",
    ]
    assert lines[0].rstrip().endswith("40.0 ms")
    assert lines[2].endswith("10.0 ms  error gone")
    bars = [(line.index("━"), line.count("━")) for line in lines]
    assert bars[0][0] < bars[1][0] < bars[2][0]
    assert bars[0][1] > bars[1][1] > bars[2][1] > 0


def test_the_list_of_traces_says_when_how_long_which_and_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    began_s = datetime(2026, 3, 1, 12, 30, 15).timestamp()
    item = {"trace_id": "ab" * 16, "name": "ask", "span_count": 9, "start_unix_ns": int(began_s * 1e9)}
    one = {**item, "duration_ms": 41.23, "error": False, "services": ["cli"]}
    print_list([one, {**one, "error": True, "name": "services.v1.Search"}], 57)
    head, first, second, foot = capsys.readouterr().out.splitlines()
    assert head.split() == ["STARTED", "DURATION", "STATUS", "ROOT", "SPAN", "SPANS", "TRACE"]
    assert first.split() == ["2026-03-01", "12:30:15", "41.2", "ms", "ok", "ask", "9", "ab" * 8]
    assert second.split()[4:6] == ["failed", "services.v1.Search"]
    assert foot == "showing 2 of 57, newest first; --limit N shows more"
    print_list([one], 1)
    assert capsys.readouterr().out.endswith("showing 1 of 1, newest first\n")


def test_a_span_without_its_parent_is_shown_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    orphans = [item for item in TRACE if item.name != "turn.retrieval"]
    print_waterfall("ab" * 16, orphans)
    assert "? RetrieverService/Search" in capsys.readouterr().out
    assert complete(TRACE)
    assert not complete(orphans)
    assert not complete([])


def test_a_call_whose_server_was_not_heard_of_yet_is_told_from_one_that_failed() -> None:
    client = span(2, 1, "Search", 0, 1, kind="client")
    assert not answered([client])
    assert answered([client, span(3, 2, "Search", 0, 1, kind="server")])
    assert answered([span(2, 1, "Search", 0, 1, kind="client", status="error")])


def test_a_cycle_of_spans_does_not_hang_the_waterfall(capsys: pytest.CaptureFixture[str]) -> None:
    print_waterfall("ab" * 16, [span(1, 1, "selfish", 0, 1), span(2, 0, "root", 0, 1)])
    assert "selfish" in capsys.readouterr().out


def test_columns_line_up_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "LONGER"), [("x" * 200, 1), ("y", 22)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.index(cell) for line, cell in zip(lines, ("LONGER", "1", "22"), strict=True)] == [202, 202, 202]


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0.999, 1), (0, 1), (1, 1), (-0.1, 1.2), (0.4, 0.4)])
def test_a_bar_keeps_its_width_and_is_never_empty(start: float, end: float) -> None:
    bar = output.draw_bar(start, end, 20)
    assert len(bar) == 20
    assert "━" in bar


def test_a_chat_models_sources_bear_the_numbers_of_its_marks(capsys: pytest.CaptureFixture[str]) -> None:
    passages = tuple(Passage(f"c/{n}", "text") for n in (1, 2, 3))
    citations = tuple(Citation(f"c/{n}", 0, 1, source=f"{n}.md") for n in (3, 2))
    answer = Answer(
        "A [3]. B [2].", citations, "sessions/s", "sessions/s/turns/1", "ab" * 16, "stop", passages=passages
    )
    output.print_answer_tail(answer, ledger=False)
    shown = capsys.readouterr().out
    assert "[3] 3.md" in shown
    assert "[2] 2.md" in shown


def test_an_answer_shows_each_source_once_with_its_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    citations = tuple(
        Citation(f"c/{passage}", 0, 1, quote=quote, section="S", source="a.md")
        for passage, quote in (("1", "first"), ("1", "second"), ("2", "third"))
    )
    answer = Answer(
        "text",
        citations,
        session="sessions/s",
        turn="sessions/s/turns/1",
        trace_id="ab" * 16,
        finish_reason="stop",
        usage=Usage(1_812, 95, 640, 2_100, "EUR"),
        ledger=Ledger(
            30_000, 50, (LedgerEntry("retrieval", 0, 25, 0, "OK"), LedgerEntry("tools", 25, 5, 0, "ABORTED"))
        ),
        degraded=(Degradation("tools", "TOOL_TIMEOUT", "without_tools", "too slow"),),
        cached=True,
    )
    output.print_answer_tail(answer, ledger=True)
    shown = capsys.readouterr().out
    assert shown.count("a.md § S") == 2
    assert all(f"“{quote}”" in shown for quote in ("first", "second", "third"))
    assert "went without tools (TOOL_TIMEOUT), without tools: too slow" in shown
    assert "ledger: 50 ms of 30000 ms" in shown
    assert "tokens: 1,812 read (640 of them cached), 95 written · 0.002100 EUR" in shown
    assert "5.0 ms  ABORTED" in shown
    assert "session s · trace abababababababab · from the cache" in shown


def test_a_search_shows_hits_on_lines_and_says_when_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_search(SearchResult((Hit("two\nlines", 0.5, "d", {}, source="a.md", page=3),), None))
    assert capsys.readouterr().out == "1. a.md, p. 3  (0.500)\n   two lines\n"
    assert output.place("Guide", "Start § Setup", "guide.pdf", 12) == "guide.pdf, p. 12, § Start § Setup"
    output.print_search(SearchResult((), None))
    assert capsys.readouterr().out == "nothing found\n"


def test_log_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    class Stalled(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.gate = threading.Event()

        def write(self, text: str) -> int:
            self.gate.wait(10)
            return super().write(text)

    stream = Stalled()
    logs = Logs(["a"], cast(TextIO, stream))
    for number in range(6_000):
        logs.line("a", f"line {number}")  # returns at once, though nothing is written
    stream.gate.set()
    logs.close()
    written = stream.getvalue()
    assert "a │ line 0\n" in written
    assert "lines were dropped: nobody read them" in written
    assert written.count("line ") < 6_000

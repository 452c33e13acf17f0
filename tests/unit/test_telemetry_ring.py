"""The ring of traces keeps to its bounds whatever comes in, and never shows half a trace as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.telemetry.collector.ring import StoredSpan, TraceRing


def ring(**bounds: int) -> TraceRing:
    given = {"max_traces": 3, "max_spans_per_trace": 4, "max_trace_bytes": 10_000, "max_bytes": 100_000}
    return TraceRing(**{**given, **bounds})


def span(size: int = 10) -> StoredSpan:
    return StoredSpan("tools", "t-1", b"x" * size)


def trace_id(number: int) -> str:
    return f"{number:032x}"


def test_the_oldest_trace_makes_room_for_a_new_one() -> None:
    kept = ring()
    for number in range(1, 6):
        assert kept.add(trace_id(number), span())
    assert [t.trace_id for t in kept.newest(10)] == [trace_id(5), trace_id(4), trace_id(3)]
    assert kept.evicted == 2


def test_a_late_span_joins_its_trace_and_does_not_make_it_newer() -> None:
    kept = ring()
    for number in (1, 2, 1):
        kept.add(trace_id(number), span())
    assert [(t.trace_id, len(t.spans)) for t in kept.newest(10)] == [(trace_id(2), 1), (trace_id(1), 2)]


def test_a_late_span_of_an_evicted_trace_pushes_nobody_out() -> None:
    kept = ring()
    for number in range(1, 5):
        kept.add(trace_id(number), span())
    assert not kept.add(trace_id(1), span())
    assert len(kept) == 3
    assert kept.dropped == 1
    assert kept.find(trace_id(1)) == []


def test_a_full_trace_takes_no_more_spans() -> None:
    kept = ring()
    assert [kept.add(trace_id(1), span()) for _ in range(6)] == [True] * 4 + [False] * 2
    assert not kept.add(trace_id(2), span(20_000))
    assert kept.find(trace_id(2)) == []


def test_bytes_are_bounded_before_traces_are() -> None:
    kept = ring(max_traces=1_000, max_bytes=20_000)
    for number in range(1, 100):
        kept.add(trace_id(number), span(1_000))
    assert kept.bytes <= 20_000
    assert 10 < len(kept) < 20


def test_prefixes_find_every_trace_they_fit() -> None:
    kept = ring()
    for number in ("abcd" + "0" * 28, "abcd" + "1" * 28, "ffff" + "1" * 28):
        kept.add(number, span())
    assert len(kept.find("abcd")) == 2
    assert [t.trace_id for t in kept.find("abcd1")] == ["abcd" + "1" * 28]
    assert kept.find("abce") == []
    assert len(kept.find("ffff" + "1" * 28)) == 1


def test_pages_stay_where_they_were_while_traces_come_in() -> None:
    kept = ring(max_traces=10)
    for number in range(1, 7):
        kept.add(trace_id(number), span())
    first = kept.newest(2)
    kept.add(trace_id(7), span())
    second = kept.newest(2, before=first[-1].sequence)
    assert [t.trace_id for t in first + second] == [trace_id(n) for n in (6, 5, 4, 3)]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4_000)), max_size=200), st.integers(1, 5))
def test_the_bounds_hold_and_the_sums_are_right_after_any_sequence(adds: list[tuple[int, int]], traces: int) -> None:
    kept = ring(max_traces=traces, max_trace_bytes=6_000, max_bytes=12_000)
    for number, size in adds:
        kept.add(trace_id(number), span(size))
        every = kept.newest(100)
        assert len(kept) == len(every) <= traces
        assert all(0 < len(t.spans) <= 4 and t.bytes <= 6_000 for t in every)
        assert kept.bytes == sum(t.bytes for t in every) == sum(s.bytes for t in every for s in t.spans) <= 12_000
        assert [t.sequence for t in every] == sorted((t.sequence for t in every), reverse=True)
    assert kept.added + kept.dropped == len(adds)


@pytest.mark.parametrize("number", [1, 2])
def test_evicted_ids_are_forgotten_in_the_end(number: int) -> None:
    kept = ring(max_traces=1)
    for other in range(1, 10):
        kept.add(trace_id(other), span())
    assert kept.add(trace_id(number), span())  # only the last two evicted are remembered

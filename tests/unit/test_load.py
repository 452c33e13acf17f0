"""What an instance says of its load, and what the balancer makes of it."""

from __future__ import annotations

import math

import pytest

from mesh.load import LoadMeter
from mesh.settings import LoadWeights
from weft.xds.v1 import orca_pb2


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def reported(meter: LoadMeter, clock: Clock, *, seconds: float = 1.0, finished: int = 0) -> orca_pb2.OrcaLoadReport:
    """The report after so many seconds in which so many calls ended."""
    clock.now_s += seconds
    meter.finished += finished
    return meter.report()


def meter(**weights: float) -> tuple[LoadMeter, Clock]:
    clock = Clock()
    return LoadMeter(LoadWeights(**{"cpu": 0.0, "pending": 1.0, "pending_full": 10, **weights}), clock), clock


def weight(report: orca_pb2.OrcaLoadReport) -> float:
    """How much a replica is picked, by gRPC's client_side_weighted_round_robin (gRFC A58); 0 is "unknown"."""
    if report.rps_fractional <= 0 or report.application_utilization <= 0:
        return 0.0
    return report.rps_fractional / report.application_utilization


def test_an_idle_replica_can_be_weighed_and_is_picked_most() -> None:
    idle, busy = meter(), meter()
    busy[0].pending = 8
    assert math.isfinite(weight(reported(*idle)))
    assert weight(reported(*idle)) > 5 * weight(reported(*busy)) > 0


def test_of_two_on_long_streams_the_one_with_room_is_picked_however_few_have_ended() -> None:
    loaded, free = meter(), meter()
    loaded[0].pending, free[0].pending = 9, 2
    for ended_by_loaded, ended_by_free in ((0, 0), (3, 0), (0, 3), (3, 1)):
        heavy = weight(reported(*loaded, finished=ended_by_loaded))
        light = weight(reported(*free, finished=ended_by_free))
        assert light > 2 * heavy


def test_of_two_on_short_calls_the_one_that_does_more_for_its_load_is_picked_more() -> None:
    slow, quick = meter(), meter()
    slow[0].pending = quick[0].pending = 5
    assert weight(reported(*quick, finished=400)) > 1.8 * weight(reported(*slow, finished=200))


def test_two_that_do_next_to_nothing_weigh_about_the_same() -> None:
    one, other = meter(pending_full=64), meter(pending_full=64)
    other[0].pending = 1
    first, second = weight(reported(*one)), weight(reported(*other, finished=2))
    assert 0.6 < first / second < 1.6


def test_a_share_counts_with_its_weight_while_it_is_told() -> None:
    told: dict[str, float | None] = {"kv_cache": None}
    load, clock = meter()
    load.add_share("kv_cache", lambda: told["kv_cache"], 3.0)
    load.add_count("waiting", lambda: 7)
    without = reported(load, clock)
    told["kv_cache"] = 0.8
    with_it = reported(load, clock)
    assert "kv_cache" not in without.utilization
    assert with_it.utilization["kv_cache"] == 0.8
    added = with_it.application_utilization - without.application_utilization
    assert added == pytest.approx(0.8 * 3 / 4)
    assert with_it.named_metrics["waiting"] == 7
    told["kv_cache"] = None
    assert reported(load, clock).application_utilization == pytest.approx(without.application_utilization)


def test_what_was_done_is_told_as_it_was() -> None:
    load, clock = meter()
    load.pending = 3
    report = reported(load, clock, seconds=2.0, finished=50)
    assert (report.named_metrics["rps"], report.named_metrics["pending"]) == (25.0, 3.0)

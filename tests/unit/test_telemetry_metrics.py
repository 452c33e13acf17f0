"""The process's numbers: A66's names, a registry that strangers can't grow, and a loop that is watched."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mesh.telemetry import Metrics

SEARCH = "/weft.retriever.v1.RetrieverService/Search"


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(service="retriever", instance_id="r-1", version="v2", zone="z")
    made.register_methods([SEARCH])
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_call_is_counted_from_its_start_to_its_end(metrics: Metrics) -> None:
    label = SEARCH[1:]
    metrics.method(SEARCH).started()
    assert value(metrics, "grpc_server_call_started_total", grpc_method=label) == 1
    assert value(metrics, "weft_server_calls_in_flight", grpc_method=label) == 1
    metrics.method(SEARCH).ended("NOT_FOUND", 0.004)
    assert value(metrics, "weft_server_calls_in_flight", grpc_method=label) == 0
    done = {"grpc_method": label, "grpc_status": "NOT_FOUND"}
    assert value(metrics, "grpc_server_call_duration_seconds_count", **done) == 1
    assert value(metrics, "grpc_server_call_duration_seconds_bucket", le="0.002", **done) == 0
    assert value(metrics, "grpc_server_call_duration_seconds_bucket", le="0.005", **done) == 1


def test_invented_methods_count_as_other_and_add_no_series(metrics: Metrics) -> None:
    metrics.method("/a.B/C").started()
    metrics.method("/a.B/C").ended("UNIMPLEMENTED", 0.0)
    before = generate_latest(metrics.registry).count(b"\n")
    for index in range(100):
        metrics.method(f"/a.B/C{index}").started()
        metrics.method(f"/a.B/C{index}").ended("UNIMPLEMENTED", 0.0)
    assert generate_latest(metrics.registry).count(b"\n") == before
    assert value(metrics, "grpc_server_call_started_total", grpc_method="other") == 101


def test_two_processes_worth_of_metrics_share_nothing(metrics: Metrics) -> None:
    other = Metrics(service="tools", instance_id="t-1", version="v1")
    metrics.method("/x").started()
    assert value(other, "grpc_server_call_started_total", grpc_method="other") == 0


def test_the_scrape_parses_and_names_the_process(metrics: Metrics) -> None:
    metrics.count_from("weft_things", "Things", lambda: 7)
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    assert families["weft_things"].samples[0].value == 7
    assert families["weft_instance_info"].samples[0].labels == {
        "service": "retriever", "instance": "r-1", "version": "v2", "zone": "z",
    }  # fmt: skip
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


async def test_a_blocked_loop_shows_in_the_gauge_and_is_logged_once(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    watch = asyncio.create_task(metrics.watch_loop())
    try:
        with caplog.at_level(logging.ERROR, logger="mesh.telemetry.metrics"):
            await asyncio.sleep(0.6)
            quiet = value(metrics, "weft_event_loop_lag_max_seconds")
            assert quiet is not None
            assert quiet < 0.1
            assert not caplog.records
            for _ in range(2):
                time.sleep(0.8)  # noqa: ASYNC251 - the crime itself
                await asyncio.sleep(0.05)
        lag = value(metrics, "weft_event_loop_lag_max_seconds")
        assert lag is not None
        assert lag > 0.2
        assert len(caplog.records) == 1
        assert "blocked" in caplog.records[0].getMessage()
    finally:
        watch.cancel()


def test_a_call_costs_a_few_microseconds(metrics: Metrics) -> None:
    method, count = metrics.method(SEARCH), 2_000
    started_s = time.thread_time()
    for _ in range(count):
        method.started()
        method.ended("OK", 0.004)
    assert (time.thread_time() - started_s) / count < 50e-6  # measured: 3; a label lookup per call would show


async def test_the_loops_tasks_are_counted_when_somebody_looks(metrics: Metrics) -> None:
    watch = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0)
    before = value(metrics, "weft_event_loop_tasks") or 0.0
    waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in range(7)]
    assert value(metrics, "weft_event_loop_tasks") == before + 7
    for task in (*waiting, watch):
        task.cancel()
    await asyncio.gather(*waiting, watch, return_exceptions=True)
    assert value(metrics, "weft_event_loop_tasks") == before - 1

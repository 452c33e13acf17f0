"""The HTTP port of a process: probes, scrapes, and manners."""

from __future__ import annotations

import asyncio
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh.http import http_endpoint
from mesh.telemetry import Metrics
from tests.support.http import get
from weft.errors import InvalidArgument


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(service="tools", instance_id="t-1", version="v1")


async def test_healthz_flips_with_the_process(metrics: Metrics) -> None:
    serving = True
    async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: serving) as port:
        status, _, body = await get(port, "/healthz")
        assert (status, body) == (200, '{"status":"SERVING"}')
        serving = False
        status, _, body = await get(port, "/healthz")
        assert (status, body) == (503, '{"status":"NOT_SERVING"}')


async def test_a_scrape_parses(metrics: Metrics) -> None:
    async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: True) as port:
        status, head, body = await get(port, "/metrics")
        assert status == 200
        assert "content-type: text/plain; version=0.0.4" in head
        assert {f.name for f in text_string_to_metric_families(body)} > {"weft_instance_info", "process_cpu_seconds"}
        _, head, body = await get(port, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n")
        assert "content-type: application/openmetrics-text" in head
        assert body.endswith("# EOF\n")


async def test_nothing_else_is_there(metrics: Metrics) -> None:
    async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: True) as port:
        assert (await get(port, "/"))[0] == 404
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nX-Endless: " + b"x" * 20_000)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_a_taken_port_is_named(metrics: Metrics) -> None:
    async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: True) as port:
        with pytest.raises(InvalidArgument, match=f"127.0.0.1:{port} for /metrics.*WEFT_METRICS_PORT"):
            async with http_endpoint("127.0.0.1", port, metrics.registry, lambda: True):
                pass


async def test_signals_stay_with_the_application_and_the_port_closes_at_the_end(metrics: Metrics) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: True) as port:
        await get(port, "/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        _idle = await asyncio.open_connection("127.0.0.1", port)  # must not hold up the end
        ended = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - ended < 3
    _idle[1].close()
    with pytest.raises(OSError, match="Connect call failed"):
        await get(port, "/healthz")


async def test_it_ends_with_its_block_when_that_is_cancelled_or_fails_at_once(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        async with http_endpoint("127.0.0.1", 0, metrics.registry, lambda: True) as port:
            raise KeyError
    with pytest.raises(OSError, match="Connect call failed"):
        await get(port, "/healthz")

"""The numbers of one process, in a Prometheus registry of its own.

gRPC's server metrics follow gRFC A66. Its label ``grpc_method`` holds only methods that this server
has: anything else counts as ``other``, so that a stranger who invents names can't grow the registry.

    grpc_server_call_started_total{grpc_method}
    grpc_server_call_duration_seconds{grpc_method, grpc_status}     histogram
    weft_server_calls_in_flight{grpc_method}
    weft_event_loop_lag_seconds        how late the last half-second tick came
    weft_event_loop_lag_max_seconds    the worst of the last minute
    weft_event_loop_tasks              asyncio tasks that are not over: a number that only grows is a leak
    weft_start_seconds                 from the process's exec to SERVING
    weft_instance_info{service, instance, version, zone}            always 1
    process_*                          CPU, memory, file descriptors, start time

Labels are looked up once per method and status, and the children kept: a call costs a few additions.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OTHER_METHOD: Final = "other"
# A choice from A66's boundaries: each costs one comparison per call and one line per scrape.
_DURATION_BUCKETS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
)  # fmt: skip
_LAG_INTERVAL_S: Final = 0.5
_LAG_ERROR_S: Final = 0.1
_LAG_WINDOW_SAMPLES: Final = 120  # a minute
_LAG_LOG_EVERY_S: Final = 10.0

_log = logging.getLogger(__name__)


class MethodMetrics:
    """The numbers of one method. ``started`` and ``ended`` come in pairs, once per call."""

    __slots__ = ("_by_status", "_duration", "_in_flight", "_method", "_started")

    def __init__(self, method: str, started: Counter, in_flight: Gauge, duration: Histogram) -> None:
        self._method = method
        self._started = started.labels(method)
        self._in_flight = in_flight.labels(method)
        self._duration = duration
        self._by_status: dict[str, Histogram] = {}

    def started(self) -> None:
        """A call begins."""
        self._started.inc()
        self._in_flight.inc()

    def ended(self, status: str, duration_s: float) -> None:
        """A call is over. ``status`` is the canonical code's name, such as ``OK``."""
        self._in_flight.dec()
        child = self._by_status.get(status)
        if child is None:
            child = self._by_status[status] = self._duration.labels(self._method, status)
        child.observe(duration_s)


class Metrics:
    """One process's registry, and the metrics that every service has.

    Attributes:
        registry: where a service adds its own metrics; what /metrics shows.
    """

    def __init__(self, *, service: str, instance_id: str, version: str, zone: str = "") -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("weft_instance", "What this process is", registry=self.registry).info(
            {"service": service, "instance": instance_id, "version": version, "zone": zone}
        )
        self._started = Counter("grpc_server_call_started", "Calls that began", ["grpc_method"], registry=self.registry)
        self._in_flight = Gauge(
            "weft_server_calls_in_flight", "Calls that run", ["grpc_method"], registry=self.registry
        )
        self._duration = Histogram(
            "grpc_server_call_duration_seconds",
            "How long calls took, in seconds",
            ["grpc_method", "grpc_status"],
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._lag = Gauge(
            "weft_event_loop_lag_seconds", "How late the last tick of the event loop came", registry=self.registry
        )
        self._lag_max = Gauge("weft_event_loop_lag_max_seconds", "Worst lag of the last minute", registry=self.registry)
        self._tasks = Gauge(
            "weft_event_loop_tasks", "Tasks of the event loop that are not over", registry=self.registry
        )
        self._methods: dict[str, MethodMetrics] = {}
        self._other = self._make(OTHER_METHOD)

    def register_methods(self, paths: Iterable[str]) -> None:
        """Name the methods that this server has, as ``/package.Service/Method``."""
        for path in paths:
            if path not in self._methods:
                self._methods[path] = self._make(path.removeprefix("/"))

    def method(self, path: str) -> MethodMetrics:
        """The numbers of ``/package.Service/Method``; those of ``other`` for a method not registered."""
        return self._methods.get(path, self._other)

    def took_to_start(self, seconds: float) -> None:
        """Show how long it took from the process's exec to SERVING."""
        Gauge("weft_start_seconds", "From the process's exec to SERVING", registry=self.registry).set(seconds)

    def count_from(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Show as the counter ``name`` a number that is counted elsewhere; ``read`` must not block."""
        self.registry.register(_ReadCounter(name, documentation, read))

    async def watch_loop(self) -> None:
        """Measure the event loop's lag every half second, until cancelled; count its tasks at each scrape.

        A lag over 100 ms is logged as an error, at most once in ten seconds: something blocked the loop,
        or there is more work than one core does.
        """
        loop = asyncio.get_running_loop()
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        window: deque[float] = deque(maxlen=_LAG_WINDOW_SAMPLES)
        last_logged_s, unlogged = -_LAG_LOG_EVERY_S, 0
        while True:
            expected_s = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            lag_s = max(0.0, loop.time() - expected_s)
            window.append(lag_s)
            self._lag.set(lag_s)
            self._lag_max.set(max(window))
            if lag_s > _LAG_ERROR_S:
                unlogged += 1
                if loop.time() - last_logged_s >= _LAG_LOG_EVERY_S:
                    _log.error(
                        "the event loop was blocked: a tick came %.0f ms late (%d such ticks since the last report)",
                        lag_s * 1_000,
                        unlogged,
                    )
                    last_logged_s, unlogged = loop.time(), 0

    def _make(self, label: str) -> MethodMetrics:
        return MethodMetrics(label, self._started, self._in_flight, self._duration)


class _ReadCounter(Collector):
    """A counter whose value somebody else keeps."""

    def __init__(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self._name, self._documentation, self._read = name, documentation, read

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation)
        family.add_metric([], self._read())
        yield family

"""The numbers of admission, by model. Depths are read when somebody scrapes: a request pays nothing for them.

weft_generator_queue_requests{model}            that wait
weft_generator_queue_tokens{model}              they stand for
weft_generator_queue_wait_seconds{model}        histogram, of those that had to wait and got in
weft_generator_refusals_total{model, why}       full, late, expired, displaced, rate, budget
weft_generator_limits_unshared_total            reservations made in this process alone: the storage was away
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft import names

_WAIT_BUCKETS_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class Depth(Protocol):
    """A queue, as far as it is shown."""

    @property
    def requests(self) -> int: ...

    @property
    def tokens(self) -> int: ...


class AdmissionMetrics:
    """All models' numbers, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queues: dict[str, Depth] = {}
        self._waits = Histogram(
            names.METRIC_QUEUE_WAIT,
            "How long requests waited that had to, in seconds",
            ["model"],
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self._refusals = Counter(
            names.METRIC_REFUSALS, "Requests that were not let in", ["model", "why"], registry=registry
        )
        self._unshared = Counter(
            names.METRIC_LIMITS_UNSHARED, "Reservations made while the storage of limits was away", registry=registry
        )
        registry.register(_Depths(self._queues))

    def watch(self, model: str, queue: Depth) -> None:
        """Show the depth of a model's queue."""
        self._queues[model] = queue
        self._waits.labels(model)

    def waited(self, model: str, seconds: float) -> None:
        """A request's turn came."""
        self._waits.labels(model).observe(seconds)

    def refused(self, model: str, why: str) -> None:
        """A request wasn't let in."""
        self._refusals.labels(model, why).inc()

    def unshared(self) -> None:
        """A reservation was made in this process alone."""
        self._unshared.inc()


class _Depths(Collector):
    def __init__(self, queues: Mapping[str, Depth]) -> None:
        self._queues = queues

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily(names.METRIC_QUEUE_REQUESTS, "Requests that wait", labels=["model"])
        tokens = GaugeMetricFamily(
            names.METRIC_QUEUE_TOKENS, "Tokens that waiting requests stand for", labels=["model"]
        )
        for model, queue in self._queues.items():
            requests.add_metric([model], queue.requests)
            tokens.add_metric([model], queue.tokens)
        yield requests
        yield tokens

"""How busy a generator's models are: to the balancer out of band, and to whoever scrapes.

    weft_generator_running{model}               answers being made
    weft_generator_waiting{model}               answers that wait, in the queue before the model or inside of it
    weft_generator_kv_cache_ratio{model}        used share of the KV cache, where the backend tells it
    weft_generator_gpu_memory_ratio{model}      used share of the GPU's memory, where there is one

The balancer weighs a replica by its calls under way, which are those that run and those that wait, by its CPU, and by
the fullest of its models' KV caches and GPUs: a replica whose cache is full has no room, however few calls fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.load import LoadMeter
from services.generator.ports import Model
from services.generator.types import ModelLoad
from weft import names


def report(models: Mapping[str, Model], meter: LoadMeter, registry: CollectorRegistry, kv_cache_weight: float) -> None:
    """Tell the balancer and ``registry`` of these models from now on."""

    def loads() -> list[ModelLoad]:
        return [model.load() for model in models.values()]

    meter.add_count("running", lambda: sum(load.running for load in loads()))
    meter.add_count("waiting", lambda: sum(load.waiting for load in loads()))
    meter.add_share("kv_cache", lambda: _fullest(load.kv_cache for load in loads()), kv_cache_weight)
    meter.add_share("gpu_memory", lambda: _fullest(load.gpu_memory for load in loads()), meter.weights.gpu_memory)
    registry.register(_Gauges(models))


def _fullest(shares: Iterator[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


_GAUGES: Mapping[str, tuple[str, Callable[[ModelLoad], float | None]]] = {
    names.METRIC_RUNNING: ("Answers being made", lambda load: load.running),
    names.METRIC_WAITING: ("Answers that wait for their turn", lambda load: load.waiting),
    names.METRIC_KV_CACHE: ("Used share of the KV cache", lambda load: load.kv_cache),
    names.METRIC_GPU_MEMORY: ("Used share of the GPU's memory", lambda load: load.gpu_memory),
}


class _Gauges(Collector):
    """Reads the loads when somebody scrapes."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        loads = {name: model.load() for name, model in self._models.items()}
        for name, (documentation, read) in _GAUGES.items():
            family = GaugeMetricFamily(name, documentation, labels=["model"])
            for model, load in loads.items():
                value = read(load)
                if value is not None:
                    family.add_metric([model], value)
            yield family

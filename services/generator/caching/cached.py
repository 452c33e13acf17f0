"""A model whose answers are kept and shared.

    may it be cached? ──no──> the model itself, nothing between
      └─yes─> is the same under way? ──yes──> read it with the others
                └─no─> is it kept? ──yes──> play it back
                         └─no─> begin a run; when it is whole, keep it

Who joins a run depends on its time: the run has the deadline of who began it. Who has more than twice as much time
begins one of its own, which later callers join. And where a run fails for want of time before it has said anything,
those who joined it ask once more: what is too short for one is not too short for all.

Single-flight is of one process. Equal requests at two replicas at once run twice; what the first keeps in a shared
store answers those who come after. A run that is over stays to be joined until its answer is kept, so there is no
gap between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from mesh import deadline as deadlines
from mesh import plugins
from mesh.plugins import Url
from services.generator.caching import answers
from services.generator.caching.flights import Flight
from services.generator.caching.keeping import Keeping, Store
from services.generator.caching.keys import key_of
from services.generator.ports import Model
from services.generator.settings import CACHES
from services.generator.types import ModelEvent, Request
from services.generator.wrapper import Wrapper
from weft import names
from weft.errors import Reason, WeftError

_OF_ITS_TIME: Final = frozenset({Reason.DEADLINE_EXCEEDED, Reason.OVERLOADED})


class CacheMetrics:
    """How often the cache could answer, by model, and how often its store failed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            names.METRIC_CACHE_REQUESTS,
            "Requests that a cached answer was good for: hit, joined (one under way) or miss",
            ["model", "result"],
            registry=registry,
        )
        self.failures = Counter(names.METRIC_CACHE_FAILURES, "Failures of the store of answers", registry=registry)


class Cache:
    """What the models of a process share: the store, the counters."""

    def __init__(self, raw_url: str, ttl_s: float, registry: CollectorRegistry) -> None:
        """Open the store at the URL; answers are kept for ``ttl_s`` seconds."""
        self._metrics = CacheMetrics(registry)
        url = Url.parse(raw_url)
        store: Store = plugins.load(CACHES, url).open(url)
        self._keeping = Keeping(store, ttl_s, on_failure=self._metrics.failures.inc)

    def around(self, model: Model, name: str, url: str) -> Cached:
        """The model, with the cache in front."""
        return Cached(model, name, url, self._keeping, self._metrics)

    async def close(self) -> None:
        """Close the store; after the models."""
        await self._keeping.close()


class Cached(Wrapper):
    """The model ``name`` at ``url`` with a cache in front."""

    def __init__(self, model: Model, name: str, url: str, keeping: Keeping, metrics: CacheMetrics) -> None:
        super().__init__(model)
        self._name, self._url, self._keeping = name, url, keeping
        self._hit, self._joined, self._missed = (
            metrics.requests.labels(name, result) for result in ("hit", "joined", "miss")
        )
        self._open: dict[str, Flight] = {}
        self._flying: set[Flight] = set()

    async def close(self) -> None:
        """Stop what is under way, then close the model."""
        for flight in list(self._flying):
            await flight.close()
        await super().close()

    def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """A kept answer, one under way that others asked for, or the model's."""
        if not request.allow_cached or request.resume is not None or self._is_one_of_many(request):
            return super().generate(request)
        return self._generate(request)

    def _is_one_of_many(self, request: Request) -> bool:
        sampling = request.sampling
        return bool(sampling.temperature) and sampling.seed is None and not self.capabilities.can_repeat

    async def _generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        key = key_of(request, self._name, self._url, self.capabilities)
        for may_ask_again in (True, False):
            flight = self._joinable(key)
            if flight is None:
                answer = await self._keeping.get(key)
                if answer is not None:
                    self._hit.inc()
                    for event in answer.events():
                        yield event
                    return
                flight = self._joinable(key)  # somebody may have begun meanwhile
            joined, said = flight is not None, False
            if flight is None:
                flight = self._begin(key, request)
            (self._joined if joined else self._missed).inc()
            try:
                async with aclosing(flight.read(flight.join())) as events:
                    async for event in events:
                        said = True
                        yield event
                return
            except WeftError as err:
                shorter = flight.deadline_s < _deadline_s()
                if not (joined and may_ask_again and shorter and not said and err.reason in _OF_ITS_TIME):
                    raise

    def _joinable(self, key: str) -> Flight | None:
        flight = self._open.get(key)
        if flight is None:
            return None
        now_s = asyncio.get_running_loop().time()
        enough = flight.deadline_s - now_s >= (_deadline_s() - now_s) / 2
        return flight if enough else None

    def _begin(self, key: str, request: Request) -> Flight:
        async def keep(events: Sequence[ModelEvent]) -> None:
            answer = answers.recorded(events)
            if answer is not None:
                await self._keeping.put(key, answer)

        def closed() -> None:
            if self._open.get(key) is flight:
                del self._open[key]

        flight = Flight(self._model.generate(request), _deadline_s(), keep, closed)
        self._open[key] = flight
        self._flying.add(flight)
        flight.task.add_done_callback(lambda _: self._flying.discard(flight))
        return flight


def _deadline_s() -> float:
    deadline = deadlines.current()
    return float("inf") if deadline is None else deadline.at_s

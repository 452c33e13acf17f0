"""Puts admission together: a gate for each model that needs one, the quota for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry

from mesh import plugins
from mesh.plugins import Url
from services.generator.admission.admitted import Admitted
from services.generator.admission.gate import Gate
from services.generator.admission.metrics import AdmissionMetrics
from services.generator.admission.quota import TenantQuota
from services.generator.admission.rules import ANY
from services.generator.admission.settings import LEDGERS, AdmissionOptions
from services.generator.ports import Model
from services.generator.prices import Price, whole
from weft.values import Usage

DEFAULT_RUNNING: Final[Mapping[str, int]] = {
    "extractive": 0,  # milliseconds of work: waiting would cost more than it saves
    "scripted": 0,
    "vllm": 256,  # vLLM's own bound of sequences at once: what waits should wait here, where it is fair
}
DEFAULT_RUNNING_OTHERS: Final = 64


class Admission:
    """Lets requests in to models."""

    def __init__(
        self,
        options: AdmissionOptions,
        models: Mapping[str, str],
        prices: Mapping[str, Price],
        registry: CollectorRegistry,
    ) -> None:
        """Take the models' URLs and prices by name.

        Raises:
            WeftError: INVALID_FIELD, when a library for what was chosen is not installed.
        """
        self._options = options
        self._models = models
        self._prices = prices
        self._metrics = AdmissionMetrics(registry)
        self._quota: TenantQuota | None = None
        if options.tokens_per_minute or options.budgets:
            url = Url.parse(options.limits)
            ledger = plugins.load(LEDGERS, url).open(url, self._metrics.unshared)
            self._quota = TenantQuota(options.tokens_per_minute, options.budgets, ledger, self._price)

    def around(self, name: str, model: Model) -> Model:
        """Put what a model needs in front of it: nothing, where nothing is bounded."""
        max_running = self._max_running(name)
        if not max_running and self._quota is None:
            return model
        gate = Gate(
            name,
            max_running=max_running,
            max_waiting=self._options.max_waiting,
            max_waiting_tokens=self._options.max_waiting_tokens,
        )
        return Admitted(name, model, gate, metrics=self._metrics, quota=self._quota)

    async def close(self) -> None:
        """Settle what is due."""
        if self._quota is not None:
            await self._quota.close()

    def _max_running(self, name: str) -> int:
        given = self._options.max_running
        if name in given or ANY in given:
            return given.get(name, given.get(ANY, 0))
        return DEFAULT_RUNNING.get(Url.parse(self._models[name]).scheme, DEFAULT_RUNNING_OTHERS)

    def _price(self, model: str, usage: Usage) -> int:
        price = self._prices.get(model)
        return 0 if price is None else whole(price.micros(usage))

"""A model behind its gate: the port's own face, with waiting, refusals and limits in front of another's.

    estimate -> is it worth asking? -> limits and budgets reserve -> the gate -> the model -> settle

The estimate is reserved from the tenant's limits first, so that nobody waits for a turn that can't be paid; only what
the gate would refuse anyway is refused before that, without a way to a shared storage. What was reserved is settled
with what the backend counted; with prompt and tokens seen where the caller left; with nothing where it failed before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from opentelemetry import trace

from mesh import deadline as call_deadline
from services.generator.admission.gate import Gate
from services.generator.admission.metrics import AdmissionMetrics
from services.generator.admission.queue import PRIORITIES
from services.generator.admission.work import Work, estimate
from services.generator.ports import Model
from services.generator.types import End, ModelEvent, ModelLoad, Piece, Request
from services.generator.wrapper import Wrapper
from weft import names
from weft.errors import WeftError
from weft.values import Usage


class Reservation(Protocol):
    """What was taken from a tenant's limits for one answer."""

    def settle(self, usage: Usage) -> None:
        """Say what it took in truth. Returns at once."""
        ...


class Quota(Protocol):
    """Limits and budgets of all tenants."""

    async def reserve(self, tenant: str, model: str, work: Work, *, continues: bool = False) -> Reservation:
        """Take an answer's estimate from its tenant's limits; what ``continues`` an answer may go over them once more.

        Raises:
            WeftError: QUOTA_EXCEEDED.
        """
        ...


class Admitted(Wrapper):
    """A model behind a queue. Whoever waits is cancelled by the server before `close`."""

    def __init__(
        self, name: str, model: Model, gate: Gate, *, metrics: AdmissionMetrics, quota: Quota | None = None
    ) -> None:
        super().__init__(model)
        self._name = name
        self._gate = gate
        self._metrics = metrics
        self._quota = quota
        metrics.watch(name, gate.queue)

    def load(self) -> ModelLoad:
        """The model's, and those that wait here. What runs here runs there: the larger figure counts."""
        load, gate = self._model.load(), self._gate
        return ModelLoad(
            running=max(load.running, gate.running),
            waiting=load.waiting + gate.queue.requests,
            kv_cache=load.kv_cache,
            gpu_memory=load.gpu_memory,
        )

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer when it is this request's turn.

        Raises:
            WeftError: OVERLOADED, QUOTA_EXCEEDED, and what the model raises.
        """
        gate = self._gate
        work = estimate(request, gate.pace, reads_passages=self._model.capabilities.reads_passages)
        reservation: Reservation | None = None
        usage = Usage()
        try:
            try:
                if self._quota is not None:
                    gate.check(request.tenant, _priority(request), work, call_deadline.current())
                    continues = request.resume is not None
                    reservation = await self._quota.reserve(request.tenant, self._name, work, continues=continues)
                if not gate.enter():
                    await self._wait(request, work)
            except WeftError as err:
                self._metrics.refused(self._name, err.metadata.get("why", ""))
                raise
            begun_s, produced, whole, left = time.monotonic(), 0, False, False
            try:
                async with aclosing(self._model.generate(request)) as events:
                    async for event in events:
                        if isinstance(event, Piece):
                            produced += len(event.token_ids) or 1
                        elif isinstance(event, End):
                            usage, whole = event.usage, True
                            gate.pace.finished(time.monotonic() - begun_s, work.tokens, usage.output_tokens)
                        yield event
            except (asyncio.CancelledError, GeneratorExit):
                left = True
                raise
            finally:
                gate.leave()
                if not whole:
                    gate.pace.left(time.monotonic() - begun_s)
                    if produced or left:  # the model read the prompt for who left
                        usage = Usage(input_tokens=work.prompt_tokens, output_tokens=produced)
        finally:
            if reservation is not None:
                reservation.settle(usage)

    async def _wait(self, request: Request, work: Work) -> None:
        begun_s = time.monotonic()
        span = trace.get_current_span()
        span.set_attribute(names.QUEUE_AHEAD, self._gate.queue.requests)
        await self._gate.wait(request.tenant, _priority(request), work, call_deadline.current())
        waited_s = time.monotonic() - begun_s
        span.set_attribute(names.QUEUE_WAIT_MS, round(waited_s * 1_000, 1))
        self._metrics.waited(self._name, waited_s)


def _priority(request: Request) -> int:
    """An interrupted answer goes on before its tenant's others begin: somebody is reading it."""
    return PRIORITIES - 1 if request.resume is not None else request.priority

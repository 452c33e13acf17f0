"""A model that holds its answers until told, and the gate before it, in a test's own hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from prometheus_client import CollectorRegistry

from services.generator.admission.admitted import Admitted, Quota
from services.generator.admission.gate import Gate
from services.generator.admission.metrics import AdmissionMetrics
from services.generator.admission.work import Work
from services.generator.ports import Model
from services.generator.types import (
    Capabilities,
    End,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Request,
    Role,
    Sampling,
)
from weft.errors import Reason, error
from weft.values import FinishReason, Usage

WORK = Work(50, 50)


class Held:
    """A model that answers when it is told to, and writes down whom."""

    capabilities = Capabilities(backend="held")

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.places = asyncio.Semaphore(0)
        self.fails = False
        self.resumed = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def load(self) -> ModelLoad:
        return ModelLoad(running=1, waiting=2, kv_cache=0.5)

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        self.begun.append(request.tenant)
        self.resumed += request.resume is not None
        await self.places.acquire()
        if self.fails:
            raise error(Reason.MODEL_UNAVAILABLE, "as told")
        yield Piece("one two", (1, 2))
        yield End(FinishReason.STOP, Usage(input_tokens=7, output_tokens=2))


def request(tenant: str = "acme", *, priority: int = 0, max_tokens: int | None = 100) -> Request:
    sampling = Sampling(max_tokens=max_tokens)
    return Request((Message(Role.USER, "What is it?"),), tenant=tenant, priority=priority, sampling=sampling)


def gate(max_running: int = 1, *, max_waiting: int = 10_000, max_waiting_tokens: int = 10**9) -> Gate:
    return Gate("held", max_running=max_running, max_waiting=max_waiting, max_waiting_tokens=max_waiting_tokens)


def admitted(model: Model, door: Gate, quota: Quota | None = None) -> tuple[Admitted, CollectorRegistry]:
    registry = CollectorRegistry()
    return Admitted("held", model, door, metrics=AdmissionMetrics(registry), quota=quota), registry


async def answer(model: Model, wanted: Request) -> list[ModelEvent]:
    async with aclosing(model.generate(wanted)) as events:
        return [event async for event in events]


async def settled() -> None:
    """Until everything that can go on has."""
    for _ in range(20):
        await asyncio.sleep(0)

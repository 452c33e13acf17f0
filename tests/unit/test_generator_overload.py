"""A gate with three times as many requests as it can answer, in simulated time: what is answered, and when again all.

The real thing, with a process and a wire, is benchmarks/overload.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from mesh.deadline import Deadline
from services.generator.admission.gate import Gate
from services.generator.admission.work import Work
from tests.support import virtual_time
from weft.errors import WeftError

PLACES, ANSWER_S, DEADLINE_S = 32, 0.2, 1.0
CAPACITY = PLACES / ANSWER_S


@dataclass
class Shop:
    """A model's gate, and how its callers fared by the second in which they came."""

    varied: bool
    fared: dict[int, Counter[str]] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(5))

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gate = Gate("m", max_running=PLACES, max_waiting=256, max_waiting_tokens=10**9, clock=self.loop.time)

    async def call(self) -> None:
        come_s = self.loop.time()
        answer_s = self.random.expovariate(1 / ANSWER_S) if self.varied else ANSWER_S
        outcome = "ok"
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._answer(answer_s, Deadline(come_s + DEADLINE_S, DEADLINE_S))
        except WeftError as err:
            outcome = err.metadata["why"]
            if outcome == "late":
                assert self.loop.time() == come_s, "what comes too late is refused at once"
        except TimeoutError:
            outcome = "timed out"
        self.fared.setdefault(int(come_s), Counter())[outcome] += 1

    async def _answer(self, answer_s: float, deadline: Deadline) -> None:
        if not self.gate.enter():
            await self.gate.wait("acme", 0, Work(10, 8), deadline)
        begun_s, whole = self.loop.time(), False
        try:
            await asyncio.sleep(answer_s)
            whole = True
        finally:
            self.gate.leave()
            if whole:
                self.gate.pace.finished(self.loop.time() - begun_s, 18, 8)
            else:
                self.gate.pace.left(self.loop.time() - begun_s)

    async def visited(self, rate: float, seconds: float, group: asyncio.TaskGroup) -> None:
        until_s = self.loop.time() + seconds
        while self.loop.time() < until_s:
            group.create_task(self.call())
            await asyncio.sleep(self.random.expovariate(rate))


@pytest.mark.parametrize("varied", [False, True], ids=["all alike", "of all lengths"])
def test_at_three_times_capacity_nearly_as_much_is_answered_as_can_be_and_soon_all_again(varied: bool) -> None:
    async def day() -> tuple[Shop, int]:
        shop = Shop(varied)
        async with asyncio.TaskGroup() as group:
            await shop.visited(0.7 * CAPACITY, 2, group)
            await shop.visited(3.0 * CAPACITY, 4, group)
            burst_over_s = int(shop.loop.time()) + 1
            await shop.visited(0.7 * CAPACITY, 4, group)
        return shop, burst_over_s

    shop, burst_over_s = virtual_time.run(day())
    burst = sum((shop.fared[second] for second in range(2, 6)), Counter())
    after = sum((shop.fared[second] for second in range(burst_over_s + 1, burst_over_s + 3)), Counter())
    assert burst["ok"] / 4 >= 0.9 * CAPACITY
    assert burst.total() > 2.5 * CAPACITY * 4
    assert after["ok"] >= (0.95 if varied else 1.0) * after.total()
    assert (shop.gate.running, shop.gate.queue.requests) == (0, 0)

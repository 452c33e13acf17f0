"""The load of benchmarks/retriever.py, in a process of its own: searches, closed or open loop.

    python -m benchmarks.searching --mesh HOST:PORT --questions FILE  --callers 50 | --rate 100  [--cached]

Closed loop: each caller asks again when it has its answer. Open loop: searches begin at random moments of that mean
rate, whatever the answers do, and a time counts from when its search should have begun. ``--cached`` asks the first
question alone, and lets the retriever answer from memory; otherwise the questions go round and ``allow_cached`` is
false. ``--beside RATE`` adds uncached searches at that rate, which are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from benchmarks.filling import KEY
from benchmarks.load import percentile, read_questions
from weft.channel import Dial, open_service
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc

TIMEOUT_S = 10.0


class Driver:
    """Asks searches of one stub, and counts those that end in the measured time."""

    def __init__(self, stub: Any, questions: list[str], cached: bool) -> None:
        self._stub, self._cached = stub, cached
        requests = [
            retriever_pb2.SearchRequest(query=text, collection=KEY.resource, allow_cached=cached) for text in questions
        ]
        self._requests = requests[:1] if cached else requests
        self._others = [
            retriever_pb2.SearchRequest(query=text, collection=KEY.resource, allow_cached=False) for text in questions
        ]
        self._asked = 0
        self._chance = random.Random(1)
        self.measuring = False
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    async def search(self, begun_s: float) -> None:
        """One that counts."""
        self._asked += 1
        problem = await self._ask(self._requests[self._asked % len(self._requests)], self._cached)
        if not self.measuring:
            return
        if problem:
            self.failures.append(problem)
        else:
            self.latencies_ms.append((time.perf_counter() - begun_s) * 1_000)

    async def _ask(self, request: retriever_pb2.SearchRequest, cached: bool = False) -> str:
        try:
            response = await self._stub.Search(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            return f"{exc.code().name}: {exc.details()}"
        if not response.hits or response.degraded:
            return "no hits" if not response.hits else f"degraded: {response.degraded[0].detail}"
        return "" if response.cached == cached else f"cached is {response.cached}"

    async def closed(self, callers: int, warmup_s: float, seconds: float) -> None:
        """So many callers, each with one search under way."""
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await self.search(time.perf_counter())

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
            await asyncio.sleep(warmup_s)
            self.measuring = True
            await asyncio.sleep(seconds)
            self.measuring = False
            stop.set()

    async def open(self, rate: float, warmup_s: float, seconds: float, beside: float) -> None:
        """Searches at a mean rate. All that began in the measured time count, however long they take."""
        async with asyncio.TaskGroup() as others:
            if beside:
                others.create_task(self._arrive(others, beside, warmup_s + seconds, self._other))
            async with asyncio.TaskGroup() as group:
                await self._arrive(group, rate, warmup_s, self.search)
            self.measuring = True
            async with asyncio.TaskGroup() as group:
                await self._arrive(group, rate, seconds, self.search)
            self.measuring = False

    async def _other(self, begun_s: float) -> None:
        self._asked += 1
        if problem := await self._ask(self._others[self._asked % len(self._others)]):
            self.failures.append(problem)

    async def _arrive(
        self, group: asyncio.TaskGroup, rate: float, seconds: float, ask: Callable[[float], Coroutine[Any, Any, None]]
    ) -> None:
        begin_s = next_s = time.perf_counter()
        while (next_s := next_s + self._chance.expovariate(rate)) < begin_s + seconds:
            await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
            group.create_task(ask(next_s))

    def summary(self, seconds: float) -> dict[str, Any]:
        """What came of it."""
        times = sorted(self.latencies_ms) or [0.0]
        shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
        return {
            "searches": len(self.latencies_ms),
            "asked": self._asked,  # those of the warm-up, too
            "rate": len(self.latencies_ms) / seconds,
            **{name: percentile(times, share) for name, share in shares.items()},
            "failed": len(self.failures),
            "failures": self.failures[:3],
        }


async def drive(arguments: argparse.Namespace) -> dict[str, Any]:
    """One round."""
    async with open_service("retriever", Dial(mesh=(arguments.mesh,))) as channel:
        driver = Driver(retriever_pb2_grpc.RetrieverServiceStub(channel), arguments.questions, arguments.cached)
        await driver.search(time.perf_counter())
        if arguments.rate:
            await driver.open(arguments.rate, arguments.warmup, arguments.seconds, arguments.beside)
        else:
            await driver.closed(arguments.callers, arguments.warmup, arguments.seconds)
    return driver.summary(arguments.seconds)


def main() -> None:
    """Measure one round; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", required=True)
    parser.add_argument("--questions", required=True, type=read_questions, help="JSON list")
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: searches a second")
    parser.add_argument("--beside", type=float, default=0.0, help="of an open loop: others a second, uncached")
    parser.add_argument("--cached", action="store_true", help="one question, answered from memory")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    print(json.dumps(asyncio.run(drive(parser.parse_args()))))


if __name__ == "__main__":
    main()

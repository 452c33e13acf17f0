"""The load of benchmarks/turns.py, in a process of its own: whole turns, closed or open loop.

    python -m benchmarks.load --mesh HOST:PORT | --address HOST:PORT  --callers 50 --seconds 10

The same code drives Weft and the baselines; only the channel's target differs. Closed loop: each caller
asks again when its answer is complete. Open loop (``--rate``): turns begin at random moments of that
mean rate, whatever the answers do, and a time counts from when the turn should have begun.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from weft.channel import Dial, open_address, open_service
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc


@dataclass
class Tally:
    """What came of the turns that ended within the measured time."""

    latencies_ms: list[float] = field(default_factory=list)
    first_text_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    messages: int = 0

    def summary(self, seconds: float) -> dict[str, Any]:
        times = sorted(self.latencies_ms) or [0.0]
        turns = len(self.latencies_ms)
        return {
            "turns": turns,
            "turns_per_s": turns / seconds,
            "failed": len(self.failures),
            "failures": self.failures[:3],
            "mean_ms": sum(times) / len(times),
            "p50_ms": percentile(times, 0.50),
            "p95_ms": percentile(times, 0.95),
            "p99_ms": percentile(times, 0.99),
            "first_text_p50_ms": percentile(sorted(self.first_text_ms) or [0.0], 0.50),
            "messages_per_turn": self.messages / max(1, turns),
        }


def percentile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of an ordered list lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Driver:
    """Asks turns of one stub and keeps the tally."""

    def __init__(self, stub: Any, questions: list[str], seed: int, timeout_s: float) -> None:
        self.stub, self.questions, self.timeout_s = stub, questions, timeout_s
        self.rng, self.tally, self.measuring = random.Random(seed), Tally(), False
        self._asked = 0

    async def turn(self, session: str, begun_s: float) -> None:
        question = self.questions[self._asked % len(self.questions)]
        self._asked += 1
        first_s, count = 0.0, 0
        try:
            request = orchestrator_pb2.ChatRequest(session=session, question=question)
            async for message in self.stub.Chat(request, timeout=self.timeout_s):
                count += 1
                if not first_s and message.HasField("text_delta"):
                    first_s = time.perf_counter()
            problem = "" if message.HasField("finished") else "no finished event"
        except grpc.aio.AioRpcError as exc:
            problem = f"{exc.code().name}: {exc.details()}"
        if not self.measuring:
            return
        now_s = time.perf_counter()
        if problem:
            self.tally.failures.append(problem)
        else:
            self.tally.latencies_ms.append((now_s - begun_s) * 1_000)
            self.tally.first_text_ms.append(((first_s or now_s) - begun_s) * 1_000)
            self.tally.messages += count

    def session(self) -> str:
        return f"sessions/bench-{self.rng.getrandbits(64):x}"

    async def closed(self, callers: int, warmup_s: float, seconds: float) -> None:
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                session = self.session()
                for _ in range(4):  # a conversation of four turns, then another
                    await self.turn(session, time.perf_counter())
                    if stop.is_set():
                        return

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
            await asyncio.sleep(warmup_s)
            self.measuring = True
            await asyncio.sleep(seconds)
            self.measuring = False
            stop.set()

    async def open(self, rate: float, warmup_s: float, seconds: float) -> None:
        begin_s = time.perf_counter()
        next_s = begin_s
        async with asyncio.TaskGroup() as group:
            while (elapsed_s := next_s - begin_s) < warmup_s + seconds:
                self.measuring = elapsed_s >= warmup_s
                await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
                group.create_task(self.turn(self.session(), next_s))
                next_s += self.rng.expovariate(rate)
        self.measuring = False


def read_questions(path: str) -> list[str]:
    found: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


async def drive(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.mesh:
        channel = open_service("orchestrator", Dial(mesh=(arguments.mesh,)))
    else:
        channel = open_address([arguments.address], Dial())
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
    driver = Driver(stub, arguments.questions, arguments.seed, arguments.timeout_s)
    async with channel:
        if arguments.rate:
            await driver.open(arguments.rate, arguments.warmup, arguments.seconds)
        else:
            await driver.closed(arguments.callers, arguments.warmup, arguments.seconds)
    return driver.tally.summary(arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--mesh")
    where.add_argument("--address")
    parser.add_argument("--questions", required=True, type=read_questions, help="JSON list; asked in turn")
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: turns a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=30.0)
    print(json.dumps(asyncio.run(drive(parser.parse_args()))))


if __name__ == "__main__":
    main()

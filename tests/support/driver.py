"""Load from a process of its own: a process belongs to one mesh, and a test's own must stay free.

    python -m tests.support.driver --mesh HOST:PORT --kind search --callers 12 --seed 7

It prints ``ready`` once every caller had its first answer, runs until its standard input closes (or
``--max-seconds``), then prints one JSON line: how many calls were made, which failed and why, which
versions and instances answered, the worst time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import weft

QUESTIONS = (
    "What does the control plane do when the registry is away?",
    "How are documents split into passages?",
    "What is 12 times 7?",
    "How does a canary get its share of the traffic?",
    "Which protocol do the services speak?",
    "How many days from 2026-01-01 to 2026-03-01?",
)


class Tally:
    """What came of the calls."""

    def __init__(self, callers: int) -> None:
        self.ok = 0
        self.failures: list[str] = []
        self.versions: Counter[str] = Counter()
        self.by_session: dict[str, set[str]] = {}
        self.degraded: Counter[str] = Counter()
        self.worst_s = 0.0
        self.waiting = set(range(callers))
        self.ready = asyncio.Event()

    def first(self, caller: int) -> None:
        self.waiting.discard(caller)
        if not self.waiting:
            self.ready.set()

    def summary(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "failed": len(self.failures),
            "failures": self.failures[:10],
            "versions": dict(self.versions),
            "sessions_on_two_versions": sum(len(v) > 1 for v in self.by_session.values()),
            "degraded": dict(self.degraded),
            "worst_s": round(self.worst_s, 3),
        }


async def search(client: weft.Client, tally: Tally, rng: random.Random, _session: str) -> None:
    result = await client.search(rng.choice(QUESTIONS), top_k=3)
    if not result.hits:
        raise AssertionError("a search found nothing")
    for item in result.degraded:
        tally.degraded[f"{item.stage}:{item.reason}"] += 1


async def ask(client: weft.Client, tally: Tally, rng: random.Random, session: str) -> None:
    text, answer, versions = "", None, {}
    async for event in client.stream(rng.choice(QUESTIONS), session=session):
        match event:
            case weft.Started():
                versions = dict(event.versions)
            case weft.TextDelta():
                text += event.text
            case weft.Finished():
                answer = event.answer
    if answer is None:
        raise AssertionError("a stream ended without an answer")
    if text != answer.text:
        raise AssertionError(f"deltas and answer differ: {text[:80]!r} / {answer.text[:80]!r}")
    for item in answer.degraded:
        tally.degraded[f"{item.stage}:{item.reason}"] += 1
    version = versions.get("orchestrator", "?")
    tally.versions[version] += 1
    tally.by_session.setdefault(session, set()).add(version)


KINDS = {"search": search, "ask": ask}


async def caller(
    number: int, arguments: argparse.Namespace, client: weft.Client, tally: Tally, stop: asyncio.Event
) -> None:
    rng = random.Random(f"{arguments.seed}-{number}")
    call, turn = KINDS[arguments.kind], 0
    while not stop.is_set():
        # a session of a few turns, then another
        session = f"drive-{arguments.seed}-{number}-{turn // 4}"
        turn += 1
        started_s = time.monotonic()
        try:
            await call(client, tally, rng, session)
            tally.ok += 1
        except (weft.WeftError, AssertionError) as exc:
            tally.failures.append(f"{type(exc).__name__}: {exc}"[:300])
        tally.worst_s = max(tally.worst_s, time.monotonic() - started_s)
        tally.first(number)
        await asyncio.sleep(arguments.pause_s)


async def drive(arguments: argparse.Namespace) -> dict[str, Any]:
    tally, stop = Tally(arguments.callers), asyncio.Event()
    async with weft.Client(mesh=arguments.mesh, timeout_s=arguments.timeout_s) as client, asyncio.TaskGroup() as group:
        for number in range(arguments.callers):
            group.create_task(caller(number, arguments, client, tally, stop))
        try:
            async with asyncio.timeout(arguments.max_seconds):
                await tally.ready.wait()
                print("ready", flush=True)
                await asyncio.to_thread(sys.stdin.read)
        except TimeoutError:
            pass
        stop.set()
    return tally.summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", required=True)
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--callers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-s", type=float, default=0.5)
    parser.add_argument("--timeout-s", type=float, default=20.0)
    parser.add_argument("--max-seconds", type=float, default=90.0)
    print(json.dumps(asyncio.run(drive(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()

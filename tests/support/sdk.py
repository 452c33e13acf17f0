"""Things that a test does with the SDK, each in a process of its own: it prints one JSON object.

python -m tests.support.sdk HOST:PORT ingest PATH
python -m tests.support.sdk HOST:PORT ask 40 weft-route-canary=yes
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import weft
from tests.support.mesh import ROOT, Mesh


def in_child(mesh: Mesh, *arguments: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """Run one chore against ``mesh`` in a child process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sdk", mesh.address, *arguments],
        capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(f"{arguments} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


async def ingest(client: weft.Client, *paths: str) -> dict[str, Any]:
    result = await client.ingest(list(paths))
    assert not result.failed, result
    return {"documents": result.documents, "chunks": result.chunks}


async def versions_of(client: weft.Client, session: str) -> dict[str, str]:
    async for event in client.stream("What is 2 + 2?", session=session):
        if isinstance(event, weft.Started):
            versions = dict(event.versions)
    return versions


async def sessions(client: weft.Client, count: str, turns: str) -> dict[str, Any]:
    """Ask in so many sessions, so many turns each: which orchestrator version answered?"""
    rng, seen, gate = random.Random(5), {}, asyncio.Semaphore(20)

    async def one(name: str) -> None:
        async with gate:
            seen[name] = {(await versions_of(client, name))["orchestrator"] for _ in range(int(turns))}

    await asyncio.gather(*(one(f"split-{rng.getrandbits(64):x}") for _ in range(int(count))))
    return {
        "versions": Counter(next(iter(v)) for v in seen.values()),
        "sessions_on_two_versions": sum(len(v) > 1 for v in seen.values()),
    }


async def ask_with(client: weft.Client, count: str) -> dict[str, Any]:
    """Ask a question of the documents so many times, each in a session of its own."""
    for number in range(int(count)):
        answer = await client.ask("How are documents split into passages?", session=f"ask-{time.time_ns()}-{number}")
        assert not answer.degraded, answer
    return {}


CHORES: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "ingest": ingest,
    "sessions": sessions,
    "ask": ask_with,
}


async def main() -> None:
    address, chore, *rest = sys.argv[1:]
    headers = dict(item.split("=", 1) for item in rest if "=" in item)
    rest = [item for item in rest if "=" not in item]
    async with weft.Client(mesh=address, headers=headers) as client:
        print(json.dumps(await CHORES[chore](client, *rest)))


if __name__ == "__main__":
    asyncio.run(main())

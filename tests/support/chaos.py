"""Writes and searches through the mesh until told to stop, and says what came of it: one JSON object.

python -m tests.support.chaos HOST:PORT SEED

Writers ingest small documents, each with a word of its own, and now and then a new version of an old one. What
``ingest`` returned for is acknowledged; an ingest that failed is tried again and counted. Readers look for
acknowledged documents as their writer would, by its epoch: a search that fails, or doesn't find the version
that was acknowledged or one that was sent later, is counted with its reason.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import weft
from weft.errors import WeftError

WRITERS = 3
READERS = 6
_VERSION = re.compile(r"version v(\d+)x")


def word(source: str) -> str:
    """The word that only this document holds."""
    return source.removesuffix(".txt")


def text(source: str, version: int) -> str:
    return f"The word {word(source)} stands here, in version v{version}x."


def version_in(passage: str) -> int:
    """The version that a passage is of; 0 for none."""
    found = _VERSION.search(passage)
    return int(found.group(1)) if found else 0


@dataclass
class World:
    """What was sent, what was acknowledged, what was found."""

    rng: random.Random
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    sent: dict[str, int] = field(default_factory=dict)  # source -> newest version sent
    acknowledged: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, weft.Epoch] = field(default_factory=dict)
    ingest_failures: Counter[str] = field(default_factory=Counter)
    search_failures: Counter[str] = field(default_factory=Counter)
    searches: int = 0

    async def write(self, client: weft.Client, writer: int) -> None:
        count = 0
        while not self.stopping.is_set():
            chosen = {}
            for _ in range(self.rng.randint(1, 3)):
                count += 1
                chosen[f"w{writer}n{count}.txt"] = 1
            mine = [source for source in self.acknowledged if source.startswith(f"w{writer}n")]
            if mine and self.rng.random() < 0.4:
                source = self.rng.choice(mine)
                chosen[source] = self.sent[source] + 1
            await self._ingest(client, chosen)

    async def _ingest(self, client: weft.Client, chosen: dict[str, int]) -> None:
        self.sent.update(chosen)
        documents = [weft.Document(source, text(source, version)) for source, version in chosen.items()]
        while True:
            try:
                result = await client.ingest(documents, timeout_s=60)
                break
            except WeftError as err:
                self.ingest_failures[err.reason] += 1
                await asyncio.sleep(0.2)
        if result.failed or result.documents != len(chosen) or result.epoch is None:
            raise AssertionError(f"an ingest named failures: {result}")
        for source, version in chosen.items():
            self.acknowledged[source] = version
            self.epochs[source] = result.epoch

    async def read(self, client: weft.Client) -> None:
        while not self.stopping.is_set():
            if not self.acknowledged:
                await asyncio.sleep(0.05)
                continue
            source = self.rng.choice(list(self.acknowledged))
            at_least, epoch = self.acknowledged[source], self.epochs[source]
            self.searches += 1
            try:
                result = await client.search(word(source), top_k=3, min_epoch=epoch, timeout_s=20)
            except WeftError as err:
                self.search_failures[f"{err.reason}: {err.message}"[:200]] += 1
                continue
            found = [version_in(hit.text) for hit in result.hits if f" {word(source)} " in hit.text]
            if len(found) != 1 or not at_least <= found[0] <= self.sent[source]:
                self.search_failures[f"{source} v{at_least} not found once: {found} at {epoch}"] += 1


async def run(address: str, seed: int) -> dict[str, Any]:
    world = World(random.Random(seed))
    async with weft.Client(address, timeout_s=20) as client, asyncio.TaskGroup() as tasks:
        for writer in range(WRITERS):
            tasks.create_task(world.write(client, writer))
        for _ in range(READERS):
            tasks.create_task(world.read(client))
        while not world.acknowledged:  # noqa: ASYNC110 - any moment will do
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        world.stopping.set()
    return {
        "acknowledged": world.acknowledged,
        "sequence": max(epoch.sequence for epoch in world.epochs.values()),
        "log_id": next(iter(world.epochs.values())).log_id,
        "searches": world.searches,
        "search_failures": dict(world.search_failures.most_common(5)),
        "ingest_failures": world.ingest_failures,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2])))))

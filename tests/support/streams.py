"""Opens streams of a generator over the mesh, from a process of its own, and tells which replica took each.

    python -m tests.support.streams HOST:PORT

A line ``{"open": 20, "every_s": 0.02}`` on standard input opens so many, one after the other, and is answered by a
line with, for each, when it was opened (seconds, on the wall's clock) and the model that answers. Each is one token
long and read to its end: a stream that is left counts as a failure, and a replica that fails everything is put aside.
With ``keep`` each is as long as the model makes it and stays open until the line ``{"leave": true}``. The replicas of
a test have models of different names.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tests.support.mesh import ROOT, leashed
from weft.channel import Dial, open_service
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc

_MESSAGES = [pb.Message(role=pb.ROLE_USER, content="What?")]
LONG = pb.GenerateRequest(messages=_MESSAGES)
SHORT = pb.GenerateRequest(messages=_MESSAGES, sampling=pb.Sampling(max_tokens=1))
TIMEOUT_S = 600.0  # a load that ends by itself would end a test of it


class Streams:
    """The parent's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, count: int, *, every_s: float = 0.0, keep: bool = False) -> list[tuple[float, str]]:
        """Open so many streams over the mesh."""
        return [(at_s, model) for at_s, model in self._ask({"open": count, "every_s": every_s, "keep": keep})]

    def leave(self) -> None:
        """Leave those that were kept."""
        self._ask({"leave": True})

    def _ask(self, order: dict[str, Any]) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the caller died"
        answer: list[Any] = json.loads(line)
        return answer


@contextmanager
def streams_over(mesh: str) -> Iterator[Streams]:
    """A caller of the mesh at this address."""
    command = leashed([sys.executable, "-m", "tests.support.streams", mesh])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield Streams(process)
        finally:
            process.kill()


@contextmanager
def loaded_by_hand(address: str, count: int) -> Iterator[None]:
    """Keep so many streams open at one replica, past the balancer."""
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.GeneratorServiceStub(channel)
        calls = [stub.Generate(LONG, timeout=TIMEOUT_S) for _ in range(count)]
        try:
            for call in calls:
                next(call)
            yield
        finally:
            for call in calls:
                call.cancel()


async def _main(mesh: str) -> None:
    kept: list[Any] = []
    async with open_service("generator", Dial(mesh=(mesh,), node_id="streams")) as channel:
        stub = pb_grpc.GeneratorServiceStub(channel)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            opened = []
            for _ in range(order.get("open", 0)):
                at_s = time.time()
                call = stub.Generate(LONG if order["keep"] else SHORT, timeout=TIMEOUT_S)
                opened.append((at_s, (await call.read()).started.model))
                if order["keep"]:
                    kept.append(call)
                else:
                    while await call.read() is not grpc.aio.EOF:
                        pass
                await asyncio.sleep(order["every_s"])
            if "leave" in order:
                for call in kept:
                    call.cancel()
                kept.clear()
            print(json.dumps(opened), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

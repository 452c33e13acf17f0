"""Small gRPC servers and callers, in processes of their own, for tests of the data plane.

    python -m tests.support.peers serve NAME        a server; prints its port
    python -m tests.support.peers call HOST:PORT    dials ``xds:///shop`` at that control plane; takes a JSON
                                                    list of calls per line, answers with what each returned

A server answers with its name. A call is ``[path, metadata]``; a failed one comes back as ``!CODE``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from weft.channel import Dial, open_service
from weft.xds.v1 import orca_pb2

GET = "/shop.v1.Shop/Get"  # idempotent, say the instances' method tables
PUT = "/shop.v1.Shop/Put"  # not idempotent
FAIL_FIRST = "fail-first"  # metadata: fail attempts that are no retry
SLEEP_MS = "sleep-ms"  # metadata: take this long
_ATTEMPTS = "grpc-previous-rpc-attempts"
Call = tuple[str, dict[str, str]]


def _handler(name: str) -> grpc.GenericRpcHandler:
    async def answer(request: bytes, context: aio.ServicerContext) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        if FAIL_FIRST in metadata and _ATTEMPTS not in metadata:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
        await asyncio.sleep(int(metadata.get(SLEEP_MS, 0)) / 1_000)
        return name.encode()

    method = grpc.unary_unary_rpc_method_handler(answer)
    return grpc.method_handlers_generic_handler("shop.v1.Shop", {"Get": method, "Put": method})


def _load_handler(utilisation: float) -> grpc.GenericRpcHandler:
    async def report(request: orca_pb2.OrcaLoadReportRequest, context: aio.ServicerContext) -> None:
        while True:
            await context.write(orca_pb2.OrcaLoadReport(rps_fractional=100, application_utilization=utilisation))
            await asyncio.sleep(request.report_interval.ToMilliseconds() / 1_000)

    method = grpc.unary_stream_rpc_method_handler(
        report,
        request_deserializer=orca_pb2.OrcaLoadReportRequest.FromString,
        response_serializer=orca_pb2.OrcaLoadReport.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("xds.service.orca.v3.OpenRcaService", {"StreamCoreMetrics": method})


async def start_server(name: str, utilisation: float = 0.5) -> tuple[aio.Server, int]:
    """A server in this process that says it is this busy, and its port."""
    # A server drops calls at random once 1000 wait to be taken; these tests are of the client's side.
    server = aio.server(options=[("grpc.so_reuseport", 0), ("grpc.server.max_pending_requests", 10_000)])
    server.add_generic_rpc_handlers((_handler(name), _load_handler(utilisation)))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def call_all(channel: aio.Channel, calls: Sequence[Call], *, at_once: int, timeout_s: float) -> list[str]:
    """Make the calls, ``at_once`` at a time, and return what each answered, in their order."""
    answers = ["?"] * len(calls)
    methods: dict[str, Any] = {path: channel.unary_unary(path) for path in {path for path, _ in calls}}
    queue = iter(enumerate(calls))

    async def work() -> None:
        for number, (path, metadata) in queue:
            try:
                reply = await methods[path](b"", metadata=tuple(metadata.items()), timeout=timeout_s)
                answers[number] = reply.decode()
            except aio.AioRpcError as exc:
                answers[number] = f"!{exc.code().name}"

    await asyncio.gather(*(work() for _ in range(at_once)))
    return answers


class Peer:
    """A child process with a line of JSON in and a line out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, message: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        return await self.read()

    async def read(self) -> Any:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "the peer died"
        return json.loads(line)

    async def call(self, calls: Sequence[Call], *, at_once: int = 20, timeout_s: float = 10.0) -> list[str]:
        """Let a caller make calls."""
        answers: list[str] = await self.ask({"calls": list(calls), "at_once": at_once, "timeout_s": timeout_s})
        return answers

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def peer(*arguments: str) -> AsyncIterator[Peer]:
    """Start a child process, killed when the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
    )
    child = Peer(process)
    try:
        yield child
    finally:
        if process.returncode is None:
            await child.kill()


async def _serve(name: str) -> None:
    server, port = await start_server(name)
    print(port, flush=True)
    await server.wait_for_termination()


async def _call(mesh: str) -> None:
    async with open_service("shop", Dial(mesh=(mesh,), node_id="caller")) as channel:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            answers = await call_all(channel, order["calls"], at_once=order["at_once"], timeout_s=order["timeout_s"])
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run({"serve": _serve, "call": _call}[sys.argv[1]](sys.argv[2]))

"""A channel is patient with a peer that is slow to shake hands, and finds a restarted one again at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from tests.support.mesh import free_port
from weft.channel import Dial, open_address


async def health_server(port: int = 0) -> tuple[aio.Server, int]:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


@asynccontextmanager
async def slow_line(to_port: int, delay_s: float) -> AsyncIterator[int]:
    """A port that leads to another one, the first bytes of each connection taking ``delay_s`` longer."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        tasks.update(asyncio.create_task(copy(*pair)) for pair in ((reader, far_writer), (far_reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def check(channel: aio.Channel, timeout_s: float = 5.0) -> None:
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)


async def test_a_peer_whose_handshake_takes_half_a_second_is_reached_at_the_first_try() -> None:
    server, port = await health_server()
    async with slow_line(port, 0.5) as far, open_address([f"127.0.0.1:{far}"], Dial()) as channel:
        await check(channel)
    await server.stop(0)


async def test_a_peer_that_was_away_is_found_again_within_the_longest_pause() -> None:
    port = free_port()
    async with open_address([f"127.0.0.1:{port}"], Dial()) as channel:
        for _ in range(20):  # back-off has had time to grow
            with suppress(aio.AioRpcError):
                await check(channel, 0.2)
            await asyncio.sleep(0.1)
        server, _ = await health_server(port)
        begun_s = time.monotonic()
        while True:
            with suppress(aio.AioRpcError):
                await check(channel, 1.0)
                break
            assert time.monotonic() - begun_s < 20, "not found again"
            await asyncio.sleep(0.05)
        await server.stop(0)

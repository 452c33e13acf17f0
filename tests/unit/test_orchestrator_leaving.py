"""Unary calls that are left half-way end by themselves where they can, and at both sides in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from services.orchestrator.peers.leaving import result


class Peer:
    """Answers after ``pause_s``, and notes how each call ended."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self.ended = asyncio.Queue[str]()

    async def answer(self, _request: bytes, _context: aio.ServicerContext[bytes, bytes]) -> bytes:
        how = "left"
        try:
            await asyncio.sleep(self._pause_s)
            how = "through"
        finally:
            self.ended.put_nowait(how)
        return b"done"


@asynccontextmanager
async def channel(peer: Peer) -> AsyncIterator[aio.Channel]:
    server = aio.server()
    methods = {"Answer": grpc.unary_unary_rpc_method_handler(peer.answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


async def test_a_call_gives_its_reply_or_its_failure() -> None:
    async with channel(Peer()) as opened:
        assert await result(opened.unary_unary("/test.Peer/Answer")(b"")) == b"done"
        with pytest.raises(aio.AioRpcError) as caught:
            await result(opened.unary_unary("/test.Peer/Nothing")(b""))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(("pause_s", "how"), [(0.1, "through"), (60.0, "left")])
async def test_a_call_that_is_left_has_a_moment_to_end_by_itself_and_nobody_waits_for_it(
    pause_s: float, how: str
) -> None:
    peer = Peer(pause_s)
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with channel(peer) as opened:
        tasks = len(asyncio.all_tasks())
        waiting = asyncio.create_task(result(opened.unary_unary("/test.Peer/Answer")(b"")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert peer.ended.empty()
        assert await asyncio.wait_for(peer.ended.get(), 10) == how
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - the server's own task ends a moment later
                await asyncio.sleep(0.02)
    assert complaints == []

"""Models at other hosts, put together as a process of the mesh puts them: keys, circuit breaker, load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.generator_process import Replica, replica
from tests.support.openai_server import OpenAiServer, openai_server
from tests.support.vllm_grpc_server import vllm_grpc_server
from weft.generator.v1 import generator_pb2 as pb

MODEL = "scripted:?tokens=3"
WANTED = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="When?")])


@pytest.fixture
def server() -> Iterator[OpenAiServer]:
    with openai_server() as served:
        yield served


async def test_a_key_is_sent_to_its_server(server: OpenAiServer) -> None:
    async with replica({"m": server.url(MODEL)}, api_keys={"127.0.0.1": "sk-secret"}) as r:
        answer = await r.ask(WANTED)
    assert answer.started.backend == "openai"
    assert server.keys == ["Bearer sk-secret"]


@pytest.mark.parametrize("more", ["", "&resume=token_ids"])
async def test_answers_one_after_the_other_share_a_connection(server: OpenAiServer, more: str) -> None:
    async with replica({"m": server.url(MODEL, more)}) as r:
        for _ in range(5):
            await r.ask(WANTED)
    assert len(server.connections) == 1


async def who_answers(r: Replica) -> str:
    return str((await r.ask(WANTED)).started.model)


async def test_a_server_that_died_is_left_alone_until_it_is_back() -> None:
    with ExitStack() as first:
        server = first.enter_context(openai_server())
        async with replica({"far": server.url(MODEL), "near": "scripted:?tokens=2"}) as r:
            assert await who_answers(r) == "far"
            first.close()
            while r.metric("weft_generator_circuit", model="far") != 2.0:
                assert await who_answers(r) == "near"
            answer = await r.ask(WANTED)
            assert "failed too often" in answer.finished.degraded[0].detail
            with openai_server(server.port):
                while await who_answers(r) != "far":  # noqa: ASYNC110 - the probe's turn comes by the clock
                    await asyncio.sleep(0.1)
            assert r.metric("weft_generator_circuit", model="far") == 0.0


async def test_how_busy_a_server_is_goes_into_the_load() -> None:
    with vllm_grpc_server("Nine") as server:
        async with replica({"m": server.url()}) as r:
            assert (await r.ask(WANTED)).text == "Nine"
            while r.metric("weft_generator_waiting", model="m") != 7.0:  # noqa: ASYNC110 - it is asked once a second
                await asyncio.sleep(0.02)
            assert r.metric("weft_generator_kv_cache_ratio", model="m") == 0.25

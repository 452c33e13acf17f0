"""vllm+grpc:// before vLLM's own gRPC server: the conformance suite, going on by token ids, leaving, and a death."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.plugins import Url
from services.generator import patience
from services.generator.vllm_grpc.client import Client
from tests.conformance.test_generator_models import *  # noqa: F403
from tests.conformance.test_generator_models import asking, edges, refused, resuming
from tests.support.generator import House, ask, house
from tests.support.vllm_server import VllmServer
from weft.errors import Reason, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb
from weft.tools.v1 import tools_pb2

RESUMABLE: Any = {"grpc": lambda server: server.url()}
NOT_RESUMABLE: Any = {}
MODELS: Any = RESUMABLE
FAILING: Any = {}  # see below
ANSWER_TOKENS = 192  # of the tiny model, always, and one that ends it


@pytest.fixture(scope="module")
def server(
    tiny_llama: Path, vllm_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    pytest.importorskip("smg_grpc_servicer")
    served = VllmServer(tiny_llama, vllm_environment, tmp_path_factory.mktemp("vllm-grpc") / "server.log", grpc=True)
    served.start()
    yield served
    served.kill()


async def test_broken_answers_go_on_exactly_all_twenty_of_twenty(server: VllmServer) -> None:
    async def broken_and_whole(h: House, number: int) -> bool:
        question = f"Question {number}: when does it open? 每天"
        whole = await ask(h, asking(question), 60)
        tokens, chars = edges(whole)[1 + number % (len(edges(whole)) - 1)]
        wanted = resuming(whole, tokens, chars)
        wanted.messages[0].content = question
        rest = await ask(h, wanted, 60)
        assert len(whole.token_ids) == ANSWER_TOKENS
        return whole.text[:chars] + rest.text == whole.text and whole.token_ids[tokens:] == rest.token_ids

    async with house(m=server.url()) as h:
        together = await asyncio.gather(*(broken_and_whole(h, number) for number in range(20)))
    assert together == [True] * 20


async def test_output_fits_a_schema_and_tools_are_asked_for(server: VllmServer) -> None:
    def fitting(schema: dict[str, Any]) -> pb.GenerateRequest:
        wanted = asking(sampling=pb.Sampling(max_tokens=64))
        wanted.response_format.json_schema.update(schema)
        return wanted

    tool = tools_pb2.ToolSpec(name="clock", description="Tells the time.")
    tool.input_schema.update({"enum": [{"zone": "UTC"}]})
    async with house(m=server.url()) as h:
        answer = await ask(h, fitting({"enum": ["nine", "ten"]}), 60)
        assert json.loads(answer.text) in ("nine", "ten")
        for none in ({"type": "nonsense"}, {"type": "string", "pattern": "(("}):
            assert (await refused(ask(h, fitting(none), 60))).code is grpc.StatusCode.INVALID_ARGUMENT
        answer = await ask(h, asking(tools=[tool], sampling=pb.Sampling(max_tokens=400)), 60)
    assert answer.finished.usage.output_tokens > 0
    assert all(call.name == "clock" for call in answer.finished.tool_calls)


async def test_whoever_leaves_stops_the_servers_work(server: VllmServer) -> None:
    client = Client(f"127.0.0.1:{server.port}", True, patience.timeouts(Url.parse(server.url())))
    async with house(m=server.url()) as h:
        calls = [h.stub.Generate(asking(f"Question {number}"), timeout=60) for number in range(8)]
        await asyncio.gather(*(call.read() for call in calls))
        busy = await client.loads()
        for call in calls:
            call.cancel()
        left_s = time.monotonic()
        while (await client.loads()).running:  # noqa: ASYNC110 - it is the server that counts
            await asyncio.sleep(0.005)
        idle_s = time.monotonic() - left_s
    print(f"{busy}; idle {idle_s * 1_000:.0f} ms after the callers had left")
    await client.close()


async def _to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_server_that_dies_in_the_middle_of_an_answer_is_told(server: VllmServer) -> None:
    async with house(m=server.url()) as h:
        call = h.stub.Generate(asking(), timeout=60)
        await call.read()
        server.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _to_the_end(call)
        assert from_rpc_error(caught.value).reason == Reason.MODEL_UNAVAILABLE
        assert (await refused(ask(h, asking(), 60))).reason == Reason.MODEL_UNAVAILABLE

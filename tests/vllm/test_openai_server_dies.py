"""openai:// before a vLLM server that dies and comes back: its circuit opens, another model answers, it closes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mesh.plugins import Url
from services.generator.breaker import Guard, Policy
from services.generator.generation import Generator
from services.generator.models import openai, scripted
from services.generator.types import Finished, Message, Request, Role, Sampling, Started
from tests.support.vllm_server import VllmServer


@pytest.fixture
def server(tiny_llama: Path, vllm_environment: dict[str, str], tmp_path: Path) -> Iterator[VllmServer]:
    served = VllmServer(tiny_llama, vllm_environment, tmp_path / "server.log")
    served.start()
    yield served
    served.kill()


async def test_a_server_that_dies_is_left_alone_another_answers_and_it_comes_back(server: VllmServer) -> None:
    model = openai.open(Url.parse(server.url()))
    await model.start()
    assert model.capabilities.context_tokens == 2_048
    guarded = Guard(CollectorRegistry(), Policy(open_s=0.2, longest_open_s=0.5)).around("vllm", model)
    generator = Generator({"vllm": guarded, "spare": scripted.open(Url.parse("scripted:?tokens=3"))})
    wanted = Request((Message(Role.USER, "When?"),), sampling=Sampling(max_tokens=8))

    async def who_answers() -> tuple[str, list[str]]:
        async with aclosing(generator.generate(wanted)) as stream:
            events = [event async for event in stream]
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)
        return events[0].model, [item.detail for item in events[-1].degraded]

    assert await who_answers() == ("vllm", [])
    server.kill()
    details = []
    while not details or "failed too often" not in details[-1]:
        name, told = await who_answers()
        assert name == "spare"
        details += told
    assert len(details) == Policy().failures_in_a_row + 1
    await asyncio.to_thread(server.start)
    while (await who_answers())[0] != "vllm":  # noqa: ASYNC110 - the probe's turn comes by the clock
        await asyncio.sleep(0.1)
    await model.close()

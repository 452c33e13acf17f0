"""openai:// before vLLM's own server: the conformance suite, going on by token ids, leaving."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_generator_models import *  # noqa: F403
from tests.conformance.test_generator_models import asking, edges, refused, resuming
from tests.support.generator import House, ask, house
from tests.support.vllm_server import VllmServer
from weft.errors import Reason
from weft.generator.v1 import generator_pb2 as pb

BY_IDS = "&resume=token_ids"
RESUMABLE: Any = {"by-ids": lambda server: server.url(BY_IDS)}
NOT_RESUMABLE: Any = {"chat": lambda server: server.url()}
MODELS: Any = {**RESUMABLE, **NOT_RESUMABLE}
FAILING: Any = {"unknown": lambda server: server.url(model="unknown")}
BOTH = pytest.mark.parametrize("more", ["", BY_IDS], ids=["chat", "by-ids"])
ANSWER_TOKENS = 192  # of the tiny model, always, and one that ends it


@pytest.fixture(scope="module")
def server(
    tiny_llama: Path, vllm_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    served = VllmServer(tiny_llama, vllm_environment, tmp_path_factory.mktemp("vllm") / "server.log")
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
        return whole.text[:chars] + rest.text == whole.text and rest.finished.reason == whole.finished.reason

    async with house(m=server.url(BY_IDS)) as h:
        together = await asyncio.gather(*(broken_and_whole(h, number) for number in range(20)))
    assert together == [True] * 20


async def test_an_answer_cut_at_any_token_goes_on_also_within_a_character(server: VllmServer) -> None:
    async with house(m=server.url(BY_IDS)) as h:
        whole = await ask(h, asking(), 60)
        for tokens in (1, 4, 5, 6, 7, 8, 9, 10, ANSWER_TOKENS - 1, ANSWER_TOKENS):  # a lion stands at 5, in four
            rest = await ask(h, resuming(whole, tokens, 0), 60)
            assert rest.text == whole.text
            assert [*whole.token_ids[:tokens], *rest.token_ids] == whole.token_ids


@BOTH
async def test_usage_is_the_servers_to_the_token(server: VllmServer, more: str) -> None:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    async with house(m=server.url(more)) as h:
        before = [server.metric(name) for name in names]
        answers = await asyncio.gather(*(ask(h, asking(f"Question {number}"), 60) for number in range(32)))
        after = [server.metric(name) for name in names]
    used = [answer.finished.usage for answer in answers]
    assert all(usage.output_tokens == ANSWER_TOKENS + 1 for usage in used)
    assert after[0] - before[0] == sum(usage.input_tokens for usage in used)
    assert after[1] - before[1] == sum(usage.output_tokens for usage in used)
    assert any(usage.cached_tokens for usage in used)  # they begin alike


def fitting(schema: dict[str, Any], max_tokens: int = 64) -> pb.GenerateRequest:
    wanted = asking(sampling=pb.Sampling(max_tokens=max_tokens))
    wanted.response_format.json_schema.update(schema)
    return wanted


@BOTH
async def test_whoever_leaves_stops_the_servers_work(server: VllmServer, more: str) -> None:
    max_tokens = 1_500
    endless = fitting({"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 1_000}, max_tokens)
    async with house(m=server.url(more)) as h:
        for _ in range(10):  # a busy machine may show the beginning of an answer when the server is through with it
            begun = server.metric("vllm:generation_tokens_total")
            call = h.stub.Generate(endless, timeout=60)
            await call.read()
            call.cancel()
            left_s = time.monotonic()
            await asyncio.to_thread(_wait_idle, server)
            idle_s = time.monotonic() - left_s
            made = server.metric("vllm:generation_tokens_total") - begun
            if made < max_tokens:
                break
    assert made < max_tokens
    print(f"the server was idle {idle_s * 1_000:.0f} ms after the caller had left, with {made:.0f} tokens made")


def _wait_idle(server: VllmServer) -> None:
    while server.metric("vllm:num_requests_running") or server.metric("vllm:num_requests_waiting"):
        time.sleep(0.005)


@BOTH
async def test_output_fits_a_schema_and_one_that_is_none_is_refused(server: VllmServer, more: str) -> None:
    async with house(m=server.url(more)) as h:
        answer = await ask(h, fitting({"enum": ["nine", "ten"]}), 60)
        assert json.loads(answer.text) in ("nine", "ten")
        assert answer.finished.reason == pb.FINISH_REASON_STOP
        err = await refused(ask(h, fitting({"type": "nonsense"}), 60))
        assert err.reason == Reason.SCHEMA_INVALID
        assert (await ask(h, asking(), 60)).finished.reason == pb.FINISH_REASON_STOP


async def test_tools_are_asked_for_as_their_schemas_say_or_the_model_speaks(server: VllmServer) -> None:
    adds = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2, 3]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    async with house(m=server.url(BY_IDS)) as h:
        wanted = [asking(f"Question {number}", sampling=pb.Sampling(max_tokens=500)) for number in range(20)]
        for one in wanted:
            one.tools.add(name="clock", description="Tells the time.").input_schema.update({"type": "object"})
            one.tools.add(name="add", description="Adds.").input_schema.update(adds)
        answers = await asyncio.gather(*(ask(h, one, 120) for one in wanted))
    called = [answer.finished for answer in answers if answer.finished.tool_calls]
    assert called, "none of twenty questions made the model call a tool"
    for finished in called:
        assert finished.reason == pb.FINISH_REASON_TOOL_CALLS
        for call in finished.tool_calls:
            assert call.name in ("clock", "add")
            assert call.name != "add" or call.arguments["a"] in (1, 2, 3)


@BOTH
async def test_a_context_too_long_is_told_with_the_counts(server: VllmServer, more: str) -> None:
    async with house(m=server.url(more)) as h:
        err = await refused(ask(h, asking("open " * 6_000), 60))
    assert err.reason == Reason.CONTEXT_TOO_LONG
    assert err.metadata["context_tokens"] == "2048"
    assert int(err.metadata.get("prompt_tokens") or err.metadata["wanted_tokens"]) > 2_048

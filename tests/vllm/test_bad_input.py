"""vLLM's engine in the generator's process: what can't be started, and what can't be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from mesh.plugins import Url, load
from services.generator.settings import MODELS
from tests.support.generator import ask, house
from tests.support.tiny_llama import CONTEXT_TOKENS
from weft.errors import Reason, WeftError, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb


async def test_an_engine_that_does_not_start_says_why(vllm_url: str) -> None:
    raw = f"{vllm_url}&max_model_len={CONTEXT_TOKENS + 1}"
    broken = load(MODELS, Url.parse(raw)).open(Url.parse(raw))
    with pytest.raises(WeftError, match=rf"the engine doesn't start: (?s:.*){CONTEXT_TOKENS + 1}") as caught:
        await broken.start()
    assert caught.value.reason == Reason.MODEL_UNAVAILABLE
    await broken.close()


URLS = {
    "vllm://host/model": "three slashes",
    "vllm:///": "three slashes",
    "vllm:///there/is/nothing": "no /there/is/nothing/config.json",
    "{}&gpu=1": "'gpu' is no parameter; there are: dtype",
    "{}&max_model_len=0": "max_model_len is '0'; allowed is 2 to",
    "{}&max_model_len=²": "max_model_len is '²'",
    "{}&gpu_memory=nan": "gpu_memory is 'nan'; allowed is above 0, to 1",
    "{}&gpu_memory=1.5": "gpu_memory is '1.5'",
}


@pytest.mark.parametrize(("raw", "told"), URLS.items())
async def test_a_url_that_cannot_be_meant_is_refused(vllm_url: str, raw: str, told: str) -> None:
    url = Url.parse(raw.format(vllm_url))
    with pytest.raises(WeftError) as caught:
        load(MODELS, url).open(url)
    assert caught.value.reason == Reason.INVALID_FIELD
    assert told in caught.value.message


def message(**options: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="Why?")], **options)


def with_schema(schema: dict[str, Any]) -> pb.GenerateRequest:
    wanted = message()
    json_format.ParseDict(schema, wanted.response_format.json_schema)
    return wanted


def a_long_question() -> pb.GenerateRequest:
    wanted = message()
    wanted.messages[0].content = "word " * CONTEXT_TOKENS
    return wanted


BAD: dict[str, tuple[pb.GenerateRequest, Reason, str]] = {
    "no such model": (message(model="other"), Reason.MODEL_NOT_FOUND, "model"),
    "no messages": (pb.GenerateRequest(), Reason.INVALID_FIELD, "messages"),
    "an empty message": (
        pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER)]),
        Reason.INVALID_FIELD,
        "messages[0].content",
    ),
    "no schema": (with_schema({"type": "nonsense"}), Reason.SCHEMA_INVALID, "response_format.json_schema"),
    "10⁵ stop strings": (message(sampling=pb.Sampling(stop=["a"] * 100_000)), Reason.INVALID_FIELD, "sampling.stop"),
    "cold": (message(sampling=pb.Sampling(temperature=-1)), Reason.INVALID_FIELD, "sampling.temperature"),
    "hot": (message(sampling=pb.Sampling(temperature=1e30)), Reason.INVALID_FIELD, "sampling.temperature"),
    "no number": (
        message(sampling=pb.Sampling(temperature=float("nan"))),
        Reason.INVALID_FIELD,
        "sampling.temperature",
    ),
    "nothing to choose": (message(sampling=pb.Sampling(top_p=0)), Reason.INVALID_FIELD, "sampling.top_p"),
    "a penalty": (message(sampling=pb.Sampling(presence_penalty=9)), Reason.INVALID_FIELD, "sampling.presence_penalty"),
    "too many tokens": (message(sampling=pb.Sampling(max_tokens=CONTEXT_TOKENS)), Reason.CONTEXT_TOO_LONG, ""),
    "too long a question": (a_long_question(), Reason.CONTEXT_TOO_LONG, ""),
    "ids of no token": (
        message(resume=pb.Resume(prompt_token_ids=[1, 2**32 - 1])),
        Reason.INVALID_FIELD,
        "resume.prompt_token_ids",
    ),
}


async def test_what_cannot_be_asked_is_refused_clearly_and_the_engine_goes_on_unharmed(vllm_url: str) -> None:
    async with house(m=vllm_url) as h:
        before = await ask(h, message())
        beside = asyncio.create_task(ask(h, message(), 30))
        for name, (wanted, reason, field) in BAD.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(h, wanted)
            err = from_rpc_error(caught.value)
            assert (err.reason, err.field or "") == (reason, field), name
            if reason == Reason.CONTEXT_TOO_LONG:
                assert err.metadata["context_tokens"] == str(CONTEXT_TOKENS)
                assert int(err.metadata["prompt_tokens"]) + int(err.metadata["max_tokens"]) >= CONTEXT_TOKENS
        # A lone surrogate is no UTF-8: what holds one isn't a message, and gets no further than that.
        raw = message().SerializeToString().replace(b"Why?", b"\xed\xa0\x80?")
        generate = h.channel.unary_stream(
            "/weft.generator.v1.GeneratorService/Generate", response_deserializer=pb.GenerateResponse.FromString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(raw, timeout=10).read()
        assert from_rpc_error(caught.value).reason == Reason.INVALID_FIELD
        assert (await beside).text == before.text
        assert (await ask(h, message())).text == before.text

"""A generator process with vLLM in it: how soon it serves, and how it ends when its engine dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import vllm_engine
from weft.errors import Reason, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc

START_TIMEOUT_S = 300
END_TIMEOUT_S = 60
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def generator(model: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A generator process and its port; there is no control plane, and it serves all the same."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.generator"),
        env={**os.environ, "WEFT_GENERATOR__MODELS": json.dumps({"tiny": model}), "WEFT_MESH": "127.0.0.1:9"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert started.stdout is not None
    reading: asyncio.Task[bytes] | None = None
    said = b""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (found := re.search(rb"serving on 127\.0\.0\.1:(\d+)", line := await started.stdout.readline())):
                said += line
                assert line, f"the process ended before it served:\n{said.decode(errors='replace')}"
        reading = asyncio.create_task(started.stdout.read())  # or a full pipe would hold it up
        yield started, int(found.group(1))
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        if reading is not None:
            await reading


async def rest(answer: grpc.aio.UnaryStreamCall) -> None:
    while await answer.read() is not grpc.aio.EOF:
        pass


async def test_a_process_whose_engine_dies_tells_its_callers_goes_not_serving_and_ends_with_an_error(
    tiny_llama: Path,
) -> None:
    began_s = time.monotonic()
    async with (
        generator(vllm_engine.url(tiny_llama)) as (process, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        print(f"\nexec to SERVING: {time.monotonic() - began_s:.1f} s")
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=END_TIMEOUT_S)
        assert (await health.read()).status == SERVING

        stub = pb_grpc.GeneratorServiceStub(channel)
        question = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="Why?")])
        first_s = time.monotonic()
        answers = [stub.Generate(question, timeout=END_TIMEOUT_S) for _ in range(8)]
        for answer in answers:
            assert (await answer.read()).HasField("started")
        print(f"first answer begun after {(time.monotonic() - first_s) * 1_000:.0f} ms")

        family = psutil.Process(process.pid).children(recursive=True)
        (core,) = [child for child in family if "EngineCore" in "".join(child.cmdline())]
        core.kill()
        killed_s = time.monotonic()
        for answer in answers:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rest(answer)
            assert from_rpc_error(caught.value).reason == Reason.MODEL_UNAVAILABLE
        print(f"callers told after {(time.monotonic() - killed_s) * 1_000:.0f} ms")
        assert (await health.read()).status == NOT_SERVING
        print(f"NOT_SERVING after {(time.monotonic() - killed_s) * 1_000:.0f} ms")
        health.cancel()  # it is a call under way, too, which a process that ends gives time to finish
        assert await asyncio.wait_for(process.wait(), END_TIMEOUT_S) == 1
        print(f"ended after {(time.monotonic() - killed_s) * 1_000:.0f} ms")
        _, alive = psutil.wait_procs(family, timeout=END_TIMEOUT_S)
        assert alive == []

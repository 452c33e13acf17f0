"""What a generator's models say of their load, as the balancer and a scrape get it."""

from __future__ import annotations

import asyncio

from mesh.load import fetch_load
from tests.support.generator_process import replica
from weft.generator.v1 import generator_pb2 as pb

ASKED = pb.GenerateRequest(model="b", messages=[pb.Message(role=pb.ROLE_USER, content="What?")])
MODELS = {"a": "scripted:?kv_cache=0.25", "b": "scripted:?kv_cache=0.75&hang_after=1", "c": "extractive:"}


async def test_the_load_of_all_models_is_reported_out_of_band_and_shown_by_model() -> None:
    async with replica(MODELS) as r:
        calls = [r.stub.Generate(ASKED, timeout=20) for _ in range(3)]
        for call in calls:
            assert (await call.read()).HasField("started")
        load = await fetch_load(r.channel, timeout_s=5)
        text = r.metrics()
        for call in calls:
            call.cancel()
    assert load is not None
    assert load.pending == 3
    assert load.counts == {"running": 3, "waiting": 0}
    assert load.shares == {"kv_cache": 0.75}  # the fullest; nobody tells of a GPU
    for line in (
        'weft_generator_running{model="a"} 0.0',
        'weft_generator_running{model="b"} 3.0',
        'weft_generator_waiting{model="b"} 0.0',
        'weft_generator_kv_cache_ratio{model="b"} 0.75',
    ):
        assert line in text
    assert 'kv_cache_ratio{model="c"}' not in text
    assert "gpu_memory_ratio{" not in text


async def test_models_that_tell_nothing_of_memory_leave_it_out() -> None:
    async with replica({"c": "extractive:"}) as r:
        load = await fetch_load(r.channel, timeout_s=5)
    assert load is not None
    assert load.shares == {}


async def test_a_queue_before_a_model_is_load_that_waits() -> None:
    async with replica({"b": "scripted:?hang_after=1"}, max_running={"b": 1}) as r:
        calls = [r.stub.Generate(ASKED, timeout=60) for _ in range(3)]
        async with asyncio.timeout(20):
            while (load := await fetch_load(r.channel, timeout_s=5)) is None or load.counts["waiting"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
    assert load.counts == {"running": 1, "waiting": 2}
    assert load.pending == 3

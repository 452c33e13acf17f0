"""The real Envoy, fed by the same control plane as gRPC's clients."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import aio

from mesh.controlplane.envoy import bootstrap
from mesh.controlplane.policy import HeaderRoute
from mesh.controlplane.resources import CLUSTER, ENDPOINT, ROUTE, Kind
from tests.support.envoy import envoy_binary
from tests.support.mesh import free_port
from tests.support.peers import GET, PUT, SLEEP_MS, Call, call_all, peer
from tests.support.plane import ControlPlane, control_plane, instance, servers, weights

pytestmark = pytest.mark.envoy


class Edge:
    """An Envoy with its control plane; ``calls`` go through it."""

    def __init__(self, plane: ControlPlane, channel: aio.Channel) -> None:
        self.ads, self.show, self._channel = plane.ads, plane.show, channel

    async def calls(self, calls: list[Call], at_once: int = 20) -> list[str]:
        return await call_all(self._channel, calls, at_once=at_once, timeout_s=10)

    async def reached(self, *wanted: str) -> None:
        """Wait until calls are answered by all of ``wanted``, and by nobody else."""
        async with asyncio.timeout(10):
            while set(await self.calls([(GET, {})] * 40)) != set(wanted):  # noqa: ASYNC110 - Envoy's own doing
                await asyncio.sleep(0.02)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    executable, listen, config = envoy_binary(), f"127.0.0.1:{free_port()}", tmp_path / "envoy.json"
    async with control_plane() as plane:
        config.write_text(json.dumps(bootstrap([plane.address], listen, f"127.0.0.1:{free_port()}")))
        with (tmp_path / "envoy.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                executable,
                "-c",
                str(config),
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "-l",
                "warning",
                stderr=log,
            )
        try:
            async with aio.insecure_channel(listen, options=[("grpc.initial_reconnect_backoff_ms", 100)]) as channel:
                yield Edge(plane, channel)
        finally:
            process.kill()
            await process.wait()


async def test_envoy_splits_as_grpc_does_and_takes_every_resource(edge: Edge):
    async with servers("a", "b") as ports:
        canary = HeaderRoute("weft-route-canary", "yes", "v2")
        edge.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(canary, v1=90, v2=10))
        await edge.reached("a", "b")
        by_chance = Counter(await edge.calls([(GET, {})] * 1_000))
        assert by_chance.keys() == {"a", "b"}
        assert 60 <= by_chance["b"] <= 140  # 100 expected, standard deviation 9.5
        with_bucket = await edge.calls([(PUT, {"weft-bucket": str(n)}) for n in range(100)])
        assert with_bucket == ["a"] * 90 + ["b"] * 10
        assert set(await edge.calls([(PUT, {"weft-route-canary": "yes", "weft-bucket": "1"})] * 50)) == {"b"}
        assert await edge.calls([("/nobody.v1.Nobody/Get", {})]) == ["!UNIMPLEMENTED"]
        (stream,) = edge.ads.streams()
        assert (stream.kind, stream.refused) == (Kind.ENVOY, {})
        assert stream.accepted.keys() == {CLUSTER, ENDPOINT, ROUTE}


async def test_a_new_version_takes_over_under_load_without_a_failed_call(edge: Edge):
    async with servers("a", "b") as ports:
        edge.show(instance("a", ports["a"]))
        await edge.reached("a")
        calling = asyncio.create_task(edge.calls([(PUT, {SLEEP_MS: "1"})] * 2_000, at_once=10))
        await asyncio.sleep(0.3)
        both = instance("a", ports["a"]), instance("b", ports["b"], "v2")
        edge.show(*both, policy=weights(v2=100))  # a cluster that Envoy doesn't know yet, and at once all calls
        answers = await calling
        assert set(answers) == {"a", "b"}
        assert answers[-1] == "b"


async def test_a_lone_canary_killed_under_load_costs_no_idempotent_call(edge: Edge):
    async with servers("a") as ports, peer("serve", "b") as canary:
        both = instance("a", ports["a"]), instance("b", await canary.read(), "v2")
        edge.show(*both, policy=weights(v1=50, v2=50))
        await edge.reached("a", "b")
        calling = asyncio.create_task(edge.calls([(GET, {SLEEP_MS: "1"})] * 2_000))
        await asyncio.sleep(0.3)
        assert not calling.done()
        await canary.kill()
        answers = Counter(await calling)
        assert answers.keys() == {"a", "b"}
        assert answers["a"] > answers["b"]


async def test_a_policy_change_reaches_envoy_at_once(edge: Edge):
    async with servers("a", "b") as ports:
        both = instance("a", ports["a"]), instance("b", ports["b"], "v2")
        edge.show(*both, policy=weights(v1=100))
        await edge.reached("a")
        edge.show(*both, policy=weights(v2=100))
        async with asyncio.timeout(10):
            await edge.reached("b")
        assert set(await edge.calls([(GET, {})] * 50)) == {"b"}

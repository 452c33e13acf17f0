"""The control plane and gRPC's own xDS client: splits, fallback, retries and pushes as callers see them.

Each caller is a child process, since gRPC reads its xDS bootstrap once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from mesh.controlplane.policy import HeaderRoute
from mesh.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, Kind
from tests.support.peers import FAIL_FIRST, GET, PUT, SLEEP_MS, peer
from tests.support.plane import ControlPlane, control_plane, instance, servers, until, weights


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with control_plane() as plane:
        yield plane


async def test_a_split_holds_for_callers_without_a_bucket_and_is_exact_for_those_with_one(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=90, v2=10))
        by_chance = Counter(await caller.call([(GET, {})] * 1_000))
        assert by_chance.keys() == {"a", "b"}
        assert 60 <= by_chance["b"] <= 140  # 100 expected, standard deviation 9.5
        with_bucket = await caller.call([(GET, {"weft-bucket": str(n % 100)}) for n in range(300)])
        assert with_bucket == (["a"] * 90 + ["b"] * 10) * 3


async def test_a_header_route_takes_every_call_that_carries_it(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        canary = HeaderRoute("weft-route-canary", "yes", "v2")
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(canary, v1=100))
        assert set(await caller.call([(PUT, {"weft-route-canary": "yes", "weft-bucket": "3"})] * 100)) == {"b"}
        assert set(await caller.call([(PUT, {"weft-route-canary": "no"})] * 100)) == {"a"}


async def test_only_what_is_declared_idempotent_is_retried(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]))
        assert await caller.call([(GET, {FAIL_FIRST: "1"}), (PUT, {FAIL_FIRST: "1"})]) == ["a", "!UNAVAILABLE"]


@pytest.mark.parametrize("at_once", [5, 20])
async def test_a_lone_canary_killed_under_load_costs_no_call(plane: ControlPlane, at_once: int):
    async with servers("a") as ports, peer("serve", "b") as canary, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", await canary.read(), "v2"), policy=weights(v1=50, v2=50))
        assert set(await caller.call([(GET, {})] * 100)) == {"a", "b"}
        calling = asyncio.create_task(caller.call([(GET, {SLEEP_MS: "1"})] * 2_000, at_once=at_once))
        await asyncio.sleep(0.3)
        assert not calling.done()
        await canary.kill()
        answers = Counter(await calling)
        assert answers.keys() == {"a", "b"}
        assert answers["a"] > answers["b"]
        assert await caller.call([(PUT, {})] * 100) == ["a"] * 100  # what isn't retried fails over too


async def test_a_version_without_instances_takes_its_share_by_the_others(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), policy=weights(v1=50, v9=50))
        assert await caller.call([(PUT, {})] * 50) == ["a"] * 50


async def test_a_policy_change_reaches_a_running_caller_at_once(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        both = instance("a", ports["a"]), instance("b", ports["b"], "v2")
        plane.show(*both, policy=weights(v1=100, v2=0))
        assert set(await caller.call([(GET, {})] * 20)) == {"a"}
        plane.show(*both, policy=weights(v1=0, v2=100))
        started_s = time.monotonic()
        while await caller.call([(GET, {})]) != ["b"]:
            assert time.monotonic() < started_s + 2
        assert time.monotonic() < started_s + 0.5  # milliseconds on a quiet machine
        assert set(await caller.call([(GET, {})] * 50)) == {"b"}


async def test_a_control_plane_that_dies_and_comes_back_cold_costs_no_call(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=50, v2=50))
        assert set(await caller.call([(PUT, {})] * 50)) == {"a", "b"}
        await plane.stop()
        assert Counter(await caller.call([(PUT, {})] * 300)).keys() == {"a", "b"}
        again = ControlPlane()
        await again.start(plane.port)
        await until(lambda: again.ads.subscribers)
        assert Counter(await caller.call([(PUT, {})] * 300)).keys() == {"a", "b"}
        again.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=100))
        await until(lambda: again.ads.streams()[0].accepted.get(ROUTE))
        assert await caller.call([(PUT, {})] * 50) == ["a"] * 50
        await again.stop()


async def test_instances_in_several_zones_are_all_used(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"], zone="z1"), instance("b", ports["b"], zone="z2"))
        share = Counter(await caller.call([(GET, {})] * 200))
        assert share.keys() == {"a", "b"}
        assert abs(share["a"] - share["b"]) <= 40


async def test_a_busy_instance_is_called_less_whichever_zone_it_is_in(plane: ControlPlane):
    async with servers(a=0.9, b=0.1) as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"], zone="z1"), instance("b", ports["b"], zone="z2"))
        async with asyncio.timeout(10):
            share = Counter(await caller.call([(GET, {})] * 200))
            while share["a"] > 40:  # 20 expected, once the reports count
                await asyncio.sleep(0.3)
                share = Counter(await caller.call([(GET, {})] * 200))
        assert share["a"] >= 5


async def test_more_calls_under_way_than_the_data_planes_default_limit(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]))
        assert await caller.call([(PUT, {SLEEP_MS: "1500"})] * 1_300, at_once=1_300) == ["a"] * 1_300


async def test_a_caller_that_came_before_the_first_snapshot_waits_for_it(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        calling = asyncio.create_task(caller.call([(PUT, {})]))
        await until(lambda: plane.ads.subscribers == 1)
        await asyncio.sleep(0.2)
        assert not calling.done()
        plane.show(instance("a", ports["a"]))
        assert await calling == ["a"]
        (stream,) = plane.ads.streams()
        assert (stream.node_id, stream.kind, stream.refused) == ("caller", Kind.GRPC, {})
        assert set(stream.accepted.values()) == {plane.cache.current.version}  # type: ignore[union-attr]
        assert stream.accepted.keys() == {LISTENER, ROUTE, CLUSTER, ENDPOINT}

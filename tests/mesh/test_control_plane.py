"""The control plane as a real process: killed, paused, restarted, stopped, misconfigured; over both registries.

Instances are real gRPC servers in this process, announced by the real client; what callers would be told
is read from a real discovery stream.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.consul import ConsulAgent
from tests.support.control_plane import TTL_S, eventually, house, refusal, shown
from tests.support.mesh import ROOT
from weft.mesh.v1 import registry_pb2, routing_pb2


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulAgent]:
    agent = ConsulAgent(tmp_path).start()
    yield agent
    agent.kill()


# -- killed, paused, restarted ------------------------------------------------------------------------


async def test_a_killed_control_plane_comes_back_with_everybody_and_is_silent_until_it_knows(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        one, two = await plane.announce("one"), await plane.announce("two")
        ports = {one.instance.port, two.instance.port}
        await shown(plane, {"one", "two"})
        await plane.set_route("retriever", v1=100)
        await plane.kill()
        await asyncio.sleep(2 * TTL_S)
        plane.process.start()
        async with plane.endpoints() as pushed:
            await eventually(_true(lambda: pushed), within_s=20, what="a push")
            await asyncio.sleep(3)
            assert pushed == [ports], "what callers are told first is whole, and nothing changes after"
        assert (await plane.route("retriever")).policy.weights[0].weight == 100


async def test_a_paused_control_plane_evicts_nobody(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        one, two = await plane.announce("one"), await plane.announce("two")
        await shown(plane, {"one", "two"})
        async with plane.endpoints() as pushed:
            await eventually(_true(lambda: pushed), within_s=20, what="a push")
            await plane.pause(4 * TTL_S)
            until_s = time.monotonic() + 2 * TTL_S
            while time.monotonic() < until_s:
                assert await plane.serving() == {"one", "two"}
                await asyncio.sleep(0.05)
            assert pushed[-1] == {one.instance.port, two.instance.port}
            assert len(pushed) <= 2


async def test_an_instance_that_died_while_the_control_plane_was_down_is_dropped_after_a_ttl(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        one, two = await plane.announce("one"), await plane.announce("two")
        three = await plane.announce("three")
        await shown(plane, {"one", "two", "three"})
        await plane.kill()
        await three.die()
        plane.process.start()
        async with plane.endpoints() as pushed:
            await eventually(_true(lambda: pushed), within_s=20, what="a push")
            assert pushed[0] == {one.instance.port, two.instance.port}


async def test_who_died_leaves_after_a_ttl_and_who_deregistered_leaves_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        one, two = await plane.announce("one"), await plane.announce("two")
        three = await plane.announce("three")
        await shown(plane, {"one", "two", "three"})
        async with plane.endpoints() as pushed:
            await two.registration.deregister()
            left = {one.instance.port, three.instance.port}
            await eventually(_true(lambda: pushed and pushed[-1] == left), within_s=1, what="two gone")
            await three.die()
            left = {one.instance.port}
            await eventually(_true(lambda: pushed[-1] == left), within_s=3 * TTL_S, what="three gone")


async def test_a_control_plane_stops_at_once_though_discovery_streams_are_open(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        await plane.announce("one")
        async with plane.endpoints() as pushed:
            await eventually(_true(lambda: pushed), within_s=20, what="a push")
            started_s = time.monotonic()
            assert await asyncio.to_thread(plane.process.terminate) == 0
            assert time.monotonic() - started_s < 8


# -- routes ---------------------------------------------------------------------------------------------


async def test_a_policy_is_set_read_changed_and_deleted(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        await plane.announce("one", version="v1")
        await plane.announce("two", version="v2")
        await shown(plane, {"one", "two"})
        assert (await refusal(plane.route("retriever"))).reason == "POLICY_NOT_FOUND"
        set_ = await plane.set_route("retriever", v1=90, v2=10)
        assert not set_.warnings
        assert set_.policy.revision > 0

        async def in_force() -> bool:
            status = await plane.route("retriever")
            return bool(status.snapshot_version) and status.policy == set_.policy

        await eventually(in_force, within_s=15, what="the policy in a snapshot")
        listed = await plane.routing.ListRoutePolicies(routing_pb2.ListRoutePoliciesRequest(), timeout=5)
        assert [status.policy for status in listed.policies] == [set_.policy]
        stale = await refusal(plane.set_route("retriever", revision=set_.policy.revision - 1, v1=100))
        assert stale.reason == "POLICY_CONFLICT"
        changed = await plane.set_route("retriever", revision=set_.policy.revision, v1=50, v2=50)
        forced = await plane.set_route("retriever", force=True, v1=100)
        assert forced.policy.revision > changed.policy.revision
        assert forced.warnings == ["version v2 has instances but takes no share of the calls"]
        request = routing_pb2.DeleteRoutePolicyRequest(service="retriever")
        await plane.routing.DeleteRoutePolicy(request, timeout=5)
        await plane.routing.DeleteRoutePolicy(request, timeout=5)
        assert (await refusal(plane.route("retriever"))).reason == "POLICY_NOT_FOUND"


async def test_an_operator_is_warned_of_what_isnt_there(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        await plane.announce("one")
        await shown(plane, {"one"})
        unknown = await plane.set_route("retreiver", v1=100)
        assert unknown.warnings == ["no instance of retreiver has registered yet"]
        canary = await plane.set_route("retriever", v1=90, v2=10)
        assert canary.warnings == ["version v2 has no instances; its calls go to the other versions"]


async def test_a_policy_that_cannot_be_carried_out_is_refused_with_its_field(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        wrong = await refusal(plane.set_route("retriever", v1=90, v2=20))
        assert wrong.reason == "POLICY_INVALID"
        assert wrong.field == "policy.weights"
        assert (await refusal(plane.route("NO SERVICE"))).reason == "INVALID_FIELD"


# -- status ---------------------------------------------------------------------------------------------


async def test_status_tells_load_and_doesnt_wait_for_the_dead(tmp_path: Path) -> None:
    async with house(tmp_path, WEFT_CONTROLPLANE__LEASE_TTL_S="30") as plane:
        await plane.announce("one")
        dead = await plane.announce("two")
        await shown(plane, {"one", "two"})
        await dead.die()
        started_s = time.monotonic()
        status = await plane.status(with_load=True)
        assert time.monotonic() - started_s < 8
        assert {item.instance.id: item.HasField("load") for item in status.instances} == {"one": True, "two": False}
        assert status.registry == "builtin:"
        assert status.registry_available
        assert status.snapshot_version
        assert not any(item.HasField("load") for item in (await plane.status()).instances)


async def test_status_says_why_somebody_is_never_called(tmp_path: Path) -> None:
    async with house(tmp_path, WEFT_CONTROLPLANE__LEASE_TTL_S="2") as plane:
        await plane.announce("one")
        await plane.announce("named", host="localhost")
        async with asyncio.timeout(20):
            problems: dict[str, str] = {}
            while not problems.get("named"):
                await asyncio.sleep(0.05)
                problems = {item.instance.id: item.problem for item in (await plane.status()).instances}
    assert "localhost" in problems["named"]
    assert problems["one"] == ""


async def test_a_record_out_of_bounds_is_refused_on_the_wire(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        record = registry_pb2.Instance(service="retriever", id="one", host="127.0.0.1", port=70_000)
        err = await refusal(plane.registry.Register(registry_pb2.RegisterRequest(instance=record), timeout=5))
        assert (err.reason, err.field) == ("INVALID_FIELD", "instance.port")
        renewal = registry_pb2.RenewRequest(service="retriever", id="nobody")
        assert (await refusal(plane.registry.Renew(renewal, timeout=5))).reason == "LEASE_NOT_FOUND"
        departure = registry_pb2.DeregisterRequest(service="retriever", id="nobody")
        await plane.registry.Deregister(departure, timeout=5)


# -- misconfigured --------------------------------------------------------------------------------------


def run_control_plane(mesh: str, store: Path, registry: str = "builtin:") -> tuple[int, str]:
    """Start one that can't live; returns its exit code and what it said."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "OTEL_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "mesh.controlplane"], cwd=ROOT, timeout=20, capture_output=True, text=True,
        env={**environ, "WEFT_MESH": mesh, "WEFT_STORE": f"sqlite:///{store}", "WEFT_REGISTRY": registry,
             "WEFT_LOG_FORMAT": "json"},
    )  # fmt: skip
    said = ended.stdout + ended.stderr
    lines = [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{")]
    return ended.returncode, "\n".join([*lines, said if not lines else ""])


async def test_what_keeps_it_from_starting_is_said(tmp_path: Path) -> None:
    async with house(tmp_path) as plane:
        other, port = tmp_path / "other", plane.mesh.address.rpartition(":")[2]
        code, said = await asyncio.to_thread(run_control_plane, plane.mesh.address, other)
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in said
        code, said = await asyncio.to_thread(run_control_plane, "127.0.0.1:1", tmp_path)
        assert code == 1
        assert f"another control plane (pid {plane.process.pid})" in said
    (other / "mesh.db").write_bytes(b"rubbish" * 1000)
    code, said = await asyncio.to_thread(run_control_plane, "127.0.0.1:1", other)
    assert code == 1
    assert "cannot be read" in said
    assert "move it away" in said
    code, said = await asyncio.to_thread(run_control_plane, "127.0.0.1:1", other, "zookeeper://x")
    assert code == 1
    assert "zookeeper: is not a known scheme here; there are: builtin, consul" in said


# -- over Consul ----------------------------------------------------------------------------------------


@pytest.mark.consul
async def test_an_outage_that_empties_consul_costs_callers_nothing_and_the_canary_its_policy_neither(
    tmp_path: Path, consul: ConsulAgent
) -> None:
    async with house(tmp_path, consul.url) as plane:
        one, two = await plane.announce("one", version="v1"), await plane.announce("two", version="v2")
        ports = {one.instance.port, two.instance.port}
        await shown(plane, {"one", "two"})
        set_ = await plane.set_route("retriever", v1=90, v2=10)
        async with plane.endpoints() as pushed:
            await eventually(_true(lambda: pushed and pushed[-1] == ports), within_s=20, what="both pushed")
            said = len(pushed)
            await asyncio.to_thread(consul.kill)

            async def away() -> bool:
                return not (await plane.status()).registry_available

            await eventually(away, within_s=20, what="a registry said to be away")
            # Reads go on from what is known, writes are refused.
            assert (await plane.route("retriever")).policy.weights == set_.policy.weights
            assert (await refusal(plane.set_route("retriever", force=True, v1=100))).reason == "REGISTRY_UNAVAILABLE"
            await asyncio.sleep(3)
            await asyncio.to_thread(consul.start)
            started_s = time.monotonic()
            await shown(plane, {"one", "two"}, within_s=30)
            assert time.monotonic() - started_s < 15

            async def restored() -> bool:
                keys = f"http://{consul.address}/v1/kv/weft/policies/retriever?raw"
                answer = await asyncio.to_thread(_get, keys)
                return bool(answer) and json.loads(answer) == {"weights": {"v1": 90, "v2": 10}}

            await eventually(restored, within_s=30, what="the policy written back")
            await asyncio.sleep(2)
            assert all(push == ports for push in pushed[said:]), "nobody was ever taken from the callers"


@pytest.mark.consul
async def test_a_control_plane_may_start_before_its_registry(tmp_path: Path, consul: ConsulAgent) -> None:
    consul.kill()
    async with house(tmp_path, consul.url) as plane:
        await plane.announce("one")
        status = await plane.status()
        assert not status.registry_available
        assert not status.snapshot_version
        assert (await refusal(plane.route("retriever"))).reason == "REGISTRY_UNAVAILABLE"
        await asyncio.to_thread(consul.start)
        await shown(plane, {"one"}, within_s=30)


@pytest.mark.consul
async def test_a_bad_value_that_came_into_the_kv_another_way_is_named_and_stays_out(
    tmp_path: Path, consul: ConsulAgent
) -> None:
    async with house(tmp_path, consul.url) as plane:
        await plane.announce("one")
        await shown(plane, {"one"})
        good = await plane.set_route("retriever", v1=100)

        async def in_force() -> bool:
            return bool((await plane.route("retriever")).snapshot_version)

        await eventually(in_force, within_s=15, what="the good policy in force")
        key = f"http://{consul.address}/v1/kv/weft/policies/retriever"
        put = urllib.request.Request(key, data=b'{"weights": {"v1": 33}}', method="PUT")
        await asyncio.to_thread(urllib.request.urlopen, put)

        async def named() -> bool:
            status = await plane.route("retriever")
            return "add up to 33" in status.problem and status.policy.weights == good.policy.weights

        await eventually(named, within_s=15, what="the problem, and the last good policy in force")


def _true(check: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def checked() -> Any:
        return check()

    return checked


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""

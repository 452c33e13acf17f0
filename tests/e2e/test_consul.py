"""A mesh whose registry is a real Consul agent: what survives with the built-in one survives with it,
and Consul's own absence and loss of memory cost no call either."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.consul import ConsulAgent
from tests.support.load import driving
from tests.support.mesh import ROOT, Mesh, Process, eventually, running_mesh
from tests.support.sdk import in_child
from tests.support.survival import ENVIRON, REPLICAS, Survival, assert_nothing_failed, ids, settle
from weft.mesh.v1 import routing_pb2, routing_pb2_grpc, status_pb2

pytestmark = [pytest.mark.consul, pytest.mark.timeout(240)]

BACK_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    agent = ConsulAgent(tmp_path_factory.mktemp("consul")).start()
    yield agent
    agent.kill()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, agent: ConsulAgent) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("mesh"), REPLICAS, registry=agent.url, environ=ENVIRON) as running:
        in_child(running, "ingest", str(ROOT / "docs"))
        yield running


def in_consul(agent: ConsulAgent) -> set[str]:
    """Ids of the instances that the agent itself knows."""
    answer = httpx.get(f"http://{agent.address}/v1/agent/services", timeout=5)
    answer.raise_for_status()
    return set(answer.json())


def key(agent: ConsulAgent, service: str) -> str:
    """URL of a route policy in KV."""
    return f"http://{agent.address}/v1/kv/weft/policies/{service}"


def listed(mesh: Mesh, service: str) -> routing_pb2.PolicyStatus | None:
    """A service's policy as ``weft route --show`` has it."""
    stub = routing_pb2_grpc.RoutingServiceStub(mesh.channel)
    policies = stub.ListRoutePolicies(routing_pb2.ListRoutePoliciesRequest(), timeout=5).policies
    return next((found for found in policies if found.policy.service == service), None)


def put_policy(agent: ConsulAgent, service: str, document: dict[str, object]) -> None:
    """Write a policy to KV as somebody might by hand."""
    httpx.put(key(agent, service), json=document, timeout=5).raise_for_status()


def in_force(mesh: Mesh, service: str) -> routing_pb2.PolicyStatus | None:
    """A service's policy once a snapshot holds it."""
    found = listed(mesh, service)
    return found if found is not None and found.snapshot_version else None


def held(mesh: Mesh) -> set[str]:
    """Ids that the control plane keeps although the registry doesn't list them."""
    status = mesh.status()
    return {item.instance.id for item in status.instances if item.health == status_pb2.HEALTH_HELD} if status else set()


class TestWithConsul(Survival):
    away_s = 10.0  # Consul itself is away for 30

    def test_consul_away_for_30_s_and_back_empty_costs_no_call_and_no_policy(
        self, mesh: Mesh, agent: ConsulAgent, canary: Process
    ) -> None:
        mesh.set_route("orchestrator", weights={"v1": 60, "v2": 40})
        everybody = ids(mesh)
        stored = httpx.get(key(agent, "orchestrator"), params={"raw": ""}, timeout=5).json()
        assert stored == {"weights": {"v1": 60, "v2": 40}}
        with driving(mesh, "ask", seed=16, pause_s=0.5) as load:
            agent.kill()
            time.sleep(30)
            status = mesh.status()
            assert status is not None
            assert not status.registry_available
            assert status.snapshot_version
            agent.start()
            back_s = time.monotonic()
            eventually(lambda: in_consul(agent) >= everybody, within_s=BACK_WITHIN_S, what="all registered again")
            print(f"all registered again {time.monotonic() - back_s:.1f} s after Consul was back")
            eventually(lambda: ids(mesh) >= everybody and not held(mesh), within_s=BACK_WITHIN_S, what="all listed")
            settle()
        assert_nothing_failed(load.summary)
        assert load.summary["sessions_on_two_versions"] == 0, load.summary
        eventually(lambda: httpx.get(key(agent, "orchestrator"), timeout=5).is_success, within_s=30, what="in KV again")
        assert httpx.get(key(agent, "orchestrator"), params={"raw": ""}, timeout=5).json() == stored
        policy = listed(mesh, "orchestrator")
        assert policy is not None
        assert not policy.problem
        found = in_child(mesh, "sessions", "100", "2")
        assert found["sessions_on_two_versions"] == 0, found
        # 100 sessions at 40 %: standard deviation 4.9; five of them either way
        assert 15 <= found["versions"].get("v2", 0) <= 65, found

    def test_a_bad_policy_in_kv_is_named_and_the_last_good_one_stays(self, mesh: Mesh, agent: ConsulAgent) -> None:
        canary = mesh.spawn_service("retriever", version="v2")
        try:
            mesh.wait_ready({**REPLICAS, "retriever": 3})
            put_policy(agent, "retriever", {"weights": {"v1": 100, "v2": 0}})
            good = eventually(lambda: in_force(mesh, "retriever"), within_s=20, what="a policy from KV in force")
            time.sleep(1)
            before = mesh.calls("retriever", "Search")
            with driving(mesh, "search", seed=17) as load:
                put_policy(agent, "retriever", {"weights": {"v1": 10, "v2": 100}})
                bad = eventually(
                    lambda: (found := in_force(mesh, "retriever")) and found.problem and found,
                    within_s=20,
                    what="named",
                )
                settle()
            after = mesh.calls("retriever", "Search")
        finally:
            mesh.clear_route("retriever")
            canary.kill()
            mesh.processes.remove(canary)
        assert_nothing_failed(load.summary)
        assert "add up to 110" in bad.problem
        assert bad.policy.revision > good.policy.revision
        assert list(bad.policy.weights) == list(good.policy.weights)
        assert bad.snapshot_version == good.snapshot_version
        assert after["v2"] == before["v2"]
        assert after["v1"] >= before["v1"] + load.summary["ok"]
        eventually(lambda: listed(mesh, "retriever") is None, within_s=20, what="gone with its key")

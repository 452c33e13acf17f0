"""What must cost no call, whatever the registry: the tests that a mesh with each of them has to pass.

A test module derives a class from ``Survival`` and gives a module-wide fixture ``mesh`` with two of each
service. One mesh serves the whole module; what a test kills it starts again. Bounds on time are generous,
since machines are slow; bounds on failures are not: zero.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.load import driving
from tests.support.mesh import SERVICES, Mesh, Process, eventually

REPLICAS = dict.fromkeys(SERVICES, 2)
ENVIRON = {"WEFT_RETRIEVER__EMBEDDER": "none:"}  # words are enough here
LEAVES_WITHIN_S = 15.0
IN_CALL_S = 0.05  # between two calls: most callers are in one when something is killed


def settle() -> None:
    """Let callers run into what was done."""
    time.sleep(3)


def assert_nothing_failed(summary: dict[str, Any], at_least: int = 40) -> None:
    print(summary)  # `pytest -rP` shows how much load there was
    assert summary["failed"] == 0, summary
    assert not summary["degraded"], summary
    assert summary["ok"] >= at_least, summary


def ids(mesh: Mesh) -> set[str]:
    """Ids of the instances that the registry lists as serving."""
    return {instance.id for instances in mesh.serving().values() for instance in instances}


class Survival:
    """Real processes, twelve callers, two of each service."""

    away_s = 30.0  # the control plane

    @pytest.fixture(autouse=True)
    def whole(self, mesh: Mesh) -> None:
        """Each test begins with two of each service."""
        dead = [process for process in mesh.processes if not process.running]
        for process in dead:
            if not process.instance_id:  # the control plane, if a test failed
                process.start()
        mesh.restart(*(process for process in dead if process.instance_id))
        mesh.wait_ready(REPLICAS)

    @pytest.fixture
    def canary(self, mesh: Mesh) -> Iterator[Process]:
        """A lone orchestrator of another version."""
        process = mesh.spawn_service("orchestrator", version="v2")
        mesh.wait_ready({**REPLICAS, "orchestrator": 3})
        yield process
        mesh.clear_route("orchestrator")
        process.kill()
        mesh.processes.remove(process)
        eventually(lambda: process.instance_id not in ids(mesh), within_s=30, what="the canary gone")

    @pytest.mark.parametrize("victim", ["retriever", "orchestrator"])
    def test_a_replica_that_is_killed_costs_no_call_and_leaves_the_list(self, mesh: Mesh, victim: str) -> None:
        self.killed(mesh, victim, "ask")

    def killed(self, mesh: Mesh, victim: str, kind: str) -> None:
        """Kill a replica under load; fails if a call does, or if it stays on the list."""
        process = mesh.named(f"{victim}-")[0]
        with driving(mesh, kind, seed=11, pause_s=IN_CALL_S) as load:
            process.kill()
            settle()
        assert_nothing_failed(load.summary)
        eventually(lambda: process.instance_id not in ids(mesh), within_s=LEAVES_WITHIN_S, what="the dead one gone")

    def test_a_rolling_restart_of_every_service_costs_no_call(self, mesh: Mesh) -> None:
        with driving(mesh, "ask", seed=12, pause_s=0.2) as load:
            for replica in range(2):  # one of each service at a time, as a deployment would
                wave = [mesh.named(f"{service}-")[replica] for service in SERVICES]
                for process in wave:
                    process.signal(signal.SIGTERM)
                for process in wave:
                    assert process.wait() == 0, process.tail()
                mesh.restart(*wave)
        assert_nothing_failed(load.summary)

    def test_a_control_plane_that_is_away_costs_no_call(self, mesh: Mesh) -> None:
        control_plane = mesh.named("controlplane")[0]
        with driving(mesh, "ask", seed=13, pause_s=0.5) as load:
            control_plane.kill()
            time.sleep(self.away_s)
            control_plane.start()
            mesh.wait_ready(REPLICAS)
            settle()
        assert_nothing_failed(load.summary)

    def test_a_lone_half_weight_canary_that_is_killed_costs_no_call(self, mesh: Mesh, canary: Process) -> None:
        mesh.set_route("orchestrator", weights={"v1": 50, "v2": 50})
        with driving(mesh, "ask", seed=15, pause_s=IN_CALL_S) as load:
            time.sleep(1)
            canary.kill()
            settle()
        assert_nothing_failed(load.summary)
        assert load.summary["versions"].get("v2", 0) > 0, load.summary

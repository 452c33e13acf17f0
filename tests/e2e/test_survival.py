"""What kills a process must not fail a call: real processes, 40 callers, two of each service.

One mesh serves the whole module; what a test kills it starts again. Bounds on time are generous, since
machines are slow; bounds on failures are not: zero.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.load import driving
from tests.support.mesh import ROOT, SERVICES, Mesh, Process, eventually, running_mesh
from tests.support.sdk import in_child

REPLICAS = dict.fromkeys(SERVICES, 2)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("survival"), REPLICAS) as running:
        in_child(running, "ingest", str(ROOT / "docs"))
        yield running


@pytest.fixture(autouse=True)
def whole(mesh: Mesh) -> None:
    """Each test begins with two of each service, and leaves it so."""
    for process in mesh.processes:
        if not process.running and process.name.rpartition("-")[0] in SERVICES:
            process.start()
    mesh.wait_ready(REPLICAS)
    return


def settle() -> None:
    """Let callers run into what was done."""
    time.sleep(3)


def assert_nothing_failed(summary: dict[str, Any], at_least: int = 40) -> None:
    assert summary["failed"] == 0, summary
    assert summary["ok"] >= at_least, summary


@pytest.mark.parametrize(
    ("victim", "kind"),
    [("retriever", "search"), ("retriever", "ask"), ("generator", "ask"), ("tools", "ask"), ("orchestrator", "ask")],
)
def test_a_replica_that_is_killed_costs_no_call(mesh: Mesh, victim: str, kind: str) -> None:
    with driving(mesh, kind, seed=11) as load:
        mesh.named(f"{victim}-")[0].kill()
        settle()
    assert_nothing_failed(load.summary)


def test_a_rolling_restart_of_every_service_costs_no_call(mesh: Mesh) -> None:
    with driving(mesh, "ask", seed=12) as load:
        for process in [p for service in SERVICES for p in mesh.named(f"{service}-")]:
            assert process.terminate() == 0
            process.start()
            mesh.wait_ready(REPLICAS)
    assert_nothing_failed(load.summary)


def test_a_control_plane_that_is_away_for_30_s_costs_no_call(mesh: Mesh) -> None:
    control_plane = mesh.named("controlplane")[0]
    with driving(mesh, "ask", seed=13, pause_s=0.05) as load:
        control_plane.kill()
        time.sleep(30)
        control_plane.start()
        mesh.wait_ready(REPLICAS)
        settle()
    assert_nothing_failed(load.summary)


def test_a_paused_control_plane_evicts_nobody(mesh: Mesh) -> None:
    control_plane = mesh.named("controlplane")[0]
    before = ids(mesh)
    with driving(mesh, "search", seed=14, pause_s=0.05) as load:
        control_plane.signal(signal.SIGSTOP)
        time.sleep(20)
        control_plane.signal(signal.SIGCONT)
        watched_until = time.monotonic() + 6
        while time.monotonic() < watched_until:
            status = mesh.status()
            if status is not None:
                assert {item.instance.id for item in status.instances} >= before
            time.sleep(0.2)
    assert_nothing_failed(load.summary)


def ids(mesh: Mesh) -> set[str]:
    return {instance.id for instances in mesh.serving().values() for instance in instances}


@pytest.fixture
def canary(mesh: Mesh) -> Iterator[Process]:
    process = mesh.spawn_service("orchestrator", version="v2")
    mesh.wait_ready({**REPLICAS, "orchestrator": 3})
    yield process
    mesh.clear_route("orchestrator")
    process.kill()
    mesh.processes.remove(process)
    eventually(lambda: len(mesh.serving().get("orchestrator", ())) == 2, within_s=30, what="the canary gone")


def test_a_lone_half_weight_canary_that_is_killed_costs_no_call(mesh: Mesh, canary: Process) -> None:
    mesh.set_route("orchestrator", weights={"v1": 50, "v2": 50})
    with driving(mesh, "ask", seed=15) as load:
        time.sleep(1)
        canary.kill()
        settle()
    assert_nothing_failed(load.summary)
    assert load.summary["versions"].get("v2", 0) > 0, load.summary


def test_a_split_keeps_its_shares_and_each_session_its_version(mesh: Mesh, canary: Process) -> None:
    mesh.set_route("orchestrator", weights={"v1": 90, "v2": 10})
    time.sleep(1)
    found = in_child(mesh, "sessions", "400", "2")
    shares = found["versions"]
    assert found["sessions_on_two_versions"] == 0, found
    # 400 sessions at 10 %: mean 40, standard deviation 6; five of them either way
    assert 10 <= shares.get("v2", 0) <= 70, found


def test_a_header_route_is_exact_through_the_orchestrator_too(mesh: Mesh) -> None:
    extra = mesh.spawn_service("retriever", version="v2")
    try:
        mesh.wait_ready({**REPLICAS, "retriever": 3})
        mesh.set_route("retriever", weights={"v1": 100, "v2": 0}, header=("weft-route-canary", "yes", "v2"))
        time.sleep(1)
        before = searches(mesh)
        in_child(mesh, "ask", "40", "weft-route-canary=yes")
        between = searches(mesh)
        in_child(mesh, "ask", "40")
        after = searches(mesh)
    finally:
        mesh.clear_route("retriever")
        extra.kill()
        mesh.processes.remove(extra)
    assert {v: between[v] - before[v] for v in before} == {"v1": 0, "v2": 40}
    assert {v: after[v] - between[v] for v in before} == {"v1": 40, "v2": 0}


def searches(mesh: Mesh) -> dict[str, float]:
    """Searches begun, by the retriever's version, as /metrics counts them."""
    counts = {"v1": 0.0, "v2": 0.0}
    for instance in mesh.serving()["retriever"]:
        text = httpx.get(f"http://{instance.host}:{instance.metrics_port}/metrics", timeout=5).text
        for line in text.splitlines():
            if line.startswith("grpc_server_call_started_total") and "/Search" in line:
                counts[instance.version] += float(line.rpartition(" ")[2])
    return counts


def test_callers_that_go_away_stop_the_work_and_leave_nothing_behind(mesh: Mesh, tmp_path: Path) -> None:
    found = in_child(mesh, "cancel", "1000")
    assert found["unexpected"] == [], found
    eventually(lambda: not pending(mesh), within_s=20, what="no call under way")
    assert found["orchestrator_rss_growth_mb"] <= 25, found
    assert found["generator_rss_growth_mb"] <= 25, found


def pending(mesh: Mesh) -> float:
    status = mesh.status(with_load=True)
    if status is None:
        return 1.0
    return sum(item.load.pending for item in status.instances)

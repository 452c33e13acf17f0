"""What kills a process must not fail a call: a mesh with the built-in registry, real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.load import driving
from tests.support.mesh import ROOT, Mesh, Process, running_mesh
from tests.support.sdk import in_child
from tests.support.survival import ENVIRON, REPLICAS, Survival, assert_nothing_failed, ids

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("survival"), REPLICAS, environ=ENVIRON) as running:
        in_child(running, "ingest", str(ROOT / "docs"))
        yield running


class TestWithTheBuiltInRegistry(Survival):
    @pytest.mark.parametrize(("victim", "kind"), [("retriever", "search"), ("generator", "ask"), ("tools", "ask")])
    def test_any_other_that_is_killed_costs_no_call_either(self, mesh: Mesh, victim: str, kind: str) -> None:
        self.killed(mesh, victim, kind)

    def test_a_paused_control_plane_evicts_nobody(self, mesh: Mesh) -> None:
        control_plane = mesh.named("controlplane")[0]
        before = ids(mesh)
        with driving(mesh, "search", seed=14, pause_s=0.3) as load:
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

    def test_a_split_keeps_its_shares_and_each_session_its_version(self, mesh: Mesh, canary: Process) -> None:
        mesh.set_route("orchestrator", weights={"v1": 90, "v2": 10})
        time.sleep(1)
        found = in_child(mesh, "sessions", "160", "2")
        shares = found["versions"]
        assert found["sessions_on_two_versions"] == 0, found
        # 160 sessions at 10 %: mean 16, standard deviation 3.8; five of them either way. An even spread were 53
        assert 1 <= shares.get("v2", 0) <= 35, found

    def test_a_header_route_is_exact_through_the_orchestrator_too(self, mesh: Mesh) -> None:
        extra = mesh.spawn_service("retriever", version="v2")
        try:
            mesh.wait_ready({**REPLICAS, "retriever": 3})
            mesh.set_route("retriever", weights={"v1": 100, "v2": 0}, header=("weft-route-canary", "yes", "v2"))
            time.sleep(1)
            before = mesh.calls("retriever", "Search")
            in_child(mesh, "ask", "40", "weft-route-canary=yes")
            between = mesh.calls("retriever", "Search")
            in_child(mesh, "ask", "40")
            after = mesh.calls("retriever", "Search")
        finally:
            mesh.clear_route("retriever")
            extra.kill()
            mesh.processes.remove(extra)
        assert {v: between[v] - before[v] for v in ("v1", "v2")} == {"v1": 0, "v2": 40}
        assert {v: after[v] - between[v] for v in ("v1", "v2")} == {"v1": 40, "v2": 0}

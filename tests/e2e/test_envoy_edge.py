"""The real Envoy in front of the real services: plain gRPC clients, no xDS of their own, dial it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from tests.support.envoy import Envoy, running_envoy
from tests.support.load import driving
from tests.support.mesh import ROOT, Mesh, eventually, running_mesh
from tests.support.sdk import in_child
from tests.support.survival import IN_CALL_S, assert_nothing_failed
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(240)]

CALLERS, PAUSE_S = 20, 0.05
REPLICAS = {"retriever": 2, "generator": 1, "tools": 1, "orchestrator": 1}
WITH_CANARIES = {**REPLICAS, "retriever": 3, "orchestrator": 2}
MODELS = {
    "extractive": "extractive:",
    "slow": "scripted:?tokens=9&delay_ms=2000",
    "silent": "scripted:?tokens=4&first_delay_ms=17000",
}
QUESTION = "What does the control plane do when the registry is away?"

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    environ = {"WEFT_GENERATOR__MODELS": json.dumps(MODELS), "WEFT_RETRIEVER__EMBEDDER": "none:"}
    with running_mesh(tmp_path_factory.mktemp("mesh"), REPLICAS, environ=environ) as running:
        running.spawn_service("retriever", version="v2")
        running.spawn_service("orchestrator", version="v2")
        running.wait_ready(WITH_CANARIES)
        in_child(running, "ingest", str(ROOT / "docs"))
        yield running


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory, mesh: Mesh) -> Iterator[Envoy]:
    with running_envoy(tmp_path_factory.mktemp("envoy"), mesh.address) as running:
        yield running


@pytest.fixture(scope="module")
def channel(envoy: Envoy) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(envoy.address) as channel:
        yield channel


@pytest.fixture(autouse=True)
def even(mesh: Mesh, envoy: Envoy) -> Iterator[None]:
    """Each test begins with every process there and leaves no policy."""
    for process in mesh.processes:
        if not process.running:
            mesh.restart(process)
    yield
    for service in ("retriever", "orchestrator"):
        mesh.clear_route(service)
    assert not any(envoy.stats(r"update_rejected$").values())


def search(channel: grpc.Channel, metadata: Metadata = ()) -> retriever_pb2.SearchResponse:
    stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
    found = stub.Search(retriever_pb2.SearchRequest(query=QUESTION, top_k=3), timeout=20, metadata=metadata)
    assert found.hits
    return found


def chat(
    channel: grpc.Channel, metadata: Metadata = (), *, model: str = "", question: str = QUESTION
) -> list[tuple[float, orchestrator_pb2.ChatResponse]]:
    """One turn: its events, each with the seconds after which it came."""
    request = orchestrator_pb2.ChatRequest(question=question, model=model)
    began_s = time.monotonic()
    events = orchestrator_pb2_grpc.OrchestratorServiceStub(channel).Chat(request, timeout=60, metadata=metadata)
    return [(time.monotonic() - began_s, event) for event in events]


def buckets() -> list[Metadata]:
    return [(("weft-bucket", str(bucket)),) for bucket in range(100)]


def searched(mesh: Mesh, channel: grpc.Channel, calls: list[Metadata]) -> Counter[str]:
    """Search once with each metadata; which versions took the calls?"""
    before = mesh.calls("retriever", "Search")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda metadata: search(channel, metadata), calls))
    return mesh.calls("retriever", "Search") - before


def split(mesh: Mesh, channel: grpc.Channel, service: str, **weights: int) -> None:
    """Set a policy with a header route for canaries, and wait until Envoy follows it."""
    mesh.set_route(service, weights=weights, header=("weft-route-canary", "yes", "v2"))
    time.sleep(0.5)


@dataclass
class Tally:
    ok: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def callers(call: Callable[[], object]) -> Iterator[Tally]:
    """20 callers, each calling again a moment after it is answered; every one was answered once before."""
    tally, stop, lock, answered = Tally(), threading.Event(), threading.Lock(), threading.Semaphore(0)

    def work() -> None:
        while not stop.is_set():
            try:
                call()
                with lock:
                    tally.ok += 1
            except (grpc.RpcError, AssertionError) as exc:
                with lock:
                    tally.failures.append(str(exc))
            answered.release()
            time.sleep(PAUSE_S)

    with ThreadPoolExecutor(CALLERS) as pool:
        try:
            for _ in range(CALLERS):
                pool.submit(work)
            for _ in range(CALLERS * 2):
                assert answered.acquire(timeout=30), "nobody answers"
            yield tally
        finally:
            stop.set()
    print(f"{tally.ok} ok, {len(tally.failures)} failed")


def test_searches_are_split_by_bucket_by_chance_and_by_header(mesh: Mesh, channel: grpc.Channel) -> None:
    split(mesh, channel, "retriever", v1=90, v2=10)
    assert searched(mesh, channel, buckets()) == {"v1": 90, "v2": 10}
    assert searched(mesh, channel, buckets()[88:92]) == {"v1": 2, "v2": 2}
    by_chance = searched(mesh, channel, [()] * 500)
    assert 17 <= by_chance["v2"] <= 83  # mean 50, standard deviation 6.7; five of them either way
    canary = (("weft-route-canary", "yes"), ("weft-bucket", "1"))
    assert searched(mesh, channel, [canary] * 40) == {"v2": 40}


def test_a_chat_is_split_likewise_and_streams(mesh: Mesh, channel: grpc.Channel) -> None:
    split(mesh, channel, "orchestrator", v1=90, v2=10)

    def version(metadata: Metadata) -> str:
        (_, first), *_, (_, last) = chat(channel, metadata, question="What is 2 + 2?")
        assert last.finished.text
        return first.started.versions["orchestrator"]

    with ThreadPoolExecutor(5) as pool:
        assert Counter(pool.map(version, buckets())) == {"v1": 90, "v2": 10}
        assert set(pool.map(version, [(("weft-route-canary", "yes"),)] * 10)) == {"v2"}


def test_a_chat_outlives_envoys_usual_15_s(channel: grpc.Channel) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow, silent = pool.map(lambda model: chat(channel, model=model), ("slow", "silent"))
    deltas = [after_s for after_s, event in slow if event.HasField("text_delta")]
    assert len(deltas) == 9
    assert deltas[0] < 8
    assert deltas[-1] > 15
    for events in (slow, silent):
        last_s, last = events[-1]
        assert last_s > 15
        assert last.finished.text.startswith("word1 word2")
        assert not last.finished.degraded


def test_a_replica_that_is_killed_or_restarted_costs_no_search(mesh: Mesh, channel: grpc.Channel) -> None:
    mesh.set_route("retriever", weights={"v1": 100, "v2": 0})
    one, other = [process for process in mesh.named("retriever-") if "-v1-" in process.instance_id]
    with callers(lambda: search(channel)) as tally:
        one.kill()
        time.sleep(3)
        mesh.restart(one)
        assert other.terminate() == 0
        mesh.restart(other)
        time.sleep(1)
    assert not tally.failures, tally.failures[:5]
    assert tally.ok > 100


def test_an_orchestrator_that_is_restarted_costs_no_chat(mesh: Mesh, channel: grpc.Channel) -> None:
    with callers(lambda: chat(channel, question="What is 2 + 2?")) as tally:
        for process in mesh.named("orchestrator-"):
            assert process.terminate() == 0, process.tail()
            mesh.restart(process)
    assert not tally.failures, tally.failures[:5]
    assert tally.ok > 80


def test_the_sdk_dials_envoy_and_resumes_when_an_orchestrator_is_killed(
    mesh: Mesh, envoy: Envoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_TARGET", f"ipv4:{envoy.address}")  # that the driver's process inherits
    before = envoy.stats(r"^http\.ingress\.downstream_rq_total$")
    with driving(mesh, "ask", seed=21, pause_s=IN_CALL_S) as load:
        mesh.named("orchestrator-")[0].kill()
        time.sleep(3)
    after = envoy.stats(r"^http\.ingress\.downstream_rq_total$")
    assert_nothing_failed(load.summary)
    assert sum(after.values()) - sum(before.values()) >= load.summary["ok"]


def test_a_lone_canary_that_is_killed_costs_no_search(mesh: Mesh, channel: grpc.Channel) -> None:
    split(mesh, channel, "retriever", v1=50, v2=50)
    canary = next(process for process in mesh.named("retriever-") if "-v2-" in process.instance_id)
    with callers(lambda: search(channel)) as tally:
        canary.kill()
        time.sleep(3)
    assert not tally.failures, tally.failures[:5]
    assert tally.ok > 100


def test_envoy_carries_on_without_the_control_plane_and_takes_its_word_again(
    mesh: Mesh, envoy: Envoy, channel: grpc.Channel
) -> None:
    mesh.set_route("retriever", weights={"v1": 100, "v2": 0})
    control_plane = mesh.named("controlplane")[0]
    with callers(lambda: search(channel)) as tally:
        control_plane.kill()
        eventually(lambda: not connected(envoy), within_s=40, what="Envoy noticed")
        time.sleep(3)
        control_plane.start()
        mesh.wait_ready(WITH_CANARIES)
        eventually(lambda: connected(envoy), within_s=30, what="Envoy found it again")
    assert not tally.failures, tally.failures[:5]
    mesh.set_route("retriever", weights={"v1": 0, "v2": 100})
    eventually(lambda: searched(mesh, channel, [()] * 10) == {"v2": 10}, within_s=40, what="a new policy in force")


def connected(envoy: Envoy) -> bool:
    """Whether Envoy has a stream to the control plane."""
    return bool(envoy.stats(r"^control_plane\.connected_state$")["control_plane.connected_state"])


def test_a_policy_change_takes_effect_at_once(mesh: Mesh, channel: grpc.Channel) -> None:
    taken_s = []
    for version in ("v2", "v1") * 3:
        mesh.set_route("retriever", weights={version: 100})
        began_s = time.monotonic()
        eventually(lambda: set(searched(mesh, channel, [()] * 5)) == {version}, within_s=15, what=version)  # noqa: B023
        taken_s.append(time.monotonic() - began_s)
    print(f"seconds until 5 searches were all taken by the new version: {taken_s}")

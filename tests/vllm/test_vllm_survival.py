"""``kill -9`` of a generator that runs vLLM, or of its engine alone, in the middle of twenty answers: a real mesh.

The same twenty are asked undisturbed before. In float32 they must be equal, to the letter and to the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.support.going_on import Callers, calling, calls_of
from tests.support.mesh import Mesh, eventually

pytestmark = pytest.mark.timeout(600)

CALLERS: Final = 20
REPLICAS: Final = {"generator": 2, "orchestrator": 1}
ANSWER_TOKENS: Final = 192  # of the tiny model, always, and one that ends it


@pytest.fixture(scope="module")
def mesh(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, vllm_environment: dict[str, str]
) -> Iterator[Mesh]:
    """Without retriever and tools: turns go on without them, and the engines need the memory."""
    models = {"tiny": f"vllm://{tiny_llama}?dtype=float32&eager=true&kv_cache_mib=256"}
    environ = {**vllm_environment, "WEFT_GENERATOR__MODELS": json.dumps(models)}
    running = Mesh(tmp_path_factory.mktemp("vllm-mesh"), environ=environ)
    try:
        running.spawn("controlplane", "mesh.controlplane")
        running.spawn("collector", "mesh.telemetry.collector", WEFT_PORT=running.collector_address.rpartition(":")[2])
        for service, count in REPLICAS.items():
            for _ in range(count):
                running.spawn_service(service)
        running.wait_ready(REPLICAS, within_s=400)  # an engine takes 25 s where nothing else runs
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def callers(mesh: Mesh) -> Iterator[Callers]:
    with calling(mesh) as running:
        yield running


def begin(callers: Callers) -> None:
    callers.begin(CALLERS, question="Question {number}: when does it open? 每天", tools=[], timeout_s=120)


@pytest.fixture(scope="module")
def undisturbed(callers: Callers) -> list[dict[str, Any]]:
    begin(callers)
    return callers.finish()


@pytest.mark.parametrize("victim", ["its engine", "all of it"])
async def test_twenty_answers_of_which_a_replica_is_killed_equal_the_undisturbed_ones(
    mesh: Mesh, callers: Callers, undisturbed: list[dict[str, Any]], victim: str
) -> None:
    mesh.restart(*(process for process in mesh.processes if not process.running), within_s=400)
    dying, other = mesh.named("generator-")
    begin(callers)
    callers.wait_pieces(1)
    before = calls_of(mesh, other, "Generate")
    engine = psutil.Process(dying.pid).children(recursive=True)
    (core,) = [child for child in engine if "EngineCore" in "".join(child.cmdline())]
    if victim == "its engine":
        core.kill()
    else:
        dying.kill()
    found = callers.finish()
    assert [caller["error"] for caller in found] == [None] * CALLERS, found
    assert [caller["text"] for caller in found] == [caller["text"] for caller in undisturbed]
    assert [caller["streamed"] for caller in found] == [caller["text"] for caller in undisturbed]
    assert [facts(caller) for caller in found] == [facts(caller) for caller in undisturbed]
    assert len({caller["text"] for caller in found}) > CALLERS / 2  # or equal would mean little
    assert all(caller["usage"][1] in (ANSWER_TOKENS, ANSWER_TOKENS + 1) for caller in found), found[0]["usage"]
    went_on = calls_of(mesh, other, "Generate") - before
    assert went_on > 0
    eventually(lambda: not any(map(lives, engine)), within_s=30, what="the end of its engine")
    assert victim == "all of it" or dying.wait(60) == 1
    print(went_on, "answers went on; longest pause", max(caller["longest_pause_s"] for caller in found))


def facts(caller: dict[str, Any]) -> list[Any]:
    return [caller["usage"], caller["reason"], caller["degraded"]]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

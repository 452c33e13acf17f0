"""Answers go on over ``kill -9`` of the generator, of the orchestrator, and of both at once: real processes.

Twenty callers at a time, by ``stream`` and by ``ask``. ``benchmarks/survive.py`` does more of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.going_on import MODELS, Callers, calling, calls_of, undisturbed
from tests.support.mesh import ROOT, Mesh, eventually, running_mesh
from tests.support.sdk import in_child

pytestmark = pytest.mark.timeout(240)

CALLERS: Final = 20
REPLICAS: Final = {"retriever": 1, "generator": 3, "tools": 1, "orchestrator": 2}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    environ = {"WEFT_GENERATOR__MODELS": json.dumps(MODELS), "WEFT_RETRIEVER__EMBEDDER": "none:"}
    with running_mesh(tmp_path_factory.mktemp("goes-on"), REPLICAS, environ=environ) as running:
        in_child(running, "ingest", str(ROOT / "docs" / "architecture.md"))
        yield running


@pytest.fixture(scope="module")
def callers(mesh: Mesh) -> Iterator[Callers]:
    with calling(mesh) as running:
        yield running


@pytest.fixture(autouse=True)
def whole(mesh: Mesh) -> None:
    """Each test begins with all replicas."""
    mesh.restart(*(process for process in mesh.processes if not process.running))
    mesh.wait_ready(REPLICAS)


def assert_whole(found: list[dict[str, Any]], tokens: list[str]) -> None:
    """Every caller has the undisturbed answer, and nothing tells that it was disturbed."""
    text = "".join(tokens)
    assert [caller["error"] for caller in found] == [None] * CALLERS, found
    assert {caller["text"] for caller in found} == {text}
    streamed = [caller for caller in found if "streamed" in caller]
    assert {caller["streamed"] for caller in streamed} == {text}
    assert len({json.dumps(caller["usage"]) for caller in found}) == 1, [caller["usage"] for caller in found]
    assert found[0]["usage"][1] == len(tokens)
    for caller in found:
        assert not caller["degraded"], caller
        assert caller["reason"] == "stop"
        assert caller["stages"].count("generation") == 1, caller
    for caller in streamed:
        assert caller["kinds"].count("Started") == caller["kinds"].count("Finished") == 1
    print("longest pause", max(caller["longest_pause_s"] for caller in streamed))  # `pytest -rP` shows it


async def test_generators_that_are_killed_one_after_the_other_are_not_noticed(mesh: Mesh, callers: Callers) -> None:
    first, second, third = mesh.named("generator-")
    callers.begin(CALLERS, model="slow", asks=True)
    callers.wait_pieces(2)
    first.kill()
    callers.wait_pieces(15)
    before = calls_of(mesh, third, "Generate")
    second.kill()
    found = callers.finish()
    assert_whole(found, await undisturbed())
    assert calls_of(mesh, third, "Generate") > before


async def test_an_orchestrator_and_a_generator_killed_at_once_are_not_noticed(mesh: Mesh, callers: Callers) -> None:
    (tools,) = mesh.named("tools-")
    before = calls_of(mesh, tools, "CallTool")
    callers.begin(CALLERS, model="slow", question="What is 12 times 7?")
    callers.wait_pieces(2)
    dying, other = mesh.named("orchestrator-")
    turns = calls_of(mesh, other, "Chat")
    dying.kill()
    mesh.named("generator-")[0].kill()
    found = callers.finish()
    assert_whole(found, await undisturbed())
    assert [caller["tools"] for caller in found] == [["12 × 7 = 84"]] * CALLERS
    assert calls_of(mesh, tools, "CallTool") == before + CALLERS
    assert calls_of(mesh, other, "Chat") > turns


async def test_what_cannot_be_gone_on_with_ends_as_partial_and_the_session_goes_on(
    mesh: Mesh, callers: Callers
) -> None:
    tokens, sessions = await undisturbed(), [f"once-{number}" for number in range(CALLERS)]
    text = "".join(tokens)
    had = {process.name: calls_of(mesh, process, "Generate") for process in mesh.named("generator-")}
    callers.begin(CALLERS, model="once", sessions=sessions, asks=True)
    callers.wait_pieces(1)
    # A replica that has just come back may not be known to everybody yet.
    busiest = max(mesh.named("generator-"), key=lambda process: calls_of(mesh, process, "Generate") - had[process.name])
    busiest.kill()
    found = callers.finish()
    broken = [caller for caller in found if caller["error"]]
    assert broken
    for caller in broken:
        assert (caller["error"], caller["code"]) == ("ANSWER_INTERRUPTED", "UNAVAILABLE")
        assert caller["partial"]
        assert text.startswith(caller["partial"])
        assert caller["partial"] != text
    assert {caller["text"] for caller in found if not caller["error"]} <= {text}
    # Before the first piece nothing has to be gone on with. And the sessions are free.
    dying = mesh.named("generator-")[0]
    before = calls_of(mesh, dying, "Generate")
    callers.begin(CALLERS, model="late", sessions=sessions, asks=True)
    eventually(lambda: calls_of(mesh, dying, "Generate") > before, within_s=30, what="a call to the one that dies")
    dying.kill()
    found = callers.finish()
    assert [caller["error"] for caller in found] == [None] * CALLERS, found
    assert {caller["text"] for caller in found} == {text}

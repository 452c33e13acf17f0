"""Callers who go away in the middle of an answer: the work stops, its spans end, and nothing stays behind.

The figures are in benchmarks/cancel.py; the bounds here leave room for a busy machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import leaving
from tests.support.mesh import ROOT, SERVICES, Mesh, eventually, running_mesh
from tests.support.sdk import in_child

pytestmark = pytest.mark.timeout(120)

WARM_UP, CANCELS, AT_ONCE = 150, 1_000, 25
STOPS_WITHIN_MS = 1_000.0
CHORES = 10  # tasks that come and go by themselves: a heartbeat, a report; a thousand turns would leave a thousand
GROWTH_MB = 10.0  # of one process; a thousand turns that stay would be 30


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    environ = {"WEFT_GENERATOR__MODELS": json.dumps(leaving.SLOW)}
    folder = tmp_path_factory.mktemp("cancel")
    with running_mesh(folder, dict.fromkeys(SERVICES, 1), environ=environ) as running:
        in_child(running, "ingest", str(ROOT / "docs" / "architecture.md"))
        yield running


def test_the_generator_stops_and_every_span_ends_however_the_caller_leaves(mesh: Mesh) -> None:
    left = leaving.leave(mesh, 6, at_once=1, points=("first text", "third text", "cancelled"))
    assert len(left) == 6
    for turn in left:
        assert 0 < leaving.stopped_after_ms(mesh, turn) < STOPS_WITHIN_MS, turn


def test_a_thousand_callers_that_leave_keep_no_task_no_call_and_no_memory(mesh: Mesh) -> None:
    leaving.leave(mesh, WARM_UP, at_once=AT_ONCE)
    leaving.wait_idle(mesh)
    tasks, memory_mb = leaving.tasks(mesh), leaving.resident_mb(mesh)
    left = leaving.leave(mesh, CANCELS, at_once=AT_ONCE)
    assert {turn["point"] for turn in left} == set(leaving.POINTS)
    leaving.wait_idle(mesh)
    eventually(
        lambda: all(count <= tasks[name] + CHORES for name, count in leaving.tasks(mesh).items()),
        within_s=30,
        what=f"hardly more tasks than {tasks}",
    )
    grown = {name: mb - memory_mb[name] for name, mb in leaving.resident_mb(mesh).items()}
    assert all(mb <= GROWTH_MB for mb in grown.values()), grown

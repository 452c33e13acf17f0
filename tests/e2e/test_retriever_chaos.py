"""Three replicas of a retriever over one store, killed at random while documents go in and searches go on.

Who dies and when comes from a seed: ``WEFT_TEST_CHAOS_SEED``, and ``WEFT_TEST_CHAOS_KILLS`` says how often (a few,
unless told: 50 take some minutes).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.chaos import version_in, word
from tests.support.mesh import ROOT, Mesh, running_mesh
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from weft.common.v1 import epoch_pb2
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

KILLS = int(os.environ.get("WEFT_TEST_CHAOS_KILLS", "2"))
SEED = int(os.environ.get("WEFT_TEST_CHAOS_SEED", "20261121"))
pytestmark = pytest.mark.timeout(240 + 30 * KILLS)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mesh]:
    environ = {"WEFT_RETRIEVER__EMBEDDER": "none:", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        environ |= {"WEFT_STORE": asyncio.run(server.make_database()), "WEFT_DATA_DIR": str(tmp_path)}
    with running_mesh(tmp_path, {"retriever": 3}, environ=environ) as running:
        yield running


def test_replicas_killed_at_random_lose_nothing_double_nothing_and_fail_no_search(mesh: Mesh) -> None:
    dice = random.Random(SEED)
    kills = 0
    with _busy(mesh) as came:
        while kills < KILLS:
            time.sleep(dice.random() * 1.5)
            victims = dice.sample(mesh.named("retriever-"), 1 if dice.random() < 0.7 else 2)
            for victim in victims:
                victim.kill()
                kills += 1
            time.sleep(dice.random() * 1.5)
            mesh.restart(*victims)
    print({name: value for name, value in came.items() if name != "acknowledged"}, len(came["acknowledged"]), kills)
    assert not came["search_failures"], came["search_failures"]
    assert came["searches"] > 20 * kills
    assert len(came["acknowledged"]) > 5 * kills
    mesh.wait_ready({"retriever": 3})
    epoch = epoch_pb2.Epoch(log_id=came["log_id"], sequence=came["sequence"])
    one, *others = [_contents(instance, came["acknowledged"], epoch) for instance in _newest(mesh)]
    assert [len(others), *(other == one for other in others)] == [2, True, True]


def _newest(mesh: Mesh) -> list[Any]:
    """The record of each running replica; a killed one's may still be on the list."""
    found = {}
    for instance in sorted(mesh.serving()["retriever"], key=lambda instance: instance.start_time.ToNanoseconds()):
        found[instance.id] = instance
    return list(found.values())


def _contents(instance: Any, acknowledged: dict[str, int], epoch: epoch_pb2.Epoch) -> dict[str, list[Any]]:
    """What a replica itself, not the mesh, finds by each document's own word."""
    found = {}
    with grpc.insecure_channel(f"{instance.host}:{instance.port}") as channel:
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        for source, version in acknowledged.items():
            request = pb.SearchRequest(query=word(source), top_k=3, min_epoch=epoch)
            passages = [hit.passage for hit in stub.Search(request, timeout=20).hits]
            found[source] = [(p.name, p.text) for p in passages if f" {word(source)} " in p.text]
            versions = [version_in(passage) for _, passage in found[source]]
            assert versions == [version], f"{source} on {instance.id}"
        listed, token = {}, ""
        while True:
            page = stub.ListDocuments(pb.ListDocumentsRequest(page_size=500, page_token=token), timeout=20)
            listed |= {document.source: document.chunk_count for document in page.documents}
            if not (token := page.next_page_token):
                break
        assert listed == dict.fromkeys(acknowledged, 1)
    return found


@contextmanager
def _busy(mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Writers and readers at work within the block; what came of it is in the dictionary after."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.chaos", mesh.address, str(SEED)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    came: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        if (first := process.stdout.readline().strip()) != "ready":
            raise AssertionError(f"it did not begin: {first}\n{process.communicate(timeout=30)[1][-3000:]}")
        yield came
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors[-3000:]
        came |= json.loads(output.strip().splitlines()[-1])
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

"""Services that were there before their control plane: the mesh's first turn is as good as any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.mesh import SERVICES, Mesh

pytestmark = pytest.mark.timeout(120)
LATE_S = 6.0  # gRPC's xDS client, refused so long, would look again only after seconds


def test_the_first_turn_finds_everybody_though_the_control_plane_came_last(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, environ={"WEFT_RETRIEVER__EMBEDDER": "none:", "OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    try:
        for service in SERVICES:
            mesh.spawn_service(service)
        time.sleep(LATE_S)
        mesh.spawn("controlplane", "mesh.controlplane")
        mesh.wait_ready(dict.fromkeys(SERVICES, 1))
        asked = subprocess.run(
            [sys.executable, "-m", "weft_cli.main", "ask", "--json", "What is 12 times 7?"],
            capture_output=True, text=True, timeout=60, env={**os.environ, "WEFT_MESH": mesh.address},
        )  # fmt: skip
    finally:
        mesh.close()
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert not [item for item in answer["degraded"] if item["reason"] == "DEPENDENCY_UNAVAILABLE"], answer["degraded"]
    assert "84" in answer["text"]

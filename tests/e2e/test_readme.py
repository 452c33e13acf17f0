"""The README's Python example is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.mesh import ROOT, SERVICES, running_mesh


def test_the_readmes_example_answers_with_citations(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    with running_mesh(tmp_path, dict.fromkeys(SERVICES, 1)) as mesh:
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=ROOT,
            env={**os.environ, "WEFT_MESH": mesh.address},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    answer, *citations = done.stdout.splitlines()
    assert "canary" in answer, done.stdout
    assert any("docs/architecture.md §" in line for line in citations), done.stdout

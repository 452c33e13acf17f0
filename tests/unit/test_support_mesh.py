"""The tests' own processes: none outlives a test run that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import os, sys, time
from pathlib import Path
from tests.support.mesh import Process

folder = Path(sys.argv[1])
process = Process("child", [sys.executable, "-m", "sleeper"], {**os.environ, "PYTHONPATH": str(folder)}, folder / "log")
print(process.start().pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_a_killed_test_run_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import time; print('runs', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ)
    ) as runner:
        assert runner.stdout is not None
        child = psutil.Process(int(runner.stdout.readline()))
        until_s = time.monotonic() + 20
        while (tmp_path / "log").read_text() != "runs\n":
            assert time.monotonic() < until_s, (tmp_path / "log").read_text()
            time.sleep(0.05)
        runner.kill()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone

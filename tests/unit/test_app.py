"""The life of an instance, as a process: what it reports, and from when on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVICE = """
import asyncio, sys, time
from contextlib import asynccontextmanager
from mesh.app import serve
from mesh.settings import ServiceSettings

async def block_then_stop(runtime):
    await asyncio.sleep(1)
    if "later" in sys.argv:
        time.sleep(1)
    await asyncio.sleep(1)
    runtime.stopping.set()

@asynccontextmanager
async def build(settings, runtime):
    await asyncio.sleep(0.6)
    if "starting" in sys.argv:
        time.sleep(1)
    await asyncio.sleep(0.6)
    stopper = asyncio.create_task(block_then_stop(runtime))
    yield []
    await stopper

raise SystemExit(asyncio.run(serve("test", ServiceSettings(), build, register=False)))
"""


@pytest.mark.parametrize(("when", "reports"), [("starting", 0), ("later", 1)])
def test_a_loop_is_watched_only_once_it_serves(when: str, reports: int) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "OTEL_"))}
    begun_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, when], capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("event loop was blocked") == reports
    told = re.search(r"serving on .*, ([0-9.]+) s after exec", done.stdout)
    assert told is not None, done.stdout
    took_s = time.monotonic() - begun_s
    assert (1.6 if when == "starting" else 0.6) < float(told[1]) < took_s  # imports count, too

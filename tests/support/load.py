"""Starts ``tests.support.driver`` in a process of its own and reads its summary."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.mesh import ROOT, Mesh


class Load:
    """A running driver; ``summary`` is there after the block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.summary: dict[str, Any] = {}

    def finish(self) -> dict[str, Any]:
        """Stop driving and read what came of it."""
        output, errors = self.process.communicate(timeout=60)
        try:
            self.summary = json.loads(output.strip().splitlines()[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"the driver said nothing:\n{output}\n{errors[-2000:]}") from None
        return self.summary


@contextmanager
def driving(mesh: Mesh, kind: str, *, callers: int = 12, seed: int = 1, **options: float) -> Iterator[Load]:
    """Keep ``callers`` calling within the block; every caller has had an answer before it begins."""
    arguments = [sys.executable, "-m", "tests.support.driver", "--mesh", mesh.address, "--kind", kind]
    arguments += ["--callers", str(callers), "--seed", str(seed)]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    load = Load(process)
    try:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        if first != "ready":
            raise AssertionError(f"the driver did not begin: {first}\n{process.communicate(timeout=30)[1][-2000:]}")
        yield load
        load.finish()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

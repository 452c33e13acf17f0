"""The engine's processes end with the process that they belong to, however it ended."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.support.mesh import ROOT, eventually

_OWNER = """
import subprocess, sys, time
from services.generator.vllm.mourner import Mourner

children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
mourner = Mourner(child.pid for child in children)
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
mourner.close()
print("closed", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("killed", [True, False])
def test_children_end_with_their_owner(killed: bool) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    children = []
    try:
        assert owner.stdin is not None
        assert owner.stdout is not None
        children = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(children) == 2
        if killed:
            owner.kill()
        else:
            owner.stdin.close()
            assert owner.stdout.readline() == "closed\n"
        eventually(lambda: not any(map(lives, children)), within_s=20, what="the end of the children")
    finally:
        owner.kill()
        owner.wait()
        for child in filter(lives, children):
            child.kill()


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""The supervisor with real child processes: started again, given up, drained in order, never left behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from weft_cli import supervisor as module
from weft_cli.logs import Logs
from weft_cli.supervisor import Supervisor
from weft_cli.topology import Spec

ROOT = Path(__file__).resolve().parents[2]

OBEDIENT = """
import os, signal, sys, time
def stop(*_):
    open(os.environ["JOURNAL"], "a").write(os.environ["NAME"] + " ends\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
open(os.environ["JOURNAL"], "a").write(os.environ["NAME"] + " runs\\n")
print("pid", os.getpid(), flush=True)
while True: time.sleep(0.05)
"""
DEAF = OBEDIENT.replace("sys.exit(0)", "pass")
MORTAL = "print('I can not go on', flush=True); raise SystemExit(7)"
MISCONFIGURED = "print('WEFT_X is not a setting', flush=True); raise SystemExit(2)"


class Stage:
    """A supervisor over modules that are written on the spot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.printed = io.StringIO()
        self.environ = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "JOURNAL": str(self.journal)}
        self.logs = Logs(["retriever-1"], self.printed)
        self.supervisor = Supervisor(self.environ, self.logs)
        self.hurry = asyncio.Event()

    def spec(self, name: str, service: str, code: str) -> Spec:
        module_name = "child_" + name.replace("-", "_")
        (self.folder / f"{module_name}.py").write_text(code)
        return Spec(name, service, module_name, {"NAME": name})

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.05)
    found = Stage(tmp_path)
    yield found
    found.supervisor.kill()
    found.logs.close()


@asynccontextmanager
async def running(stage: Stage, *specs: Spec) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        stage.supervisor.start(specs, group)
        try:
            yield
        finally:
            await stage.supervisor.stop(stage.hurry)


async def eventually(check: Callable[[], object], within_s: float = 10) -> None:
    until_s = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until_s, "it did not come to pass"
        await asyncio.sleep(0.02)


async def test_a_child_that_dies_is_started_again_and_its_lines_bear_its_name(stage: Stage) -> None:
    async with running(stage, stage.spec("retriever-1", "retriever", OBEDIENT)):
        stage.supervisor.ready = True
        for life in (1, 2, 3, 4):
            await eventually(lambda life=life: len(stage.lines()) == life)  # type: ignore[misc]
            await eventually(lambda life=life: stage.printed.getvalue().count("pid") == life)  # type: ignore[misc]
            os.kill(int(stage.printed.getvalue().split("pid ")[-1].split()[0]), signal.SIGKILL)
        await eventually(lambda: len(stage.lines()) == 5)
    assert "retriever-1 │ pid" in stage.printed.getvalue()
    assert "retriever-1 │ was ended by SIGKILL; starting again in 0.05 s" in stage.printed.getvalue()
    assert "starting again in 0.1 s" in stage.printed.getvalue()
    assert stage.lines()[-1] == "retriever-1 ends"
    assert not stage.supervisor.failure.done()


async def test_a_configuration_that_is_refused_is_no_reason_to_try_again(stage: Stage) -> None:
    stage.supervisor.ready = True
    async with running(stage, stage.spec("tools-1", "tools", MISCONFIGURED)):
        failure = await asyncio.wait_for(asyncio.shield(stage.supervisor.failure), 10)
    assert "tools-1 does not run: it ended with code 2" in str(failure)
    assert "WEFT_X is not a setting" in str(failure)


async def test_a_child_that_keeps_dying_before_the_mesh_was_ready_ends_the_start(stage: Stage) -> None:
    async with running(stage, stage.spec("tools-1", "tools", MORTAL)):
        failure = await asyncio.wait_for(asyncio.shield(stage.supervisor.failure), 10)
    assert "ended with code 7" in str(failure)
    assert stage.printed.getvalue().count("I can not go on") >= 2


async def test_callers_end_before_those_whom_they_call(stage: Stage) -> None:
    services = ("controlplane", "collector", "retriever", "generator", "orchestrator")
    async with running(stage, *(stage.spec(f"{s}-1", s, OBEDIENT) for s in services)):
        await eventually(lambda: len(stage.lines()) == 5)
    ended = [line.split("-")[0] for line in stage.lines()[5:]]
    assert ended[0] == "orchestrator"
    assert set(ended[1:3]) == {"retriever", "generator"}
    assert ended[3:] == ["controlplane", "collector"]


async def test_a_child_that_does_not_listen_is_killed_in_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.5)
    async with running(stage, stage.spec("tools-1", "tools", DEAF)):
        await eventually(lambda: len(stage.lines()) == 1)
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 5
    assert "does not end; killed" in stage.printed.getvalue()


async def test_hurrying_tells_a_child_a_second_time(stage: Stage) -> None:
    twice = OBEDIENT.replace("sys.exit(0)", "globals().update(n=globals().get('n', 0) + 1); n == 2 and sys.exit(0)")
    async with running(stage, stage.spec("tools-1", "tools", twice)):
        await eventually(lambda: len(stage.lines()) == 1)
        # only after the first: two signals of one kind that wait are delivered as one
        hurrying = asyncio.create_task(_hurry_after(stage, "tools-1 ends"))
    await hurrying
    assert stage.lines() == ["tools-1 runs", "tools-1 ends", "tools-1 ends"]


async def _hurry_after(stage: Stage, line: str) -> None:
    await eventually(lambda: line in stage.lines())
    stage.hurry.set()


async def test_a_child_that_writes_endless_lines_goes_on(stage: Stage) -> None:
    code = "print('x' * 3_000_000, flush=True); print('still here', flush=True)\n" + OBEDIENT
    async with running(stage, stage.spec("retriever-1", "retriever", code)):
        await eventually(lambda: "still here" in stage.printed.getvalue())


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_no_child_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(OBEDIENT)
    script = """
import asyncio, os, sys
from weft_cli.logs import Logs
from weft_cli.supervisor import Supervisor
from weft_cli.topology import Spec

async def main():
    async with asyncio.TaskGroup() as group:
        Supervisor(os.environ, Logs([])).start([Spec("a", "tools", "child", {"NAME": "a"})], group)

asyncio.run(main())
"""
    journal = tmp_path / "journal"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "JOURNAL": str(journal)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    child = int(line.rsplit(" ", 1)[1])
    process.kill()
    process.wait()
    process.stdout.close()
    until_s = time.monotonic() + 5
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until_s, "the child lives on"
        time.sleep(0.05)
    assert journal.read_text().splitlines() == ["a runs", "a ends"]

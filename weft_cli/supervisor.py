"""Keeps the processes of a mesh running, and ends them in order.

    start ──> running ──(ends by itself)──> pause 0.5, 1, 2 … 30 s ──> start
                 └────(stop)──> SIGTERM ──> ended      (or SIGKILL, after its time)

Each child runs in a session of its own, so that Ctrl-C reaches the supervisor alone and the order of the
drain is ours; and on a leash, so that none outlives it (``leash.py``). A child that has run for 30 s starts
afresh with the shortest pause. One whose configuration is refused (exit code 2), or that dies three times before
the mesh was ready, won't get better by itself: then ``failure`` is set, and the mesh is taken down.

gRPC is never imported here: a supervisor forks as long as it lives.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from weft_cli.logs import Logs
from weft_cli.topology import DRAIN_ORDER, Spec

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 30.0
_MAX_EARLY_DEATHS: Final = 3
_BAD_CONFIGURATION: Final = 2
_STOP_S: Final = 20.0  # travel and grace of mesh/settings.py, and some more
_KEPT_LINES: Final = 20
_MAX_LINE_BYTES: Final = 256 * 1024


class StartFailed(Exception):
    """A process won't run; the message says which, how it ended and what it said last."""


class Supervisor:
    """The children of one mesh.

    Attributes:
        failure: set when the mesh can't go on.
        ready: from when on a death is no reason to give up.
    """

    def __init__(self, environ: Mapping[str, str], logs: Logs) -> None:
        self._environ = dict(environ)
        self._logs = logs
        self._children: dict[str, _Child] = {}
        self._group: asyncio.TaskGroup | None = None
        self.failure: asyncio.Future[StartFailed] = asyncio.get_running_loop().create_future()
        self.ready = False

    def start(self, specs: Iterable[Spec], group: asyncio.TaskGroup) -> None:
        """Start more children; their tasks belong to ``group``."""
        for spec in specs:
            child = _Child(spec, {**self._environ, **spec.environ}, self._logs, self)
            self._children[spec.name] = child
            group.create_task(child.run(), name=spec.name)

    def give_up(self, failure: StartFailed) -> None:
        """Say that the mesh can't go on."""
        if not self.failure.done():
            self.failure.set_result(failure)

    async def stop(self, hurry: asyncio.Event) -> None:
        """End all children, callers first. When ``hurry`` is set, what still runs is told a second time."""
        for services in DRAIN_ORDER:
            children = [c for c in self._children.values() if c.spec.service in services]
            await asyncio.gather(*(child.stop(hurry) for child in children))

    def kill(self) -> None:
        """End what is left, at once."""
        for child in self._children.values():
            child.signal(signal.SIGKILL)


class _Child:
    def __init__(self, spec: Spec, environ: Mapping[str, str], logs: Logs, supervisor: Supervisor) -> None:
        self.spec = spec
        self._environ = environ
        self._logs = logs
        self._supervisor = supervisor
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Start, and start again, until told to stop."""
        pause_s, deaths = _FIRST_PAUSE_S, 0
        try:
            while not self._stopping.is_set():
                begun_s = time.monotonic()
                code = await self._once()
                if self._stopping.is_set():
                    return
                deaths += 1
                if code == _BAD_CONFIGURATION or (not self._supervisor.ready and deaths >= _MAX_EARLY_DEATHS):
                    self._supervisor.give_up(StartFailed(self._obituary(code)))
                    return
                pause_s = _FIRST_PAUSE_S if time.monotonic() - begun_s > _STEADY_S else pause_s
                self._logs.line(self.spec.name, f"{_ending(code)}; starting again in {pause_s:g} s")
                await self._sleep_unless_stopped(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            self.signal(signal.SIGKILL)  # only if this task itself is being cancelled
            self._ended.set()

    async def stop(self, hurry: asyncio.Event) -> None:
        """SIGTERM, its time to drain, SIGKILL."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        hurrying = asyncio.create_task(hurry.wait())
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((hurrying, ended), timeout=_STOP_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and hurrying.done():
                self.signal(signal.SIGTERM)  # a second one cuts the grace short
                await asyncio.wait((ended,), timeout=2)
            if not ended.done():
                self._logs.line(self.spec.name, "does not end; killed")
                self.signal(signal.SIGKILL)
                await ended
        finally:
            hurrying.cancel()
            ended.cancel()

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "weft_cli.leash", str(os.getpid()), self.spec.module),
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,
        )
        if self._stopping.is_set():  # told while it was being made
            self.signal(signal.SIGTERM)
        assert self._process.stdout is not None
        await self._pump(self._process.stdout)
        return await self._process.wait()

    async def _pump(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # longer than the limit; the reader has dropped it
                line = b"(a line that is too long to show)\n"
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            self._logs.line(self.spec.name, text)

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _obituary(self, code: int) -> str:
        lines: Sequence[str] = [line for line in self._last_lines if line.strip()][-8:]
        said = "".join(f"\n  {line}" for line in lines)
        return f"{self.spec.name} does not run: it {_ending(code)}{', and said last:' + said if said else ''}"


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"

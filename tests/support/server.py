"""What the real servers of the tests share: found, started on a free port, awaited, paused, killed, started again.

A server that can't be found skips its tests, except in CI, where nothing may be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import psutil
import pytest

_TRIES = 3  # another process may take the port in between
_POLL_S = 0.02


def missing(reason: str) -> NoReturn:
    """Skip the test; in CI, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def find(name: str, variable: str, installer: str, more: Sequence[str] = ()) -> str:
    """Path of a binary: in the directory (or at the path) that ``variable`` names, on the PATH, or in ``more``."""
    own = os.environ.get(variable, "")
    if own and Path(own).is_file():
        return own
    path = os.pathsep.join(filter(None, (own, os.environ.get("PATH", ""), *more)))
    found = shutil.which(name, path=path)
    if found is None:
        missing(f"no {name}: put it on the PATH or name its place in {variable} ({installer} DIR gets it)")
    return found


class Server(ABC):
    """One process and its children. Subclasses say how it is launched, and when it is ready."""

    name: str
    ready_within_s = 30.0

    def __init__(self, log: Path) -> None:
        self.log = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = False

    @abstractmethod
    def command(self) -> list[str]:
        """What is executed, with today's ports."""

    @abstractmethod
    def take_ports(self) -> None:
        """Choose ports: before the first start, and again if one was taken."""

    @abstractmethod
    def ready(self, pid: int) -> bool:
        """Whether it serves. Exceptions of the operating system say no."""

    def options(self) -> dict[str, Any]:
        """More for Popen."""
        return {}

    def start(self) -> Self:
        """Start it and wait until it serves. Once it has served, it starts on the same ports."""
        for tries_left in reversed(range(_TRIES)):
            self._launch()
            try:
                self._wait()
                break
            except AssertionError:
                self.kill()
                if self._started or not tries_left:
                    raise
                self.take_ports()
        self._started = True
        return self

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, **self.options()
            )

    def _wait(self) -> None:
        assert self._popen is not None
        until_s = time.monotonic() + self.ready_within_s
        while time.monotonic() < until_s and self._popen.poll() is None:
            with contextlib.suppress(OSError):
                if self.ready(self._popen.pid):
                    return
            time.sleep(_POLL_S)
        how = "isn't ready" if self._popen.poll() is None else "ended"
        raise AssertionError(f"{self.name} {how}:\n{self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """``kill -9``, all its processes at once: nothing is tidied up."""
        if self._popen is None or self._popen.poll() is not None:
            return
        top = psutil.Process(self._popen.pid)
        top.suspend()  # so that it starts no other while they are killed
        for process in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._popen.wait(10)

    def pause(self) -> None:
        """Stop it where it is: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        top = psutil.Process(self._popen.pid)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

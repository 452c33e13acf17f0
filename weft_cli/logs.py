"""The children's log lines, each behind the name of its process, written by a thread of their own.

Whoever reads our output may stall (a full pipe, a terminal that is scrolled back); the supervisor must not.
So lines go through a bounded queue, and those that find it full are dropped and counted.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import Final, TextIO

_MAX_QUEUED: Final = 5_000
_COLOURS: Final = (36, 32, 35, 34, 33, 96, 92, 95, 94, 93)
_STOP: Final = None


class Logs:
    """Prefixed lines on one stream."""

    def __init__(self, names: list[str], stream: TextIO = sys.stdout) -> None:
        self._width = max([len(name) for name in names], default=0)
        self._colour = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)} if stream.isatty() else {}
        self._stream = stream
        self._dropped = 0
        self._queue: queue.Queue[str | None] = queue.Queue(_MAX_QUEUED)
        self._thread = threading.Thread(target=self._run, name="log-printer", daemon=True)
        self._thread.start()

    def line(self, name: str, text: str) -> None:
        """A line of one process; never waits."""
        prefix = f"{name:<{self._width}} │"
        if name in self._colour:
            prefix = f"\x1b[{self._colour[name]}m{prefix}\x1b[0m"
        self.say(f"{prefix} {text}")

    def say(self, text: str) -> None:
        """A line of our own; never waits."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, within ``timeout_s``."""
        try:
            self._queue.put(_STOP, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (text := self._queue.get()) is not _STOP:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                text = f"({dropped} lines were dropped: nobody read them)\n{text}"
            try:
                self._stream.write(text + "\n")
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the mesh goes on
                continue

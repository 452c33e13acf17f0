"""Hears of commits to an SQLite file, whichever process makes them.

SQLite tells nobody, but ``PRAGMA data_version`` says whether another connection has committed since it was last
asked, from shared memory and without waiting for who writes. One thread asks a file so often that a follower is a
moment behind; asked from an event loop through a pool of threads, the same costs some thirty times as much, all day.

Source: https://sqlite.org/pragma.html#pragma_data_version
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path


class CommitWatch:
    """Calls ``notice`` on the running event loop after commits to ``path``: once for several that come together.

    It hears of this process's own commits, too. While the file can't be asked it calls ``notice`` each time, so that
    who waits looks for themselves and hears what is wrong.
    """

    def __init__(self, path: Path, notice: Callable[[], None], *, poll_s: float) -> None:
        self._path, self._notice, self._poll_s = path, notice, poll_s
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"weft-{path.stem}-watch", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop asking and let go of the file."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with contextlib.ExitStack() as held, contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            db: sqlite3.Connection | None = None
            seen: int | None = None
            while not self._stopping.is_set() and not self._loop.is_closed():
                try:
                    if db is None:
                        opened = sqlite3.connect(self._path, timeout=0, isolation_level=None)
                        db = held.enter_context(contextlib.closing(opened))
                    (version,) = db.execute("PRAGMA data_version").fetchone()
                except sqlite3.Error:
                    version = None
                if version is None or version != seen:
                    seen = version
                    self._loop.call_soon_threadsafe(self._notice)
                self._stopping.wait(self._poll_s)

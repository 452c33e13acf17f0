"""The newest snapshot, rendered for each kind of node, and those who wait for the next.

One writer sets, any number of streams read. Only the newest is kept: a slow reader skips what came between.
A snapshot whose resources don't hang together is refused and the last one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.controlplane.resources import Kind, Resources, check, render
from mesh.controlplane.snapshot import Snapshot


class SnapshotCache:
    """Holds the snapshot that is published.

    Attributes:
        current: the snapshot; None until there is one.
        published_unix_s: when the current version was first set; 0 until then.
    """

    def __init__(self) -> None:
        self.current: Snapshot | None = None
        self.published_unix_s = 0.0
        self._rendered: dict[Kind, Resources] = {}
        self._waiting: set[asyncio.Event] = set()

    def set(self, snapshot: Snapshot) -> None:
        """Publish ``snapshot``; does nothing much where it is the one that is published.

        Raises:
            Inconsistent: the snapshot is refused, the last one stays.
        """
        if self.current is not None and snapshot.version == self.current.version:
            self.current = snapshot  # the same services; policies' problems and held ids may differ
            return
        rendered = {kind: render(snapshot, kind) for kind in Kind}
        for resources in rendered.values():
            check(resources)
        self.current, self._rendered = snapshot, rendered
        self.published_unix_s = time.time()
        for event in self._waiting:
            event.set()

    def resources(self, kind: Kind) -> Resources | None:
        """The newest resources for ``kind``; None until there is a snapshot."""
        return self._rendered.get(kind)

    @contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """Set ``event`` on every new version, for as long as the block runs."""
        self._waiting.add(event)
        try:
            yield
        finally:
            self._waiting.discard(event)

    async def changed(self, version: str | None) -> Snapshot:
        """Wait until a version other than ``version`` is published. The caller brings the time limit."""
        event = asyncio.Event()
        with self.waking(event):
            while self.current is None or self.current.version == version:
                await event.wait()
                event.clear()
            return self.current

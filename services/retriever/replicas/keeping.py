"""Takes snapshots of a replica now and then, and starts it from one.

One task owns it: every ``EVERY_S`` it writes what has changed, on a thread of its own, and then exchanges the
segments for their files. A disk that is full or away costs the snapshot and nothing else: searches and changes go
on, the log says so once, ``weft_retriever_snapshot_failures`` counts, ``weft_retriever_snapshot_age_seconds`` grows,
and the next round tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.retriever.replicas.replica import Replica, State
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.segments.segment import Segment
from services.retriever.workers import Workers
from weft import names

_log = logging.getLogger(__name__)
EVERY_S: Final = 30.0


class Keeper:
    """Owns a replica's snapshots. ``start`` once, then ``run``; ``close`` at the end."""

    def __init__(
        self, directory: Path, log_id: str, replica: Replica, workers: Workers, registry: CollectorRegistry
    ) -> None:
        self._directory, self._log_id, self._replica, self._workers = directory, log_id, replica, workers
        self._snapshots: Snapshots | None = None
        self._saved: tuple[int, frozenset[str]] | None = None
        self._failing = False
        self._fresh_s = time.monotonic()
        Gauge(names.METRIC_PASSAGES, "Passages that this replica holds", registry=registry).set_function(
            lambda: sum(view.live_count for view in replica.state.views.values())
        )
        Gauge(names.METRIC_SEGMENTS, "Segments that they lie in", registry=registry).set_function(
            lambda: sum(len(view.parts) for view in replica.state.views.values())
        )
        Gauge(
            names.METRIC_SNAPSHOT_AGE, "Seconds since the snapshot on disk was up to date", registry=registry
        ).set_function(lambda: time.monotonic() - self._fresh_s)
        self._failures = Counter(
            names.METRIC_SNAPSHOT_FAILURES, "Snapshots that could not be written", registry=registry
        )
        self._damaged = Counter(
            names.METRIC_SNAPSHOTS_DAMAGED, "Snapshots that were of no use at the start", registry=registry
        )

    async def start(self) -> None:
        """Begin with the newest good snapshot; without one the replica stays as it is."""
        began_s = time.monotonic()
        try:
            snapshots = await self._claimed()
            state = await self._workers.run(snapshots.load)
        except OSError as exc:
            self._failed(exc)
            return
        self._damaged.inc(snapshots.damaged)
        if state.sequence:
            await self._replica.begin(state)
            _log.info("began from the snapshot of sequence %d, in %.2f s", state.sequence, time.monotonic() - began_s)

    async def run(self) -> None:
        """Write snapshots until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.step()

    async def step(self) -> bool:
        """Write one if anything has changed; returns whether the disk now has what the replica has."""
        state = self._replica.state
        if _fingerprint(state) != self._saved:
            try:
                snapshots = await self._claimed()
                stored = await self._workers.run(snapshots.save, state)
            except OSError as exc:
                self._failed(exc)
                return False
            await self._replica.exchange(lambda now: with_stored(now, stored))
            self._saved = _fingerprint(state)
        if self._failing:
            _log.info("snapshots are written again")
        self._failing, self._fresh_s = False, time.monotonic()
        return True

    def close(self) -> None:
        """Leave the place to another replica."""
        if self._snapshots is not None:
            self._snapshots.close()

    async def _claimed(self) -> Snapshots:
        if self._snapshots is None:
            claim = Snapshots.claim
            self._snapshots = await self._workers.run(claim, self._directory, self._log_id, self._replica.indexes)
        return self._snapshots

    def _failed(self, exc: OSError) -> None:
        self._failures.inc()
        if not self._failing:
            _log.warning(
                "no snapshot can be written to %s: %s; searches and changes go on, but a restart will read the log "
                "from where the last snapshot ends; see that the disk has room and the directory may be written",
                self._directory,
                exc,
            )
        self._failing = True


def with_stored(state: State, stored: dict[str, Segment]) -> State:
    """The state with segments exchanged for the same in files, where they are still there."""
    for view in state.views.values():
        if any(part.segment is not stored.get(part.segment.name, part.segment) for part in view.parts):
            parts = [part.on(stored.get(part.segment.name, part.segment)) for part in view.parts]
            state = state.with_view(view.with_parts(parts))
    return state


def _fingerprint(state: State) -> tuple[int, frozenset[str]]:
    """What a snapshot of this state would hold: the same fingerprint, the same snapshot."""
    parts = (part for view in state.views.values() for part in view.parts)
    return state.sequence, frozenset(part.segment.name for part in parts)

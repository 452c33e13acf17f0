"""The loop in the middle: what the registry says, folded into the snapshot that the streams show.

    registry.watch ──catalogue──┐
                                ├──> fold ──> cache.set ──> every ADS stream
    a tick each fifth of a TTL ─┘      └────> policies that a new registry lacks, written back

Ticks pass only while the registry answers and this process runs, so neither an outage nor a pause lets
anything run out that was being held. A fold that can't be published (the cache refuses what doesn't
hang together) is logged and counted; the snapshot before it stays.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from mesh.controlplane import snapshot
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.resources import Inconsistent
from mesh.controlplane.snapshot import State
from mesh.registry import Catalogue, Registry
from weft.errors import Reason, WeftError

_log = logging.getLogger(__name__)
_TICKS_PER_TTL: Final = 5
_RESTORE_AGAIN_S: Final = 1.0


class Feed:
    """Keeps a ``SnapshotCache`` up with a ``Registry``.

    Attributes:
        catalogue: what the registry said last; None until it said something.
        state: what the last fold left.
    """

    def __init__(self, registry: Registry, cache: SnapshotCache, metrics: CollectorRegistry) -> None:
        self.catalogue: Catalogue | None = None
        self.state = State()
        self._registry = registry
        self._cache = cache
        self._tick = 0
        self._lacking = asyncio.Event()
        self._refused = Counter("weft_snapshots_refused", "Snapshots that did not hang together", registry=metrics)
        self._measure(metrics)

    async def run(self) -> None:
        """Follow for ever; an error that comes out is a defect."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="feed-follow")
            tasks.create_task(self._count(), name="feed-ticks")
            tasks.create_task(self._restore(), name="feed-restore")

    def forget_policy(self, service: str) -> None:
        """Don't write this policy back to a registry that lacks it: it was just deleted."""
        self.state = snapshot.forget_policy(self.state, service)

    def _measure(self, metrics: CollectorRegistry) -> None:
        Gauge("weft_registry_available", "1 while the registry answers", registry=metrics).set_function(
            lambda: float(self._registry.available)
        )
        Gauge("weft_mesh_instances", "Instances that the registry lists", registry=metrics).set_function(
            lambda: float(len(self.catalogue.instances)) if self.catalogue else 0.0
        )
        Gauge("weft_mesh_held_instances", "Instances held back from removal", registry=metrics).set_function(
            lambda: float(len(self.state.snapshot.held)) if self.state.snapshot else 0.0
        )

    async def _follow(self) -> None:
        async with aclosing(self._registry.watch()) as catalogues:  # type: ignore[type-var]
            async for catalogue in catalogues:
                self.catalogue = catalogue
                self._fold(catalogue)

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(self._registry.ttl_s / _TICKS_PER_TTL)
            if self.catalogue is not None and self._registry.available:
                self._tick += 1
                self._fold(self.catalogue)

    def _fold(self, catalogue: Catalogue) -> None:
        # One more tick than a TTL has: the first may come at once.
        self.state = snapshot.fold(self.state, catalogue, self._tick, ttl_ticks=_TICKS_PER_TTL + 1)
        if self.state.restore:
            self._lacking.set()
        if self.state.snapshot is None:
            return
        try:
            self._cache.set(self.state.snapshot)
        except Inconsistent:
            self._refused.inc()
            _log.exception("the new snapshot does not hang together; the last one stays")

    async def _restore(self) -> None:
        while True:
            await self._lacking.wait()
            self._lacking.clear()
            for policy in self.state.restore:
                try:
                    await self._registry.put_policy(policy.service, policy.document, revision=0)
                    _log.warning("wrote the route policy of %s back to the registry", policy.service)
                except WeftError as err:
                    if err.reason != Reason.POLICY_CONFLICT:  # somebody else's is there: the next catalogue has it
                        _log.warning("the route policy of %s is not written back yet: %s", policy.service, err)
            # Until the registry lists them, each tick asks again.
            await asyncio.sleep(_RESTORE_AGAIN_S)

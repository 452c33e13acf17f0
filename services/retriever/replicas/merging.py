"""Keeps the segments of a view few, beside the searches.

Segments are sorted into *tiers* by how many rows stand in them, each tier ``FANOUT`` times the one before. A tier
that holds ``FANOUT`` segments becomes one of the next tier. So a passage is moved once per tier, as many times as
its collection has tiers, however it came in, and a million passages lie in eight to twenty segments. Besides:

- a segment of which less than half stands is written anew, a small one when things are quiet;
- a segment whose vector index was made in haste and is too large for its kind is written anew;
- a join never makes more than ``MAX_ROWS`` rows, which bounds its work and memory;
- when nothing has changed for ``SETTLE_S``, segments that together hold at most ``SETTLED_ROWS`` become one: a small
  collection is searched in one segment.

One task owns all of it and joins one group at a time, on a thread of its own. The view goes on changing meanwhile.
When the join is done, the segments it was made of are exchanged for it in the view as it then is, in one step:
what was deleted or replaced since is marked in the new segment. Had one of them been joined elsewhere or let go,
the work is dropped and chosen anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.retriever.replicas.replica import Replica, State
from services.retriever.segments.joining import TAIL_ROWS, Joined, join
from services.retriever.segments.part import Part
from services.retriever.segments.view import View
from services.retriever.types import CollectionKey
from services.retriever.workers import Workers

_log = logging.getLogger(__name__)
FANOUT: Final = 4
MAX_ROWS: Final = 1 << 18
SETTLE_S: Final = 0.5
SETTLED_ROWS: Final = 2_048
_SMALLEST_TIER: Final = 256
_AFTER_FAILURE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """Parts of a view that are to become one."""

    key: CollectionKey
    collection_id: int
    parts: tuple[Part, ...]


class Merger:
    """Owns the joining of a replica's segments."""

    def __init__(self, replica: Replica, workers: Workers) -> None:
        self._replica, self._workers = replica, workers

    async def run(self) -> None:
        """Join what is due until cancelled."""
        quiet = False
        while True:
            state = self._replica.state
            wait_s: float | None
            try:
                if await self.step(quiet=quiet):
                    continue
                wait_s = None if quiet else SETTLE_S
            except MemoryError:
                _log.exception("segments stay as they are for now: there was no memory to join them")
                wait_s = _AFTER_FAILURE_S
            quiet = not await self._replica.wait_moved(state, wait_s)

    async def step(self, *, quiet: bool) -> bool:
        """Join one group, if one is due; returns whether there was one. ``quiet``: nothing has changed lately."""
        job = next((job for view in self._replica.state.views.values() if (job := due(view, quiet=quiet))), None)
        if job is None:
            return False
        joined = await self._workers.run(join, job.parts, self._replica.indexes, settled=True)
        await self._replica.exchange(lambda state: with_joined(state, job, joined))
        return True


def due(view: View, *, quiet: bool) -> Job | None:
    """What should be joined first in a view."""

    def job(parts: Sequence[Part]) -> Job:
        return Job(view.collection.key, view.collection.id, tuple(parts))

    for part in view.parts:
        if part.live_count < len(part.segment) / 2 and (quiet or len(part.segment) > TAIL_ROWS):
            return job([part])
        if part.segment.dense is not None and view.indexes.outgrown(part.segment.dense):
            return job([part])
    tiers: dict[int, list[Part]] = {}
    for part in sorted(view.parts, key=lambda part: part.live_count):
        tiers.setdefault(tier(part.live_count), []).append(part)
    for number in sorted(tiers):
        chosen = _within(tiers[number], MAX_ROWS)
        if len(tiers[number]) >= FANOUT and len(chosen) > 1:
            return job(chosen)
    small = _within([part for number in sorted(tiers) for part in tiers[number]], SETTLED_ROWS)
    return job(small) if quiet and len(small) > 1 else None


def tier(rows: int) -> int:
    """Which tier a segment of so many standing rows is in."""
    number = 0
    while rows > _SMALLEST_TIER * FANOUT**number:
        number += 1
    return number


def _within(parts: Sequence[Part], max_rows: int) -> list[Part]:
    """The first of ``parts`` that together hold at most ``max_rows``."""
    chosen, rows = [], 0
    for part in parts:
        rows += part.live_count
        if rows > max_rows:
            break
        chosen.append(part)
    return chosen


def with_joined(state: State, job: Job, joined: Joined) -> State:
    """The state with ``joined`` where its sources were; the state as it is where they aren't there any more."""
    view = state.views.get(job.key)
    if view is None or view.collection.id != job.collection_id:
        return state
    by_segment = {part.segment.name: part for part in view.parts}
    now = [by_segment.get(source.name) for source in joined.sources]
    parts = [part for part in now if part is not None]
    if len(parts) < len(now):
        return state
    part = joined.standing(parts)
    gone = {id(one) for one in parts}
    kept = [one for one in view.parts if id(one) not in gone]
    return state.with_view(view.with_parts(kept if part is None else [*kept, part]))

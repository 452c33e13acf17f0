"""A replica's view of a shared index: how far it is, and what is near in it, joined with the words found here.

    words here -> nearest passages there, with cosines of what the words found -> those that stand in the view -> fused

The store and the replica follow the log separately. A passage counts where both have it in the same version: what
the view doesn't know (deleted, replaced, or not read yet) is left out, and where too few remain, more are
fetched. What the words found and the store doesn't have yet is taken to be of average nearness. So an answer looks
as far as the slower of the two, and says so; ``min_epoch`` waits for both.

Where the store is away or slow, the words alone answer, and the answer says so. After a failure searches say that
at once for ``REST_S``, instead of each finding out again; ``follow`` goes on asking.

Errors: EPOCH_NOT_REACHED; INVALID_FIELD and STORE_CORRUPT from ``start``, INVALID_FIELD from ``follow``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from mesh.deadline import Deadline
from services.retriever.ports import Scores, SharedIndex, Slots, VectorIndex
from services.retriever.search.finding import begun, finished
from services.retriever.search.queries import Asked
from services.retriever.segments.view import View
from services.retriever.types import Hit, Lack, Query, Vectors
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
REST_S: Final = 1.0
PATIENCE_S: Final = 2.0
_SHARE: Final = 0.5  # of what is left to the deadline
_START_S: Final = 10.0
_WAIT_S: Final = 5.0
_KEEP_BACK_S: Final = 0.05
_MAX_CALLS: Final = 256
_MORE: Final = 4
_MOST_FETCHED: Final = 1 << 14

T = TypeVar("T")


class Elsewhere:
    """``VectorIndexes`` of replicas whose vectors are in a shared index: their segments hold words alone."""

    kind: Final = "elsewhere-1"

    def build(self, vectors: Vectors, *, settled: bool) -> None:
        """No index."""

    def outgrown(self, index: VectorIndex) -> bool:
        """Never: there is none."""
        return False

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> VectorIndex:
        """Nothing was kept that could be loaded."""
        raise ValueError("a segment has vectors, which are kept in a shared index here")


class SharedSide:
    """See the module. ``start`` once, then ``follow``.

    Attributes:
        sequence: how far in the log the index looks, as far as is known here.
    """

    def __init__(self, index: SharedIndex, workers: Workers) -> None:
        self.sequence = 0
        self._index, self._workers = index, workers
        self._moved = asyncio.Condition()
        self._calls: set[asyncio.Task[Any]] = set()
        self._why, self._failed_s = "", float("-inf")

    @property
    def away(self) -> str:
        """Why the index is not asked just now; '' where it is."""
        return self._why if time.monotonic() - self._failed_s < REST_S else ""

    async def start(self, log_id: str) -> None:
        """Look at the index. One that is away now may come later."""
        try:
            await self._within(self._index.start(log_id), _START_S)
            self.sequence = await self._within(self._index.watermark(-1, 0.0), _START_S)
        except WeftError as err:
            if err.reason in (Reason.INVALID_FIELD, Reason.STORE_CORRUPT):
                raise
            await self._failed(err)

    async def follow(self) -> None:
        """Keep up with how far the index is, until cancelled."""
        while True:
            try:
                sequence = await self._within(self._index.watermark(self.sequence, _WAIT_S), _WAIT_S + PATIENCE_S)
            except WeftError as err:
                if err.reason == Reason.INVALID_FIELD:
                    raise
                await self._failed(err)
                await asyncio.sleep(REST_S / 2)
                continue
            if self._why and not self.away:
                _log.info("the shared index answers again")
                self._why = ""
            async with self._moved:
                self.sequence = sequence
                self._moved.notify_all()

    async def close(self) -> None:
        """Drop what is under way."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def reach(self, sequence: int, deadline: Deadline) -> bool:
        """Wait until the index looks as far as ``sequence``; False where it is away.

        Raises:
            WeftError: EPOCH_NOT_REACHED when the deadline came first.
        """
        remaining_s = deadline.remaining_s()
        try:
            async with asyncio.timeout(remaining_s - min(_KEEP_BACK_S, remaining_s / 10)), self._moved:
                await self._moved.wait_for(lambda: self.sequence >= sequence or self.away)
        except TimeoutError:
            raise error(
                Reason.EPOCH_NOT_REACHED,
                f"min_epoch asks for sequence {sequence}; this replica is there, but the shared index had reached "
                f"{self.sequence} when the deadline came; try again, or give more time",
                field="min_epoch",
                wanted=sequence,
                reached=self.sequence,
                part="index",
            ) from None
        return self.sequence >= sequence

    async def find(
        self, view: View, query: Query, asked: Asked, deadline: Deadline
    ) -> tuple[tuple[Hit, ...] | None, tuple[Lack, ...]]:
        """The hits of ``query``; None, and why, where the index did not answer."""
        if self.away:
            return None, (self.lack(),)
        claimed = self.sequence
        until_s = time.monotonic() + max(0.0, min(PATIENCE_S, deadline.remaining_s() * _SHARE))
        start = await self._workers.run(begun, view, query)
        wanted = start.fetched
        try:
            while True:
                near = await self._within(
                    self._index.search(view.collection, asked.vector, wanted, start.documents, start.places),
                    until_s - time.monotonic(),
                )
                if near.sequence < claimed:
                    self.sequence = near.sequence
                    raise error(
                        Reason.DEPENDENCY_UNAVAILABLE,
                        f"it had reached sequence {claimed} and is at {near.sequence}: it is being filled anew",
                    )
                slots = await self._workers.run(view.slots_of, near.places)
                stands = slots >= 0
                if start.allowed is not None:
                    stands[stands] = start.allowed[slots[stands]]
                enough = stands.sum() >= start.count or len(near.places) < wanted
                if enough or wanted >= _MOST_FETCHED:
                    break
                wanted *= _MORE
        except WeftError as err:
            await self._failed(err)
            return None, (self.lack(),)
        chosen: tuple[Slots, Scores] = slots[stands][: start.count], near.cosines[stands][: start.count]
        return await self._workers.run(finished, view, query, asked, start, *chosen, near.asked), ()

    def lack(self) -> Lack:
        """What an answer without the index says."""
        why = f"words alone were compared: the shared index is away: {self._why}"
        return Lack("index", Reason.DEPENDENCY_UNAVAILABLE, "lexical_only", why)

    async def _failed(self, err: WeftError) -> None:
        if not self._why:
            _log.warning("the shared index is away, words alone are compared: %s", err)
        async with self._moved:
            self._why, self._failed_s = err.message, time.monotonic()
            self._moved.notify_all()

    async def _within(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What ``call`` returns, if that is soon. A client of a server that hangs may take long to give up a call."""
        if len(self._calls) >= _MAX_CALLS:
            call.close()
            raise error(Reason.DEPENDENCY_UNAVAILABLE, f"{len(self._calls)} calls wait for it already")
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=max(0.0, timeout_s))
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise error(Reason.DEPENDENCY_UNAVAILABLE, f"it did not answer within {max(0.0, timeout_s):.1f} s")
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()

"""The gate before one model: so many answers at once; the others wait their turn, or are told at once to come back.

    arrives ── a place is free ──> runs ── over ──> the place goes to the next one, or is free
       │                            ^
       ├── waits in a FairQueue ── its turn
       │       ├── its deadline can't be met any more ──> refused: expired
       │       ├── somebody with less takes its room ───> refused: displaced
       │       └── its caller goes away ────────────────> leaves
       ├── the queue is full ───────────────────────────> refused: full
       └── its turn would come too late ────────────────> refused: late

"Too late" is judged by what answers took so far (`pace.py`) and by how much goes before it: its wait and its own
answer must fit into what is left of the caller's deadline. A refusal is RESOURCE_EXHAUSTED with the time after which
the same request would have fitted. What can't be done in time is not begun, so what runs is useful at any load.

**A free place is never refused**, not even to a deadline that looks hopeless: it costs nobody anything, and its answer
corrects an estimate that has become too high. Such an estimate would otherwise refuse everything for ever.

First come, first served within a tenant and priority. Serving the last first, or dropping by time waited as CoDel
does, helps where deadlines are unknown; here they are known, and whoever can't make it has left.

Everything but `wait` is synchronous, and `wait` gives way to others only while its request waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mesh.deadline import Deadline
from services.generator.admission.pace import Pace
from services.generator.admission.queue import Entry, FairQueue
from services.generator.admission.refusals import Why
from services.generator.admission.work import Work
from weft.errors import Reason, WeftError, error

_RETRY_MIN_S: Final = 0.1
_RETRY_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Waiter:
    turn: asyncio.Future[None]
    work: Work
    deadline: Deadline | None


class Gate:
    """Lets requests of one model in.

    Attributes:
        running: how many are in.
        queue: those that wait.
        pace: what answers take; told by whoever runs them.
    """

    def __init__(
        self,
        model: str,
        *,
        max_running: int,
        max_waiting: int,
        max_waiting_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let `max_running` in at once; 0 for any number."""
        self.running = 0
        self.queue: FairQueue[_Waiter] = FairQueue(max_requests=max_waiting, max_tokens=max_waiting_tokens)
        self.pace = Pace()
        self._model = model
        self._max_running = max_running
        self._clock = clock

    def enter(self) -> bool:
        """Come in where a place is free; False where one must `wait`. Whoever came in must `leave`."""
        if self._max_running and self.running >= self._max_running:
            return False
        self.running += 1
        return True

    def check(self, tenant: str, priority: int, work: Work, deadline: Deadline | None) -> None:
        """Raise what `wait` would raise at once; changes nothing."""
        if self._max_running and self.running >= self._max_running:
            self._judge(tenant, priority, work, deadline)

    async def wait(self, tenant: str, priority: int, work: Work, deadline: Deadline | None) -> None:
        """Come in when it is this one's turn.

        Raises:
            WeftError: OVERLOADED, when that won't be or not in time; `why` in its metadata.
        """
        for other in self._judge(tenant, priority, work, deadline):
            self._refuse(other, self._displaced())
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), work, deadline)
        entry = self.queue.push(tenant, priority, work.tokens, waiter)
        timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            timer = loop.call_later(self._spare_s(waiter), self._expire, entry)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if not self.queue.remove(entry) and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.leave()  # the place was given to one who has gone
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def leave(self) -> None:
        """Give the place to the next one that can still make use of it."""
        while (entry := self.queue.pop()) is not None:
            waiter = entry.item
            if waiter.turn.done():
                continue
            if self._spare_s(waiter) < 0.0:
                waiter.turn.set_exception(self._expired())
                continue
            waiter.turn.set_result(None)
            return
        self.running -= 1

    def _judge(self, tenant: str, priority: int, work: Work, deadline: Deadline | None) -> list[Entry[_Waiter]]:
        """Return those that must make room for a request; raises OVERLOADED where it can't wait or needn't."""
        wait_s = self.pace.wait_s(self.queue.ahead(tenant, priority, work.tokens), self._max_running)
        if deadline is not None:
            late_s = wait_s + self.pace.service_s(work.output_tokens) - (deadline.at_s - self._clock())
            if late_s > 0.0 and self.pace.answer_s:
                raise self._late(wait_s, late_s, deadline)
        leaving = self.queue.room(tenant, work.tokens)
        if leaving is None:
            raise self._full()
        return leaving

    def _spare_s(self, waiter: _Waiter) -> float:
        """For how long it can still wait."""
        if waiter.deadline is None:
            return math.inf
        return waiter.deadline.at_s - self._clock() - self.pace.service_s(waiter.work.output_tokens)

    def _expire(self, entry: Entry[_Waiter]) -> None:
        if not entry.item.turn.done():
            self._refuse(entry, self._expired())

    def _refuse(self, entry: Entry[_Waiter], refused: WeftError) -> None:
        self.queue.remove(entry)
        if not entry.item.turn.done():
            entry.item.turn.set_exception(refused)

    def _late(self, wait_s: float, late_s: float, deadline: Deadline) -> WeftError:
        answer_s, left_s = self.pace.answer_s, deadline.remaining_s()
        return error(
            Reason.OVERLOADED,
            f"{self._model!r} would answer too late: {self.queue.requests} requests wait, this one's turn would come "
            f"in about {wait_s:.1f} s, an answer takes {answer_s:.1f} s, and {left_s:.1f} s are left; try again later "
            "or give more time",
            retry_after_s=min(max(late_s, _RETRY_MIN_S), _RETRY_MAX_S),
            model=self._model,
            why=Why.LATE,
            waiting=self.queue.requests,
            wait_s=f"{wait_s:.3f}",
            answer_s=f"{answer_s:.3f}",
            left_s=f"{left_s:.3f}",
        )

    def _full(self) -> WeftError:
        return self._crowded(Why.FULL, "no more can wait")

    def _displaced(self) -> WeftError:
        return self._crowded(Why.DISPLACED, "no more can wait, and this tenant had most of them")

    def _expired(self) -> WeftError:
        return self._crowded(Why.EXPIRED, "this one can't be answered before its deadline any more")

    def _crowded(self, why: Why, what: str) -> WeftError:
        waiting, tokens = self.queue.requests, self.queue.tokens
        return error(
            Reason.OVERLOADED,
            f"{self._model!r} is busy: {self.running} answers run, {waiting} requests with {tokens} tokens wait; "
            f"{what}. Try again later",
            retry_after_s=min(max(self.pace.wait_s(tokens, self._max_running) / 2, _RETRY_MIN_S), _RETRY_MAX_S),
            model=self._model,
            why=why,
            running=self.running,
            waiting=waiting,
            waiting_tokens=tokens,
        )

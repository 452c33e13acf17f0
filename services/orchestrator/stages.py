"""The stages of a turn: each is timed in the ledger, a span in the trace, and has a budget.

A stage gets at most ``stage_s`` and ``_SHARE`` of what is left of the deadline, so that the stages
behind it can still answer from what there is: 25 s of 30 s, 5 s of 6 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from opentelemetry.trace import Span, Tracer

from mesh import deadline as deadlines
from mesh.deadline import LedgerRecorder
from weft import names
from weft.values import Ledger, LedgerEntry

_SHARE: Final = 5 / 6


class Stages:
    """Opens the stages of one turn."""

    def __init__(self, ledger: LedgerRecorder, tracer: Tracer, stage_s: float) -> None:
        self.deadline = ledger.deadline
        self._ledger = ledger
        self._tracer = tracer
        self._stage_s = stage_s

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[Span, float]]:
        """A stage and its budget in seconds, which is also the deadline of the calls made within."""
        budget_s = min(self._stage_s, self.deadline.remaining_s() * _SHARE)
        with (
            self._ledger.stage(name, budget_s=budget_s),
            self._tracer.start_as_current_span(f"turn.{name}") as span,
            deadlines.bind(self.deadline.child(budget_s)),
        ):
            try:
                yield span, budget_s
            except asyncio.CancelledError:  # no error, so OpenTelemetry passes over it; not done either
                span.set_attribute(names.ERROR_TYPE, "CANCELLED")
                raise

    @asynccontextmanager
    async def timed(self, name: str) -> AsyncIterator[Span]:
        """A stage that is cut off when its budget is spent. Nothing in it may touch the outbox: a write
        that is cut off would be stored and never shown."""
        with self.open(name) as (span, budget_s):
            try:
                async with asyncio.timeout(budget_s):
                    yield span
            except TimeoutError as exc:
                raise deadlines.exceeded(f"in the stage {name}", budget_s) from exc

    def elapsed_ms(self) -> float:
        """Milliseconds since the turn was asked for."""
        return self._ledger.elapsed_ms()

    def spent(self, writes: LedgerEntry | None) -> Ledger:
        """The ledger so far, with the entry of the writes."""
        entries = [LedgerEntry(e.stage, e.start_ms, e.duration_ms, e.budget_ms, e.status) for e in self._ledger.entries]
        if writes is not None:
            entries.append(writes)
            entries.sort(key=lambda entry: entry.start_ms)
        return Ledger(self.deadline.given_s * 1_000, self._ledger.elapsed_ms(), tuple(entries))

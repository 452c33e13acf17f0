"""What the orchestrator's domain asks of the outside.

Every wait is bounded by the deadline that is bound when a method is called (``mesh.deadline``).
Failures are ``WeftError``s; which of them a turn survives is ``ladder.py``'s business.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from services.orchestrator.records import Busy, Ended, Entry, Lease, Opening, Progress, Session, Taken, Turn
from services.orchestrator.types import (
    DocumentScope,
    Exchange,
    Failure,
    Finished,
    Found,
    Generation,
    PlannedCall,
    Prompt,
    SearchQuery,
    ToolAnswer,
    ToolSpec,
)


class Planner(Protocol):
    """Decides which tools a question needs. One file per planner in ``planners/``, each with
    ``open(url) -> Planner``; chosen by WEFT_ORCHESTRATOR__PLANNER."""

    async def plan(
        self, question: str, tools: Sequence[ToolSpec], today: datetime.date, history: Sequence[Exchange]
    ) -> list[PlannedCall]:
        """Calls in the order in which the question asks for them: at most 10, none twice."""
        ...


class Retriever(Protocol):
    """Finds passages."""

    async def search(self, query: SearchQuery) -> Found:
        """The passages that fit best."""
        ...


class Generator(Protocol):
    """Writes answers."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        """GenerationStarted, then deltas, then exactly one GenerationFinished. Closing the generator
        stops the model."""
        ...


class Tools(Protocol):
    """Runs tools."""

    async def specs(self) -> tuple[ToolSpec, ...]:
        """Every tool there is."""
        ...

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str,
        today: datetime.date | None,
        scope: DocumentScope,
    ) -> ToolAnswer:
        """Run one, which sees no documents beyond ``scope``. The same ``call_id`` again is the same call."""
        ...


class Sessions(Protocol):
    """Keeps sessions, their turns, and each turn's log. Any number of replicas share one store.

    A turn is written under the session's lease. Every write names the lease it was made under; when
    another lease of that session has been given out since, the write changes nothing and raises
    ``LeaseLost``. Everything else that goes wrong is DEPENDENCY_UNAVAILABLE.
    """

    async def begin(self, opening: Opening) -> Taken | Busy | Ended:
        """Take the session's lease for the turn of ``opening.request_id``: a new turn, or the same
        one again where its owner let go or died.

        Raises:
            WeftError: SESSION_NOT_FOUND, SESSION_FULL, REQUEST_ID_REUSED.
        """
        ...

    async def append(self, lease: Lease, entries: Sequence[Entry]) -> None:
        """Add to the turn's log."""
        ...

    async def finish(self, lease: Lease, entries: Sequence[Entry], finished: Finished, query: str) -> None:
        """Add the last entries, close the turn and give the lease back."""
        ...

    async def fail(self, lease: Lease, failure: Failure) -> None:
        """Close the turn as failed for good and give the lease back."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease back with the turn unfinished: anyone may resume it. A lost lease is no error."""
        ...

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Prolong leases; returns those that are lost."""
        ...

    async def progress(self, tenant: str, session: str, turn: int, after_sequence: int) -> Progress:
        """A turn's log behind ``after_sequence``. SESSION_NOT_FOUND, TURN_NOT_FOUND."""
        ...

    async def get(self, tenant: str, session: str) -> Session:
        """SESSION_NOT_FOUND."""
        ...

    async def turns(self, tenant: str, session: str, *, after_turn: int, limit: int) -> list[Turn]:
        """Turns numbered above ``after_turn``, oldest first. SESSION_NOT_FOUND."""
        ...

    async def delete(self, tenant: str, session: str) -> None:
        """Forget a session. Absent is no error; a running turn of it loses its lease."""
        ...

    async def reap(self, limit: int) -> int:
        """Forget up to ``limit`` expired sessions; returns how many."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go."""
        ...


class LeaseLost(Exception):
    """A write came from a lease that is no longer the session's."""

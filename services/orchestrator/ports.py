"""What the orchestrator's domain asks of the outside."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Protocol

from services.orchestrator.types import Exchange, PlannedCall, ToolSpec


class Planner(Protocol):
    """Decides which tools a question needs. One file per planner in ``planners/``, each with
    ``open(url) -> Planner``; chosen by WEFT_ORCHESTRATOR__PLANNER."""

    async def plan(
        self, question: str, tools: Sequence[ToolSpec], today: datetime.date, history: Sequence[Exchange]
    ) -> list[PlannedCall]:
        """Calls in the order in which the question asks for them: at most 10, none twice."""
        ...

"""What a turn's log holds when its lease is taken: where the next owner goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.orchestrator.records import Entry, Prepared, Prompted
from services.orchestrator.types import Retrieved, TextDelta, ToolCallStarted, ToolResult


@dataclass(slots=True)
class Recovered:
    """What a turn's log holds when its lease is taken."""

    next_sequence: int = 0
    retrieved: Retrieved | None = None
    calls: list[ToolCallStarted] = field(default_factory=list)
    results: dict[str, ToolResult] = field(default_factory=dict)
    prepared: Prepared | None = None
    prompted: Prompted | None = None
    text: str = ""
    token_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, log: Sequence[Entry]) -> Recovered:
        """Read a log."""
        found, texts, token_ids = cls(), list[str](), list[int]()
        for entry in log:
            found.next_sequence = max(found.next_sequence, entry.sequence + 1)
            match entry.event:
                case Retrieved() as retrieved:
                    found.retrieved = retrieved
                case ToolCallStarted() as call:
                    found.calls.append(call)
                case ToolResult() as result:
                    found.results[result.call_id] = result
                case Prepared() as prepared:
                    found.prepared = prepared
                case Prompted() as prompted:
                    found.prompted = prompted
                case TextDelta() as delta:
                    texts.append(delta.text)
                    token_ids += delta.token_ids
        found.text, found.token_ids = "".join(texts), tuple(token_ids)
        return found

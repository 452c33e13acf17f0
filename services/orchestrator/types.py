"""What a turn is made of, as the domain sees it: plain records, no protobuf."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from weft.errors import Reason, WeftError, error
from weft.values import Citation, Degradation, Epoch, FinishReason, Ledger, Passage, Usage


class ExtractorKind(Enum):
    """How the text of a pattern's group becomes an argument's value."""

    TEXT = "text"  # as it stands, trimmed
    NUMBER = "number"  # digits or words: "1,250", "twelve"
    EXPRESSION = "expression"  # arithmetic, words turned into operators
    DATE = "date"  # a day as YYYY-MM-DD; without a year the next one
    PAST_DATE = "past_date"  # the same; without a year the last one
    CONSTANT = "constant"  # the constant itself


@dataclass(frozen=True, slots=True)
class ArgumentExtractor:
    """Fills one argument from a match."""

    argument: str
    kind: ExtractorKind
    group: str = ""  # named group of the regex; empty with a constant
    constant: Any = None
    optional: bool = False  # the call is made without the argument when the group did not match


@dataclass(frozen=True, slots=True)
class ToolPattern:
    """One way in which people ask for a tool."""

    regex: str  # Python's dialect, case-insensitive, searched in the question
    arguments: tuple[ArgumentExtractor, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a planner knows it."""

    name: str
    description: str = ""
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 5.0
    patterns: tuple[ToolPattern, ...] = ()
    hint: str = ""  # regex that a question must match before the patterns are searched; empty: none
    read_only: bool = True  # it changes nothing, so that it may run again


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A tool call that a planner wants made."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One earlier question of the session and its answer."""

    question: str
    answer: str
    query: str = ""  # the question as it was searched: completed from the session where it leant on it


# -- what peers give and take -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a record: a tool's within an answer, or a turn's in the store."""

    reason: str
    code: str  # canonical gRPC code name
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, err: WeftError) -> Failure:
        """The record of ``err``."""
        return cls(err.reason, err.code.name, err.message, err.metadata)

    def as_error(self) -> WeftError:
        """The error again, of the class of its reason."""
        reason = Reason(self.reason) if self.reason in Reason.__members__ else Reason.INTERNAL
        err = error(reason, self.message)
        err.metadata.update(self.metadata)
        return err


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for."""

    query: str
    collection: str
    top_k: int
    filter: str = ""
    min_epoch: Epoch | None = None
    allow_cached: bool = True


@dataclass(frozen=True, slots=True)
class DocumentScope:
    """What of the caller's documents a turn may see: its own search, and those of its tools."""

    collection: str = ""
    filter: str = ""
    min_epoch: Epoch | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first."""

    passages: tuple[Passage, ...] = ()
    epoch: Epoch | None = None
    degraded: tuple[Degradation, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered."""

    result: Mapping[str, Any]
    text: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model samples. None is the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a model takes an interrupted answer up again."""

    prompt_token_ids: tuple[int, ...]
    output_token_ids: tuple[int, ...]
    text: str  # that was shown already: all of these tokens' text or less


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that a model is given."""

    question: str
    query: str = ""  # the question as it was searched: completed from the session where it leant on it
    history: tuple[Exchange, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()
    passages: tuple[Passage, ...] = ()
    model: str = ""
    sampling: Sampling = Sampling()
    allow_cached: bool = True
    continuation: Continuation | None = None


@dataclass(frozen=True, slots=True)
class GenerationStarted:
    """A model has begun."""

    model: str
    backend: str = ""
    can_resume: bool = False
    prompt_token_ids: tuple[int, ...] = ()
    can_repeat: bool = False


@dataclass(frozen=True, slots=True)
class GenerationDelta:
    """A piece of a model's answer."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """A model is done."""

    reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    citations: tuple[Citation, ...] = ()
    degraded: tuple[Degradation, ...] = ()
    cached: bool = False


Generation = GenerationStarted | GenerationDelta | GenerationFinished


# -- the events of a turn -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """Opens a turn; always sequence 0."""

    session: str
    turn: int  # counts the session's turns from 1
    trace_id: str
    request_id: str
    versions: Mapping[str, str] = field(default_factory=dict)
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages were found. What the search had to do without is told at the end of the turn."""

    passages: tuple[Passage, ...]
    epoch: Epoch | None
    query: str
    degraded: tuple[Degradation, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool is being called."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool has answered (``error`` is None) or failed."""

    call_id: str
    tool: str
    result: Mapping[str, Any] | None
    text: str
    error: Failure | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. ``token_ids`` stay in the store."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Closes a turn; always the last."""

    text: str
    reason: FinishReason
    citations: tuple[Citation, ...] = ()
    usage: Usage = field(default_factory=Usage)
    ledger: Ledger = field(default_factory=Ledger)
    degraded: tuple[Degradation, ...] = ()
    cached: bool = False


Event = Started | Retrieved | ToolCallStarted | ToolResult | TextDelta | Finished


# -- the question -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One question to a session."""

    tenant: str
    session: str  # empty for a new one
    request_id: str  # empty: made by the service
    question: str
    collection: str = "collections/default"
    top_k: int = 5
    filter: str = ""
    min_epoch: Epoch | None = None
    model: str = ""
    sampling: Sampling = Sampling()
    tools: frozenset[str] | None = None  # those that may be used; None for all
    allow_cached: bool = True
    today: datetime.date | None = None  # None: the server's UTC day
    resume_turn: int | None = None
    after_sequence: int = -1  # the last event that the caller has; -1 for none

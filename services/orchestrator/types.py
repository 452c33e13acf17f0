"""What a turn is made of, as the domain sees it: plain records, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


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

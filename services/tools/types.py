"""Records of the tool service: what a tool is, a call of it, and how a call ends.

A tool ends a call in one of three ways: an ``Output``, ``BadArgument`` (the caller can mend it) or
``ToolFailed`` (the arguments are fine, there is no result: 1/0). ``Toolbox`` turns the latter two
into errors with reasons.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from weft.values import Epoch

Json = Mapping[str, Any]


class ExtractorKind(Enum):
    """How a planner turns the text of a pattern's group into an argument's value."""

    TEXT = "text"
    NUMBER = "number"
    EXPRESSION = "expression"
    DATE = "date"
    PAST_DATE = "past_date"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Extract:
    """Fills ``argument`` from the named ``group`` of a match, or with ``constant``."""

    argument: str
    kind: ExtractorKind
    group: str = ""
    constant: str | float | bool | None = None
    optional: bool = False


def text(argument: str, *, group: str = "", optional: bool = False) -> Extract:
    """The group's text (the group is named like the argument unless told)."""
    return Extract(argument, ExtractorKind.TEXT, group or argument, optional=optional)


def number(argument: str, *, group: str = "", optional: bool = False) -> Extract:
    """The group's number, in digits or words."""
    return Extract(argument, ExtractorKind.NUMBER, group or argument, optional=optional)


def expression(argument: str, *, group: str = "") -> Extract:
    """The group's arithmetic, words turned into operators."""
    return Extract(argument, ExtractorKind.EXPRESSION, group or argument)


def date(argument: str, *, group: str = "", past: bool = False, optional: bool = False) -> Extract:
    """The group's day; without a year the next such day, or with ``past`` the last."""
    kind = ExtractorKind.PAST_DATE if past else ExtractorKind.DATE
    return Extract(argument, kind, group or argument, optional=optional)


def constant(argument: str, value: str | float | bool) -> Extract:
    """A value that the wording itself implies."""
    return Extract(argument, ExtractorKind.CONSTANT, constant=value)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One way in which people ask for a tool. Quantifiers are possessive or bounded: a planner
    searches these in text that strangers wrote."""

    regex: str
    arguments: tuple[Extract, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments that work, with what they give: documentation that the conformance suite runs."""

    arguments: Json
    text: str  # the sentence expected; "" where it depends on what is stored


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """All there is to know of a tool without running it."""

    name: str
    description: str
    input_schema: Json  # JSON Schema 2020-12 of an object
    output_schema: Json
    timeout_s: float = 2.0
    max_concurrency: int = 16  # calls at once; others wait, see Toolbox
    read_only: bool = True
    patterns: tuple[Pattern, ...] = ()
    hint: str = ""  # regex that every fitting question matches somewhere: it spares searching the patterns
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """What of the caller's documents a tool may see."""

    collection: str = ""
    """Resource name: no other is looked at, whatever the arguments say. Empty: theirs."""
    filter: str = ""
    min_epoch: Epoch | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a tool may know besides its arguments."""

    today: datetime.date
    scope: Scope = Scope()


@dataclass(frozen=True, slots=True)
class Output:
    """What a tool answers: data, and the same as one sentence."""

    result: Json
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came in, its arguments not yet checked."""

    name: str
    arguments: Json
    today: datetime.date
    call_id: str = ""
    tried: bool = False  # the mesh sent it before, to a replica that may have run it
    scope: Scope = Scope()


@dataclass(frozen=True, slots=True)
class Answer:
    """A call that succeeded."""

    output: Output
    duration_s: float


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """A passage that the document search found."""

    passage: str  # resource name
    title: str
    section: str
    source: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class FoundPassages:
    """Best first."""

    passages: tuple[FoundPassage, ...] = ()
    epoch: str = ""  # how far in the log the search looked, "log_id:sequence"
    degraded: tuple[str, ...] = field(default=())  # what the search left out, one sentence each


class BadArgument(Exception):
    """An argument that fits the schema and yet makes no sense."""

    def __init__(self, path: str, value: object, allowed: str) -> None:
        super().__init__(f"{path} is {value!r}; {allowed}")
        self.path = path
        self.value = value
        self.allowed = allowed


class ToolFailed(Exception):
    """The arguments are fine, but there is no result. The message tells a person why."""

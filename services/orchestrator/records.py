"""What a session store keeps and gives: the session, its turns, a turn's log, and the lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from services.orchestrator.types import Event, Exchange, Failure, Finished
from weft.values import Degradation


@dataclass(frozen=True, slots=True)
class Prepared:
    """A note in a turn's log that is never sent: everything before generation is settled."""

    degraded: tuple[Degradation, ...]


@dataclass(frozen=True, slots=True)
class Prompted:
    """A note in a turn's log that is never sent: the model that began to answer, how it goes on with an
    answer that broke off, and its prompt."""

    model: str
    can_resume: bool
    prompt_token_ids: tuple[int, ...]
    can_repeat: bool = False


Note = Prepared | Prompted
NO_SEQUENCE: Final = -1  # of a note


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a turn's log: an event with its sequence, or a note with NO_SEQUENCE."""

    sequence: int
    event: Event | Note


class TurnState(Enum):
    """Where a turn stands."""

    RUNNING = "running"  # a replica works on it, or nobody has resumed it yet
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Session:
    """A session's record. Times are Unix seconds."""

    name: str
    created_s: float
    expires_s: float
    turn_count: int
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn's record."""

    session: str
    number: int
    state: TurnState
    question: str
    finished: Finished | None
    created_s: float
    trace_id: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """What a replica brings when it wants a session's lease for a turn."""

    tenant: str
    session: str
    create: bool  # whether an unknown session is made
    request_id: str
    question: str
    owner: str  # the replica's process, unique
    trace_id: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a turn. ``fence`` grows with each lease of the session: writes of an
    older one are refused. ``handle`` is the store's own."""

    tenant: str
    session: str
    turn: int
    fence: int
    handle: Any = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The lease is ours. ``log`` is what an earlier owner of the turn has left, else Started alone."""

    lease: Lease
    log: tuple[Entry, ...]
    history: tuple[Exchange, ...]  # finished turns before this one, oldest first


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody holds the lease: for this very turn, or (``turn`` is None) for another one."""

    turn: int | None
    owner: str
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The turn is over: its log, and its failure if it failed."""

    turn: int
    log: tuple[Entry, ...]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a turn's log holds behind some sequence, and whether somebody still writes it."""

    log: tuple[Entry, ...]
    state: TurnState
    failure: Failure | None
    leased: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store grants a session."""

    ttl_s: float = 3_600.0
    """How long an unused session is kept, in seconds; each use begins it anew."""
    lease_s: float = 5.0
    """How long a lease lasts that nobody renews, in seconds."""
    max_turns: int = 500
    """Turns of a session before it is full."""
    max_bytes: int = 8 * 1024 * 1024
    """Bytes of questions, logs and answers of a session before it is full."""
    history_turns: int = 6
    """Short-term memory: finished turns that a new one is given."""

"""Deadlines, and the ledger that shows how one was spent.

A deadline is a moment on the monotonic clock. The server interceptor binds the caller's, shaved a
little on entry so that a callee's timeout can still be reported upstream before the caller itself
gives up (an idea of letsencrypt/boulder's); outgoing calls take what remains. Stages of a call spend
from it through a ``LedgerRecorder``, which goes back with the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from weft.errors import Reason, WeftError, error

# The share of what remains that a callee leaves to its caller for the way back, and its bounds.
_SHAVE_RATIO: Final = 0.02
_SHAVE_MAX_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nobody waits for the answer any more."""

    at_s: float  # on time.monotonic()'s clock
    given_s: float  # what the caller gave when it was made

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return cls(time.monotonic() + seconds, seconds)

    @classmethod
    def on_entry(cls, remaining_s: float) -> Deadline:
        """The deadline for handling a call whose caller waits ``remaining_s`` more."""
        shave_s = min(_SHAVE_MAX_S, max(0.0, remaining_s) * _SHAVE_RATIO)
        return cls(time.monotonic() + remaining_s - shave_s, remaining_s)

    def remaining_s(self) -> float:
        """Seconds left, 0.0 when it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    def child(self, max_s: float) -> Deadline:
        """The earlier of this deadline and ``max_s`` from now."""
        seconds = min(self.remaining_s(), max_s)
        return Deadline(min(self.at_s, time.monotonic() + max_s), seconds)

    def check(self, doing: str) -> None:
        """Raise DEADLINE_EXCEEDED, naming what was being done, when it has passed."""
        if self.remaining_s() <= 0.0:
            raise exceeded(doing, self.given_s)


def exceeded(doing: str, given_s: float) -> WeftError:
    """The error of a deadline that passed while ``doing``."""
    given = f"{given_s:.3f}" if given_s >= 0.001 else f"{given_s:.1g}"
    return error(
        Reason.DEADLINE_EXCEEDED,
        f"the deadline of {given} s passed while {doing}; give more time or ask for less",
        doing=doing,
        given_s=given,
    )


_current: ContextVar[Deadline | None] = ContextVar("weft_deadline", default=None)


def current() -> Deadline | None:
    """The deadline of the call being handled; None outside of any call."""
    return _current.get()


@contextmanager
def bind(deadline: Deadline) -> Iterator[Deadline]:
    """Make ``deadline`` current within the block, in this task and those it starts."""
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


@dataclass(slots=True)
class LedgerEntry:
    """One stage's spending. Milliseconds count from when the call was accepted."""

    stage: str
    start_ms: float
    duration_ms: float = 0.0
    budget_ms: float = 0.0
    status: str = "OK"


class LedgerRecorder:
    """Writes the ledger of one call. Stages may overlap; entries stand in the order of their begins."""

    def __init__(self, deadline: Deadline, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline = deadline
        self.entries: list[LedgerEntry] = []
        self._clock = clock
        self._accepted_s = clock()

    def elapsed_ms(self) -> float:
        """Milliseconds since the call was accepted."""
        return (self._clock() - self._accepted_s) * 1_000

    @contextmanager
    def stage(self, stage: str, *, budget_s: float | None = None) -> Iterator[LedgerEntry]:
        """Time a stage; an exception leaves its code in the entry and goes on."""
        entry = LedgerEntry(stage, self.elapsed_ms(), budget_ms=0.0 if budget_s is None else budget_s * 1_000)
        self.entries.append(entry)
        try:
            yield entry
        except WeftError as err:
            entry.status = err.code.name
            raise
        except TimeoutError:
            entry.status = "DEADLINE_EXCEEDED"
            raise
        except Exception:
            entry.status = "INTERNAL"
            raise
        except BaseException:  # cancelled
            entry.status = "CANCELLED"
            raise
        finally:
            entry.duration_ms = self.elapsed_ms() - entry.start_ms

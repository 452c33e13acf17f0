"""A circuit breaker around a model at another host: what has failed is not asked again at once.

              5 failures in a row, or half of the last calls
    closed ────────────────────────────────────────────────> open
       ^                                                      │ after 2 s, then 4, 8… 60
       └── the probe's first token ── half-open <─────────────┘
                                          └── the probe fails ──> open

Open, a call is refused at once with MODEL_UNAVAILABLE and when to come back, so that the ladder's next model answers.
Half-open, one call goes through as a probe, the others are refused.

A failure is the upstream's alone: MODEL_UNAVAILABLE, before the first token or after. A bad request, a caller's
deadline and a caller who leaves say nothing about it, nor does a server that breaks (500) over a JSON Schema. An answer
counts when it is whole; what was begun before the circuit last changed counts no more. A server that asks for more
time (RetryInfo) gets it.

Libraries there are count calls that return; an answer is a stream, known to be good at its first token and to be
whole at its last.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from services.generator.ports import Model
from services.generator.types import End, ModelEvent, Prompt, Request
from services.generator.wrapper import Wrapper
from weft import names
from weft.errors import Reason, WeftError, error

FAILURES: Final = frozenset({Reason.MODEL_UNAVAILABLE, Reason.DEPENDENCY_UNAVAILABLE})
_log = logging.getLogger(__name__)


class State(IntEnum):
    """Of a circuit; the gauge's values."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """When a circuit opens, and for how long."""

    failures_in_a_row: int = 5
    share: float = 0.5
    """Of failures among the last calls."""
    least_calls: int = 10
    """That a share is taken of."""
    last_calls: int = 20
    window_s: float = 60.0
    """How long a call counts."""
    open_s: float = 2.0
    """The first time; each probe that fails doubles it."""
    longest_open_s: float = 60.0


class Refused(Exception):
    """The circuit lets nobody through."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"for {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Circuit:
    """The state machine. `clock` is in seconds and never runs backwards; `changed` is told each new state."""

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._policy, self._clock, self._changed = policy, clock, changed
        self._state = State.CLOSED
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=policy.last_calls)
        self._in_a_row = 0
        self._open_s = policy.open_s
        self._open_until_s = 0.0
        self._probe: Ticket | None = None
        self.era = 0
        """Grows when the circuit opens or closes: tickets of an earlier one don't count."""

    @property
    def state(self) -> State:
        """The state now."""
        if self._state is State.OPEN and self._clock() >= self._open_until_s:
            self._become(State.HALF_OPEN)
        return self._state

    def enter(self) -> Ticket:
        """Let a call through; its ticket must be settled.

        Raises:
            Refused: when the circuit is open, or half-open and being probed.
        """
        state = self.state
        if state is State.OPEN:
            raise Refused(self._open_until_s - self._clock())
        if state is State.HALF_OPEN:
            if self._probe is not None:
                raise Refused(self._policy.open_s)
            self._probe = Ticket(self)
            return self._probe
        return Ticket(self)

    def answered(self, ticket: Ticket) -> None:
        """A call's first token came. The probe's closes the circuit, and the probe is a call like others."""
        if ticket is self._probe:
            self._probe = None
            self._open_s = self._policy.open_s
            self._begin_era()
            ticket.era = self.era
            self._become(State.CLOSED)

    def settled(self, ticket: Ticket, good: bool | None, retry_after_s: float) -> None:
        """A call ended: well, badly, or in a way that says nothing (None)."""
        if ticket is self._probe:
            self._probe = None
            if good is False:
                self._open_s = min(2 * self._open_s, self._policy.longest_open_s)
                self._open(retry_after_s)
            return
        if good is None or ticket.era != self.era or self._state is not State.CLOSED:
            return
        self._outcomes.append((self._clock(), good))
        self._in_a_row = 0 if good else self._in_a_row + 1
        if not good and self._too_bad():
            self._open(retry_after_s)

    def _too_bad(self) -> bool:
        policy = self._policy
        if self._in_a_row >= policy.failures_in_a_row:
            return True
        since_s = self._clock() - policy.window_s
        recent = [good for at_s, good in self._outcomes if at_s >= since_s]
        return len(recent) >= policy.least_calls and recent.count(False) >= policy.share * len(recent)

    def _open(self, retry_after_s: float) -> None:
        self._open_until_s = self._clock() + min(max(self._open_s, retry_after_s), self._policy.longest_open_s)
        self._begin_era()
        self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self._state = state
        self._changed(state)

    def _begin_era(self) -> None:
        self.era += 1
        self._in_a_row = 0
        self._outcomes.clear()


class Ticket:
    """One call's way through a circuit. The first of `succeeded`, `failed` and `left` settles it."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._settled = False
        self.era = circuit.era

    def answered(self) -> None:
        """The first token came."""
        self._circuit.answered(self)

    def succeeded(self) -> None:
        """The answer is whole."""
        self._settle(True)

    def failed(self, retry_after_s: float = 0.0) -> None:
        """The upstream failed; it may have said when to come back."""
        self._settle(False, retry_after_s)

    def left(self) -> None:
        """It ended for a reason of the caller's."""
        self._settle(None)

    def _settle(self, good: bool | None, retry_after_s: float = 0.0) -> None:
        if not self._settled:
            self._settled = True
            self._circuit.settled(self, good, retry_after_s)


class Guarded(Wrapper):
    """A model behind a circuit breaker."""

    def __init__(self, name: str, model: Model, circuit: Circuit) -> None:
        super().__init__(model)
        self._name, self._circuit = name, circuit

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer, if the circuit lets it."""
        try:
            ticket = self._circuit.enter()
        except Refused as refused:
            raise error(
                Reason.MODEL_UNAVAILABLE,
                f"model {self._name!r} has failed too often and is not asked for {refused.retry_after_s:.1f} s",
                retry_after_s=refused.retry_after_s,
                model=self._name,
            ) from None
        try:
            async with aclosing(self._model.generate(request)) as events:
                async for event in events:
                    if not isinstance(event, Prompt):
                        ticket.answered()
                    if isinstance(event, End):
                        ticket.succeeded()
                    yield event
        except WeftError as err:
            if err.reason in FAILURES and not _perhaps_its_own(request, err):
                ticket.failed(err.retry_after_s or 0.0)
            raise
        finally:
            ticket.left()


def _perhaps_its_own(request: Request, err: WeftError) -> bool:
    """Whether the failure may be the caller's: servers break over schemas that passed their own checks."""
    return request.json_schema is not None and err.metadata.get("status") == "500"


class Guard:
    """Puts circuit breakers around models, and shows their state to Prometheus."""

    def __init__(
        self,
        registry: CollectorRegistry,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._clock = policy or Policy(), clock
        self._gauge = Gauge(
            names.METRIC_CIRCUIT,
            "Circuit breaker of a model's server: 0 closed, 1 half-open, 2 open",
            ["model"],
            registry=registry,
        )

    def around(self, name: str, model: Model) -> Guarded:
        """Return the model behind a circuit breaker of its own."""

        def tell(state: State) -> None:
            _log.warning("model %s: its circuit is %s now", name, state.name.lower().replace("_", "-"))

        circuit = Circuit(self._policy, self._clock, tell)
        self._gauge.labels(name).set_function(lambda: float(circuit.state))
        return Guarded(name, model, circuit)

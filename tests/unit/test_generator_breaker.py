"""The circuit breaker: as a state machine that hypothesis drives, and around models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from prometheus_client import CollectorRegistry

from mesh.plugins import Url
from services.generator.breaker import Circuit, Guard, Guarded, Policy, Refused, State, Ticket
from services.generator.generation import Generator
from services.generator.models import scripted
from services.generator.types import Finished, Message, ModelEvent, ModelLoad, Request, Role, Started
from weft.errors import Reason, WeftError, error

POLICY = Policy(
    failures_in_a_row=3, share=0.5, least_calls=4, last_calls=8, window_s=30.0, open_s=2.0, longest_open_s=10.0
)
WANTED = Request((Message(Role.USER, "When?"),))


class CircuitMachine(RuleBasedStateMachine):
    """Calls come and go in any order while time passes; what must always hold is said beside each rule."""

    tickets = Bundle("tickets")

    @initialize()
    def begin(self) -> None:
        self.now_s = 1_000.0
        self.states = [State.CLOSED]
        self.circuit = Circuit(POLICY, lambda: self.now_s, self.states.append)
        self.probe: Ticket | None = None
        self.since_change: list[bool] = []  # outcomes that count

    @rule(seconds=st.sampled_from([0.125, 2.0, 4.0, 8.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(target=tickets)
    def enter(self) -> object:
        state = self.circuit.state
        try:
            ticket = self.circuit.enter()
        except Refused as refused:
            assert state is State.OPEN or (state is State.HALF_OPEN and self.probe is not None)
            assert 0 < refused.retry_after_s <= POLICY.longest_open_s
            if state is State.OPEN:  # who comes when told is let through
                self.now_s += refused.retry_after_s
                assert self.circuit.state is State.HALF_OPEN
            return multiple()
        assert state is State.CLOSED or (state is State.HALF_OPEN and self.probe is None)
        if state is State.HALF_OPEN:
            self.probe = ticket
        return ticket

    @rule(ticket=tickets)
    def answer(self, ticket: Ticket) -> None:
        state = self.circuit.state
        ticket.answered()
        if ticket is self.probe:
            self.probe = None
            self.since_change = []
            assert self.circuit.state is State.CLOSED
        else:
            assert self.circuit.state is state

    @rule(
        ticket=consumes(tickets),
        good=st.sampled_from([True, False, False, False]),
        retry_after_s=st.sampled_from([0.0, 5.0, 3_600.0]),
    )
    def end(self, ticket: Ticket, good: bool, retry_after_s: float) -> None:
        state, counts = self.circuit.state, ticket.era == self.circuit.era
        if good:
            ticket.answered()
            if ticket is self.probe:
                self.probe, self.since_change = None, []
                state = State.CLOSED
            ticket.succeeded()
        else:
            ticket.failed(retry_after_s)
        if state is State.CLOSED and counts:
            self.since_change.append(good)
        now = self.circuit.state
        if ticket is self.probe:
            self.probe = None
            assert now is State.OPEN
        elif good or not counts or state is not State.CLOSED:
            assert now is state
        elif now is State.OPEN:
            assert self.since_change.count(False) >= min(POLICY.failures_in_a_row, POLICY.share * POLICY.least_calls)
        else:
            assert not all(not each for each in self.since_change[-3:]) or len(self.since_change) < 3
        if now is State.OPEN:
            self.since_change = []

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        state = self.circuit.state
        ticket.left()
        if ticket is self.probe:
            self.probe = None
        assert self.circuit.state is state
        ticket.failed()  # settled is settled
        assert self.circuit.state is state

    @invariant()
    def goes_round(self) -> None:
        allowed = {
            State.CLOSED: {State.OPEN},
            State.OPEN: {State.HALF_OPEN},
            State.HALF_OPEN: {State.OPEN, State.CLOSED},
        }
        assert all(new in allowed[old] for old, new in zip(self.states, self.states[1:], strict=False))


TestCircuit = CircuitMachine.TestCase
TestCircuit.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> Circuit:
    circuit = Circuit(POLICY, clock)
    for _ in range(POLICY.failures_in_a_row):
        circuit.enter().failed()
    return circuit


def refused_s(circuit: Circuit) -> float:
    with pytest.raises(Refused) as caught:
        circuit.enter()
    return caught.value.retry_after_s


def test_failures_in_a_row_open_it_and_one_good_call_between_them_does_not() -> None:
    circuit = Circuit(POLICY, Clock())
    for good in (False, False, True, False):
        ticket = circuit.enter()
        ticket.succeeded() if good else ticket.failed()
        assert circuit.state is (State.OPEN if circuit.era else State.CLOSED)
    assert opened(Clock()).state is State.OPEN


def test_a_share_of_failures_opens_it_though_never_in_a_row() -> None:
    circuit, calls = Circuit(POLICY, Clock()), 0
    while circuit.state is State.CLOSED:
        ticket = circuit.enter()
        ticket.failed() if calls % 2 else ticket.succeeded()
        calls += 1
    assert calls == POLICY.least_calls


def test_old_failures_do_not_count() -> None:
    clock = Clock()
    circuit = Circuit(POLICY, clock)
    for _ in range(20):
        for good in (True, False, False):
            ticket = circuit.enter()
            ticket.succeeded() if good else ticket.failed()
            clock.now_s += POLICY.window_s / 2.5
    assert circuit.state is State.CLOSED


def test_each_probe_that_fails_doubles_the_time_up_to_the_longest_and_a_good_one_sets_it_back() -> None:
    clock = Clock()
    circuit = opened(clock)
    for wanted_s in (2.0, 4.0, 8.0, 10.0, 10.0):
        assert refused_s(circuit) == wanted_s
        clock.now_s += wanted_s
        circuit.enter().failed()
    clock.now_s += 10.0
    circuit.enter().answered()
    assert circuit.state is State.CLOSED
    for _ in range(POLICY.failures_in_a_row):
        circuit.enter().failed()
    assert refused_s(circuit) == 2.0


def test_a_server_that_asks_for_more_time_gets_it() -> None:
    clock = Clock()
    circuit = Circuit(POLICY, clock)
    for _ in range(POLICY.failures_in_a_row):
        circuit.enter().failed(retry_after_s=7.0)
    assert refused_s(circuit) == 7.0


def test_a_probe_that_leaves_lets_the_next_one_try() -> None:
    clock = Clock()
    circuit = opened(clock)
    clock.now_s += 2.0
    probe = circuit.enter()
    assert refused_s(circuit) > 0
    probe.left()
    circuit.enter().answered()
    assert circuit.state is State.CLOSED


# -- around models ---------------------------------------------------------------------------------------


class Flaky:
    """Scripted: but what it does next is set from outside."""

    def __init__(self) -> None:
        self.does: str | WeftError = "scripted:?tokens=3"
        self.calls = 0
        self.asked = asyncio.Event()
        self.capabilities = scripted.open(Url.parse("scripted:")).capabilities

    async def start(self) -> None:
        """Nothing to load."""

    def load(self) -> ModelLoad:
        return ModelLoad()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        self.calls += 1
        self.asked.set()
        if isinstance(self.does, WeftError):
            raise self.does
        async with aclosing(scripted.open(Url.parse(self.does)).generate(request)) as events:
            async for event in events:
                yield event


class Broken:
    """A guarded model, its clock, and what Prometheus sees of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.flaky = Flaky()
        self.wanted = WANTED
        self.model: Guarded = Guard(self.registry, POLICY, self.clock).around("m", self.flaky)

    def gauge(self) -> float | None:
        return self.registry.get_sample_value("weft_generator_circuit", {"model": "m"})

    async def ask(self) -> str:
        """Return "" or the reason of the failure."""
        try:
            async with aclosing(self.model.generate(self.wanted)) as events:
                async for _ in events:
                    pass
        except WeftError as err:
            return err.reason
        return ""


FAILS = "scripted:?fail_after=0"
BREAKS = "scripted:?tokens=3&fail_after=2"


@pytest.mark.parametrize("does", [FAILS, BREAKS])
async def test_an_upstream_that_fails_is_not_asked_until_its_time_is_over(does: str) -> None:
    b = Broken()
    b.flaky.does = does
    assert [await b.ask() for _ in range(3)] == ["MODEL_UNAVAILABLE"] * 3
    assert (b.flaky.calls, b.gauge()) == (3, 2.0)
    with pytest.raises(WeftError, match="failed too often") as caught:
        await anext(b.model.generate(WANTED))
    assert (caught.value.reason, b.flaky.calls) == (Reason.MODEL_UNAVAILABLE, 3)
    assert 0 < (caught.value.retry_after_s or 0) <= POLICY.open_s


async def test_a_probe_brings_it_back() -> None:
    b = Broken()
    b.flaky.does = FAILS
    for _ in range(3):
        await b.ask()
    b.flaky.does = "scripted:?tokens=3"
    assert await b.ask() == "MODEL_UNAVAILABLE"
    b.clock.now_s += POLICY.open_s
    assert await b.ask() == ""
    assert (b.flaky.calls, b.gauge()) == (4, 0.0)


async def test_while_one_probes_the_others_are_refused() -> None:
    b = Broken()
    b.flaky.does = FAILS
    for _ in range(3):
        await b.ask()
    b.flaky.does = "scripted:?tokens=2&hang_after=0"
    b.clock.now_s += POLICY.open_s
    b.flaky.asked.clear()
    probe = asyncio.create_task(b.ask())
    await b.flaky.asked.wait()
    assert b.gauge() == 1.0
    assert (await b.ask(), b.flaky.calls) == ("MODEL_UNAVAILABLE", 4)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    b.flaky.does = "scripted:?tokens=3"
    assert (await b.ask(), b.gauge()) == ("", 0.0)


@pytest.mark.parametrize("reason", [Reason.INVALID_FIELD, Reason.CONTEXT_TOO_LONG, Reason.DEADLINE_EXCEEDED])
async def test_what_is_the_callers_own_does_not_count(reason: Reason) -> None:
    b = Broken()
    b.flaky.does = error(reason, "no")
    assert [await b.ask() for _ in range(20)] == [reason] * 20
    assert b.gauge() == 0.0


async def test_a_server_that_breaks_over_a_schema_may_do_so_for_its_callers_sake() -> None:
    b = Broken()
    b.flaky.does = error(Reason.MODEL_UNAVAILABLE, "Internal server error", status=500)
    b.wanted = Request(WANTED.messages, json_schema={"type": "object", "minProperties": 1})
    assert [await b.ask() for _ in range(20)] == ["MODEL_UNAVAILABLE"] * 20
    assert b.gauge() == 0.0
    b.wanted = WANTED
    assert [await b.ask() for _ in range(3)] == ["MODEL_UNAVAILABLE"] * 3
    assert b.gauge() == 2.0


async def test_callers_who_leave_do_not_count() -> None:
    b = Broken()
    b.flaky.does = "scripted:?hang_after=1"
    for _ in range(20):
        events = b.model.generate(WANTED)
        await anext(events)
        await events.aclose()
    assert b.gauge() == 0.0


async def test_the_next_model_answers_while_it_is_open() -> None:
    b = Broken()
    b.flaky.does = FAILS
    generator = Generator({"m": b.model, "other": scripted.open(Url.parse("scripted:?tokens=2"))})
    for asked in range(6):
        events = [event async for event in generator.generate(WANTED)]
        assert isinstance(events[0], Started)
        assert events[0].model == "other"
        assert isinstance(events[-1], Finished)
        assert [item.reason for item in events[-1].degraded] == ["MODEL_UNAVAILABLE"]
        assert b.flaky.calls == min(asked + 1, 3)

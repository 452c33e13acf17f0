"""The fair queue: bounds, shares, priorities, as examples and as properties."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.generator.admission.queue import OLDEST_EVERY, QUANTUM_TOKENS, Entry, FairQueue


def unbounded() -> FairQueue[str]:
    return FairQueue(max_requests=10**9, max_tokens=10**9)


def drained(queue: FairQueue[str]) -> list[Entry[str]]:
    found = []
    while (entry := queue.pop()) is not None:
        found.append(entry)
    return found


def test_a_thousand_requests_of_one_tenant_go_behind_the_single_one_of_another() -> None:
    queue = unbounded()
    for number in range(1_000):
        queue.push("many", 0, 300, f"many {number}")
    for _ in range(10):
        queue.pop()
    queue.push("one", 0, 300, "one")
    assert "one" in [entry.item for entry in drained(queue)[:2]]


def test_tokens_are_shared_and_not_requests() -> None:
    queue = unbounded()
    for number in range(100):
        queue.push("long", 0, 4_000, f"long {number}")
        for _ in range(10):
            queue.push("short", 0, 400, "short")
    first = Counter(queue.pop().tenant for _ in range(220))  # type: ignore[union-attr]
    assert 19 <= first["long"] <= 21
    assert 199 <= first["short"] <= 201


def test_a_higher_priority_goes_first_among_the_requests_of_its_tenant() -> None:
    queue = unbounded()
    for item, priority in (("a", 0), ("b", 5), ("c", 9), ("d", 5)):
        queue.push("acme", priority, 100, item)
    assert [entry.item for entry in drained(queue)] == ["c", "b", "d", "a"]


def test_priority_takes_nothing_from_other_tenants() -> None:
    queue = unbounded()
    for _ in range(50):
        queue.push("urgent", 9, 100, "urgent")
        queue.push("patient", 0, 100, "patient")
    first = Counter(queue.pop().tenant for _ in range(50))  # type: ignore[union-attr]
    assert abs(first["urgent"] - first["patient"]) <= 1


def test_a_low_priority_is_not_starved_by_its_own_tenants_high_ones() -> None:
    queue = unbounded()
    queue.push("acme", 0, 100, "low")
    taken = []
    for _ in range(OLDEST_EVERY):
        queue.push("acme", 9, 100, "high")
        queue.push("acme", 9, 100, "high")
        entry = queue.pop()
        assert entry is not None
        taken.append(entry.item)
    assert taken == ["high"] * (OLDEST_EVERY - 1) + ["low"]


def test_a_full_queue_takes_no_more() -> None:
    queue: FairQueue[str] = FairQueue(max_requests=2, max_tokens=1_000)
    assert queue.room("a", 1_001) is None
    queue.push("a", 0, 600, "1")
    assert queue.room("a", 401) is None
    assert queue.room("a", 400) == []
    queue.push("a", 0, 100, "2")
    assert queue.room("a", 1) is None


def test_a_tenant_that_fills_the_queue_gives_room_to_another() -> None:
    queue: FairQueue[str] = FairQueue(max_requests=4, max_tokens=10_000)
    queue.push("many", 9, 100, "urgent")
    for item in ("old", "newer", "newest"):
        queue.push("many", 0, 100, item)
    leaving = queue.room("one", 150)
    assert leaving is not None
    assert [entry.item for entry in leaving] == ["newest"]
    assert queue.room("one", 350) is None, "the newcomer would have more than the one who leaves"
    assert queue.room("many", 10) is None, "nobody takes room from himself"


def test_who_left_the_queue_is_not_taken_and_not_counted() -> None:
    queue = unbounded()
    stays, leaves = queue.push("a", 0, 100, "stays"), queue.push("a", 3, 200, "leaves")
    assert queue.remove(leaves)
    assert not queue.remove(leaves)
    assert (queue.requests, queue.tokens) == (1, 100)
    assert queue.pop() is stays
    assert not queue.remove(stays)
    assert queue.pop() is None


def test_what_goes_before_a_newcomer_is_its_own_tenants_and_as_much_of_each_other() -> None:
    queue = unbounded()
    for _ in range(100):
        queue.push("many", 0, 100, "")
    queue.push("few", 0, 50, "")
    assert queue.ahead("one", 0, 200) == 200 + 50
    assert queue.ahead("few", 0, 200) == 50 + 250
    assert queue.ahead("many", 0, 200) == 10_000 + 50
    assert queue.ahead("many", 1, 200) == 200 - 150, "a higher priority passes its own tenant's"


def test_a_costly_request_is_found_as_quickly_as_a_cheap_one() -> None:
    queue = unbounded()
    for tenant in range(50):
        queue.push(f"t{tenant}", 0, 10**8 + tenant, "")
    assert len(drained(queue)) == 50  # one quantum a step would take 300 million of them


requests = st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.integers(1, 5_000))


@settings(deadline=None)
@given(st.lists(requests, max_size=60))
def test_every_request_is_taken_exactly_once(pushed: list[tuple[str, int, int]]) -> None:
    queue = unbounded()
    entries = [queue.push(tenant, priority, tokens, "") for tenant, priority, tokens in pushed]
    taken = drained(queue)
    assert sorted(entry.number for entry in taken) == [entry.number for entry in entries]
    assert (queue.requests, queue.tokens) == (0, 0)


@settings(deadline=None)
@given(st.lists(requests, min_size=1, max_size=60))
def test_tenants_that_wait_are_given_the_same_but_for_one_request_of_each(pushed: list[tuple[str, int, int]]) -> None:
    queue = unbounded()
    waiting: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    for tenant, priority, tokens in pushed:
        queue.push(tenant, priority, tokens, "")
        waiting[tenant] += 1
        largest[tenant] = max(largest[tenant], tokens)
    given_tokens: Counter[str] = Counter()
    while all(waiting.values()):
        entry = queue.pop()
        assert entry is not None
        given_tokens[entry.tenant] += entry.tokens
        waiting[entry.tenant] -= 1
        for one in waiting:
            for other in waiting:
                apart = given_tokens[one] - given_tokens[other]
                assert apart <= largest[one] + largest[other] + 2 * QUANTUM_TOKENS


@settings(deadline=None)
@given(st.lists(requests, max_size=60), st.integers(0, 40), st.integers(1, 5_000))
def test_a_newcomer_waits_for_no_more_than_its_own_cost_from_each_tenant(
    pushed: list[tuple[str, int, int]], before: int, tokens: int
) -> None:
    queue = unbounded()
    largest: Counter[str] = Counter()
    for tenant, priority, cost in pushed:
        queue.push(tenant, priority, cost, "")
        largest[tenant] = max(largest[tenant], cost)
    for _ in range(before):
        queue.pop()
    newcomer = queue.push("newcomer", 0, tokens, "")
    first: Counter[str] = Counter()
    while (entry := queue.pop()) is not newcomer:
        assert entry is not None
        first[entry.tenant] += entry.tokens
    assert all(first[tenant] <= tokens + largest[tenant] + 2 * QUANTUM_TOKENS for tenant in first)


class BoundsHold(RuleBasedStateMachine):
    """Whoever comes, goes or is taken: the bounds hold, and nobody is lost."""

    MAX_REQUESTS = 12
    MAX_TOKENS = 9_000

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(max_requests=self.MAX_REQUESTS, max_tokens=self.MAX_TOKENS)
        self.waiting: dict[int, Entry[int]] = {}

    @rule(request=requests)
    def comes(self, request: tuple[str, int, int]) -> None:
        tenant, priority, tokens = request
        leaving = self.queue.room(tenant, tokens)
        if leaving is None:
            fits = len(self.waiting) < self.MAX_REQUESTS and self.queue.tokens + tokens <= self.MAX_TOKENS
            assert not fits
            return
        for entry in leaving:
            assert entry.tenant != tenant
            assert self.queue.remove(entry)
            del self.waiting[entry.number]
        entry = self.queue.push(tenant, priority, tokens, 0)
        self.waiting[entry.number] = entry
        if leaving:
            held = {one.tenant: 0 for one in self.waiting.values()}
            for one in self.waiting.values():
                held[one.tenant] += one.tokens
            assert held[leaving[0].tenant] >= held[tenant]

    @rule()
    def is_taken(self) -> None:
        entry = self.queue.pop()
        assert (entry is None) == (not self.waiting)
        if entry is not None:
            assert self.waiting.pop(entry.number) is entry

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def goes_away(self, data: st.DataObject) -> None:
        entry = self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting))))
        assert self.queue.remove(entry)

    @invariant()
    def is_within_bounds(self) -> None:
        assert self.queue.requests == len(self.waiting) <= self.MAX_REQUESTS
        assert self.queue.tokens == sum(entry.tokens for entry in self.waiting.values()) <= self.MAX_TOKENS


BoundsHold.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_bounds_hold = BoundsHold.TestCase

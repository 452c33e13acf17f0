"""A queue that is fair between tenants: deficit round robin by tokens, with priorities inside of each tenant's share.

    rotation of tenants that wait ──> the first one's deficit grows by a quantum ──> it covers the tenant's next
         ^                                                                            request? taken, paid from it
         └────────────────── it doesn't: the next tenant's turn; the deficit is kept ─┘

**Between tenants** tokens count, not requests: who asks for answers of 4,000 tokens gets one where another gets ten of
400. While two tenants wait, what they were given differs by at most one request of each (and two quanta), however many
each has waiting. Priorities change nothing there: nobody gains by calling everything urgent.

**Inside of a tenant** the higher priority goes first, the older of equal ones. Every eighth request taken of a tenant
is its oldest, whatever its priority: the one that is k-th in age goes at the latest with the tenant's 8k-th.

A quantum is small, so turns are short. Where a whole round serves nobody, the rounds until it would are added at once,
so that a costly request takes no more steps than a cheap one: a step costs at most one look at each waiting tenant.

**Bounds.** Requests and tokens are bounded. When it is full, a newcomer still gets in at the expense of the tenant
that holds most, if that one keeps at least as much as the newcomer's tenant then has: its newest requests of the
lowest priority go. So one tenant can't fill the queue against the others.

Nothing here waits or knows the time: see `gate.py`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, TypeVar

QUANTUM_TOKENS: Final = 16
PRIORITIES: Final = 10  # 0 to 9, the highest first
OLDEST_EVERY: Final = 8

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """A request that waits."""

    tenant: str
    priority: int
    tokens: int
    item: T
    number: int
    """In the order of arrival."""


@dataclass(slots=True, eq=False)
class _Tenant(Generic[T]):
    """Those of one tenant, a lane for each priority."""

    name: str
    lanes: list[OrderedDict[int, Entry[T]]] = field(default_factory=lambda: [OrderedDict() for _ in range(PRIORITIES)])
    lane_tokens: list[int] = field(default_factory=lambda: [0] * PRIORITIES)
    tokens: int = 0
    deficit: int = 0
    given: bool = False
    """Whether this turn's quantum was added."""
    taken: int = 0
    first: Entry[T] | None = None
    """The next one, while it is known."""

    def next(self) -> Entry[T]:
        """The one that goes first."""
        if self.first is None:
            heads = [next(iter(lane.values())) for lane in self.lanes if lane]
            oldest = self.taken % OLDEST_EVERY == OLDEST_EVERY - 1
            self.first = min(heads, key=lambda entry: entry.number) if oldest else heads[-1]
        return self.first

    def last(self) -> Iterator[Entry[T]]:
        """Those that would be missed least, first."""
        for lane in self.lanes:
            yield from reversed(lane.values())


class FairQueue(Generic[T]):
    """Requests that wait, and whose turn it is.

    Attributes:
        requests: how many wait.
        tokens: how many tokens they stand for.
    """

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self.requests = 0
        self.tokens = 0
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._tenants: dict[str, _Tenant[T]] = {}
        self._rotation: deque[_Tenant[T]] = deque()
        self._numbers = count()

    def __len__(self) -> int:
        return self.requests

    def room(self, tenant: str, tokens: int) -> list[Entry[T]] | None:
        """Those that must go so that a request of `tokens` has room; none where it has; None where it gets none."""
        requests_over = self.requests + 1 - self._max_requests
        tokens_over = self.tokens + tokens - self._max_tokens
        if requests_over <= 0 and tokens_over <= 0:
            return []
        if not self._rotation:
            return None
        heaviest = max(self._rotation, key=lambda other: other.tokens)
        own = self._tenants.get(tenant)
        left = heaviest.tokens
        least = tokens + (own.tokens if own is not None else 0)
        leaving: list[Entry[T]] = []
        for entry in heaviest.last():
            left -= entry.tokens
            if left < least or heaviest is own:
                return None
            leaving.append(entry)
            requests_over -= 1
            tokens_over -= entry.tokens
            if requests_over <= 0 and tokens_over <= 0:
                return leaving
        return None

    def push(self, tenant: str, priority: int, tokens: int, item: T) -> Entry[T]:
        """Add a request; `room` says whether there is any for it."""
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = _Tenant(tenant)
            self._rotation.append(owner)
        entry = Entry(tenant, priority, tokens, item, next(self._numbers))
        owner.first = None
        owner.lanes[priority][entry.number] = entry
        owner.lane_tokens[priority] += tokens
        owner.tokens += tokens
        self.requests += 1
        self.tokens += tokens
        return entry

    def pop(self) -> Entry[T] | None:
        """Take the request whose turn it is."""
        if not self.requests:
            return None
        while True:
            for _ in range(len(self._rotation)):
                owner = self._rotation[0]
                if not owner.given:
                    owner.given = True
                    owner.deficit += QUANTUM_TOKENS
                entry = owner.next()
                if entry.tokens <= owner.deficit:
                    owner.deficit -= entry.tokens
                    owner.taken += 1
                    self.remove(entry)
                    return entry
                owner.given = False
                self._rotation.rotate(-1)
            rounds = min(-((owner.deficit - owner.next().tokens) // QUANTUM_TOKENS) for owner in self._rotation)
            for owner in self._rotation:
                owner.deficit += (rounds - 1) * QUANTUM_TOKENS

    def remove(self, entry: Entry[T]) -> bool:
        """Take a request out of its turn; False where it doesn't wait any more."""
        owner = self._tenants.get(entry.tenant)
        if owner is None or owner.lanes[entry.priority].pop(entry.number, None) is None:
            return False
        owner.first = None
        owner.lane_tokens[entry.priority] -= entry.tokens
        owner.tokens -= entry.tokens
        self.requests -= 1
        self.tokens -= entry.tokens
        if not any(owner.lanes):
            del self._tenants[entry.tenant]
            self._rotation.remove(owner)
        return True

    def ahead(self, tenant: str, priority: int, tokens: int) -> int:
        """Return about how many tokens would be taken before a request that comes now."""
        own = self._tenants.get(tenant)
        before = sum(own.lane_tokens[priority:]) if own is not None else 0
        share = before + tokens
        return before + sum(min(share, other.tokens) for other in self._rotation if other is not own)

"""What tenants may use, taken before an answer and settled after it.

    reserve   the estimate, from every rule that applies; all or nothing
    settle    the difference to what the backend counted: given back, or taken on top even over the limit

So a limit holds against what is under way as well as against what is over. A minute's limit takes back what was
reserved too much only within that minute: later it has slid out of the window by itself. A request that is larger than
a whole limit reserves the limit: it gets in when nothing else was used, and what it uses beyond is owed.

An answer that goes on after its generator died was let in before, and what that one reserved is never settled: so it
may go over each limit by as much again. No more, or whoever says that each of its requests goes on would have none.

Where a request is refused by one rule, what the rules before it gave goes back. Who leaves while a storage counts can't
know whether it did: so reserving goes on without them, for as long as a storage may take, and gives everything back.

Settling doesn't hold up the answer: tasks of the quota's own do it, at most as many as there are answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from services.generator.admission.ledgers import Ledger
from services.generator.admission.refusals import Why
from services.generator.admission.rules import MICROS, Budgets, Rates, Rule, period_ends_in_s, rules_for
from services.generator.admission.work import Work
from weft.errors import Reason, WeftError, error
from weft.values import Usage

if TYPE_CHECKING:
    from services.generator.admission.counters import Counters

CLOSE_S: Final = 1.0
_MINUTE_S: Final = 60.0
_TIMES_CONTINUED: Final = 2

_log = logging.getLogger(__name__)

T = TypeVar("T")
Price = Callable[[str, Usage], int]
"""What usage of a model costs, in millionths of the operator's currency."""


@dataclass(frozen=True, slots=True)
class _Taken:
    rule: Rule
    amount: int


class TenantQuota:
    """Limits and budgets of all tenants."""

    def __init__(self, rates: Rates, budgets: Budgets, ledger: Ledger, price: Price) -> None:
        self._rates = rates
        self._budgets = budgets
        self._ledger = ledger
        self._price = price
        self._settling: set[asyncio.Task[Any]] = set()

    async def reserve(self, tenant: str, model: str, work: Work, *, continues: bool = False) -> Reserved:
        """Take an answer's estimate from its tenant's limits; what ``continues`` an answer may go over them once more.

        Raises:
            WeftError: QUOTA_EXCEEDED.
        """
        now = datetime.now(UTC)
        rules = rules_for(tenant, model, self._rates, self._budgets, now)
        usage = Usage(input_tokens=work.prompt_tokens, output_tokens=work.output_tokens)
        wanted = [_Taken(rule, min(self._amount(rule, model, usage), rule.limit)) for rule in rules]

        async def take(counters: Counters) -> Reserved:
            reserved = Reserved(self, model, counters, [])
            try:
                for one in wanted:
                    if not await counters.take(one.rule, one.amount, _TIMES_CONTINUED if continues else 1):
                        back, reserved.taken = reserved.taken, []  # first: once, whoever is cancelled
                        await _correct(counters, [_Taken(other.rule, -other.amount) for other in back])
                        raise _exceeded(one, tenant, model, await _wait_s(counters, one, now))
                    reserved.taken.append(one)
            except BaseException:
                reserved.settle(Usage())
                raise
            return reserved

        reserving = self._own(self._ledger.run(take))
        try:
            return await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.add_done_callback(_give_back)
            raise

    def settle(self, reserved: Reserved, usage: Usage) -> None:
        """Count what an answer took in truth, soon."""
        due: list[_Taken] = []
        late = time.monotonic() - reserved.begun_s > _MINUTE_S
        for one in reserved.taken:
            more = self._amount(one.rule, reserved.model, usage) - one.amount
            if more > 0 or (more < 0 and (one.rule.is_budget or not late)):
                due.append(_Taken(one.rule, more))
        if due:
            self._own(_correct(reserved.counters, due))

    async def close(self) -> None:
        """Settle what is due, for a moment; close the ledger."""
        until_s = time.monotonic() + CLOSE_S
        while self._settling and (left_s := until_s - time.monotonic()) > 0:  # what is given back is settled then
            await asyncio.wait(self._settling, timeout=left_s)
        for task in self._settling:
            task.cancel()
        await self._ledger.close()

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    def _amount(self, rule: Rule, model: str, usage: Usage) -> int:
        return self._price(model, usage) if rule.is_money else usage.input_tokens + usage.output_tokens


class Reserved:
    """What was taken for one answer."""

    __slots__ = ("_quota", "begun_s", "counters", "model", "taken")

    def __init__(self, quota: TenantQuota, model: str, counters: Counters, taken: list[_Taken]) -> None:
        self._quota = quota
        self.model = model
        self.counters = counters
        self.taken = taken
        self.begun_s = time.monotonic()

    def settle(self, usage: Usage) -> None:
        """Say what it took in truth. Returns at once."""
        self._quota.settle(self, usage)


def _give_back(reserving: asyncio.Task[Reserved]) -> None:
    """Of somebody who left."""
    if not reserving.cancelled() and reserving.exception() is None:
        reserving.result().settle(Usage())


async def _correct(counters: Counters, due: Sequence[_Taken]) -> None:
    try:
        for one in due:
            await counters.correct(one.rule, one.amount)
    except Exception as exc:  # the storage is away: new reservations say so
        _log.debug("what an answer took could not be counted: %r", exc)


async def _wait_s(counters: Counters, one: _Taken, now: datetime) -> float:
    """How long until there may be room for what was wanted."""
    rule = one.rule
    return period_ends_in_s(rule.quota, now) if rule.is_budget else await counters.room_in_s(rule, one.amount)


def _exceeded(one: _Taken, tenant: str, model: str, wait_s: float) -> WeftError:
    rule = one.rule
    limit, wanted = (f"{value / MICROS:g}" if rule.is_money else str(value) for value in (rule.limit, one.amount))
    return error(
        Reason.QUOTA_EXCEEDED,
        f"{rule.subject} may use {limit} {rule.quota.replace('_', ' ').replace('per', 'a')}, and this request may take "
        f"{wanted} of them, more than is left; try again in {wait_s:.0f} s, or ask for less with max_tokens",
        retry_after_s=max(0.001, wait_s),
        why=Why.BUDGET if rule.is_budget else Why.RATE,
        quota=rule.quota,
        subject=rule.subject,
        tenant=tenant,
        model=model,
        limit=limit,
        wanted=wanted,
    )

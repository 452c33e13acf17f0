"""Counts what tenants used, with the library `limits`.

    a minute          sliding window: what was used in this one, and of the one before as much as is left of it
    a day, a month    one counter for each calendar day or month in UTC

What is taken can be corrected afterwards, in either direction, over the limit too.
"""

from __future__ import annotations

from typing import Final

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, RateLimitItemPerMonth
from limits.aio.storage import MemoryStorage, RedisStorage

from services.generator.admission.rules import Rule

_NO_LIMIT: Final = 2**53
_NAMESPACE: Final = "weft-limits"


class Counters:
    """Takes from one storage."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._storage = storage

    async def take(self, rule: Rule, amount: int, times: int = 1) -> bool:
        """Count `amount`, if it is within so many times the rule's limit."""
        key, expiry_s = _place(rule)
        if not rule.is_budget:
            return await self._storage.acquire_sliding_window_entry(key, rule.limit * times, expiry_s, amount)
        if await self._storage.incr(key, expiry_s, amount) <= rule.limit * times:
            return True
        await self._storage.incr(key, expiry_s, -amount)
        return False

    async def correct(self, rule: Rule, amount: int) -> None:
        """Count `amount` more, or less, whatever the limit."""
        key, expiry_s = _place(rule)
        if rule.is_budget:
            await self._storage.incr(key, expiry_s, amount)
            return
        if amount < 0:
            # No more than this minute has: what was taken in the one before would be room for the next minute, too.
            _, _, current, _ = await self._storage.get_sliding_window(key, expiry_s)
            amount = -min(-amount, max(0, current))
        if amount:
            await self._storage.acquire_sliding_window_entry(key, _NO_LIMIT, expiry_s, amount)

    async def room_in_s(self, rule: Rule, amount: int) -> float:
        """How long until a minute's limit has room for `amount`, if nothing else comes."""
        key, window_s = _place(rule)
        previous, previous_left_s, current, current_left_s = await self._storage.get_sliding_window(key, window_s)
        room = rule.limit - amount
        if current <= room:  # as the previous window slides out
            return max(0.0, previous_left_s - (room - current) * window_s / previous) if previous else 0.0
        return current_left_s - room * window_s / current  # it becomes the previous one first

    async def check(self) -> bool:
        """Whether the storage answers."""
        return await self._storage.check()


def _place(rule: Rule) -> tuple[str, int]:
    """Return the counter's key and its life in seconds."""
    item: RateLimitItem
    if not rule.is_budget:
        item = RateLimitItemPerMinute(rule.limit, namespace=_NAMESPACE)
    elif rule.quota.endswith("day"):
        item = RateLimitItemPerDay(rule.limit, 2, namespace=_NAMESPACE)
    else:
        item = RateLimitItemPerMonth(rule.limit, 2, namespace=_NAMESPACE)  # of 30 days
    return item.key_for(*rule.key), item.get_expiry()

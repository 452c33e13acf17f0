"""What tenants may use: tokens a minute, and budgets of a day or a month.

    tokens_per_minute   {"*": 60000, "acme": 200000, "*/llama": 30000, "acme/llama": 90000}
    budgets             {"*": {"tokens_per_day": 1000000}, "acme": {"money_per_month": 250.0}}

A name before the slash is a tenant, one behind it a model; `*` is any of them. Everything is counted for each tenant by
itself, `*` too. Of the entries without a model the tenant's own counts, else `*`; the same of those with a model; one
of each kind may apply to a request, and both must have room. null lifts what `*` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

ANY: Final = "*"
MICROS: Final = 1_000_000
TOKENS_PER_MINUTE: Final = "tokens_per_minute"
BUDGETS: Final = ("tokens_per_day", "tokens_per_month", "money_per_day", "money_per_month")

Rates = Mapping[str, int | None]
Budgets = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A bound that a request must keep."""

    quota: str
    """tokens_per_minute, or one of BUDGETS."""
    limit: int
    """Tokens, or millionths of money."""
    key: tuple[str, ...]
    """What is counted together."""
    subject: str
    """Whose it is, for people."""

    @property
    def is_budget(self) -> bool:
        """Whether it is of a day or a month."""
        return self.quota != TOKENS_PER_MINUTE

    @property
    def is_money(self) -> bool:
        """Whether it counts money."""
        return self.quota.startswith("money")


def rules_for(tenant: str, model: str, rates: Rates, budgets: Budgets, now: datetime) -> list[Rule]:
    """Return what a tenant's request to a model must keep, the shortest period first."""
    found: list[Rule] = []
    limit = _of(rates, tenant, ANY)
    if limit is not None:
        found.append(Rule(TOKENS_PER_MINUTE, limit, (tenant,), f"tenant:{tenant}"))
    limit = _of(rates, f"{tenant}/{model}", f"{ANY}/{model}")
    if limit is not None:
        found.append(Rule(TOKENS_PER_MINUTE, limit, (tenant, model), f"tenant:{tenant}/model:{model}"))
    for quota, amount in budgets.get(tenant, budgets.get(ANY, {})).items():
        limit = round(amount * MICROS) if quota.startswith("money") else round(amount)
        day = now.astimezone(UTC).strftime("%Y-%m-%d" if quota.endswith("day") else "%Y-%m")
        found.append(Rule(quota, limit, (quota, tenant, day), f"tenant:{tenant}"))
    return found


def _of(rates: Rates, own: str, any_: str) -> int | None:
    return rates[own] if own in rates else rates.get(any_)


def period_ends_in_s(quota: str, now: datetime) -> float:
    """Return how long until a budget begins anew: at midnight, or on the first of the month, in UTC."""
    now = now.astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if quota.endswith("day"):
        return 86_400 - (now - midnight).total_seconds()
    first = midnight.replace(day=1)
    following = first.replace(year=now.year + now.month // 12, month=now.month % 12 + 1)
    return (following - now).total_seconds()

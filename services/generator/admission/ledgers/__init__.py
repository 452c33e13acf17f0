"""Where it is counted what tenants used: one file for each kind, with `open(url, unshared) -> Ledger`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from services.generator.admission.counters import Counters  # needs the extra `limits`

T = TypeVar("T")


class Ledger(Protocol):
    """Where it is counted."""

    async def run(self, work: Callable[[Counters], Awaitable[T]]) -> T:
        """Do `work` with the counters that count at the moment."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...

"""Which tools there are: asked of the tools service now and then, not once per turn.

A list younger than ``fresh_s`` is taken as it is. An older one is still used while one refresh runs in the
background, up to ``stale_s``; then a turn waits for the refresh. A refresh that failed is not tried again
for as long as it took, ``retry_s`` at the most: with the tools service down, turns must not queue up behind
its timeouts, and one that has just come up must be seen at once. In the first ``starting_s`` of this process it is
tried again nearly at once: a mesh comes up in any order, and its first turn should find everybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from mesh import deadline
from services.orchestrator.ports import Tools
from services.orchestrator.types import ToolSpec
from weft.errors import Reason, WeftError, error

_QUICK_RETRY_S: Final = 0.2


class Catalogue:
    """The tools' specifications, kept for a while."""

    def __init__(
        self,
        tools: Tools,
        *,
        fresh_s: float = 15.0,
        stale_s: float = 300.0,
        retry_s: float = 2.0,
        timeout_s: float = 2.0,
        starting_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tools = tools
        self._fresh_s, self._stale_s, self._retry_s = fresh_s, stale_s, retry_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._started_s = clock() + starting_s
        self._specs: tuple[ToolSpec, ...] = ()
        self._fetched_s = float("-inf")
        self._failure: WeftError | None = None
        self._retry_from_s = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    async def specs(self) -> tuple[ToolSpec, ...]:
        """Every tool there is.

        Raises:
            WeftError: what the tools service failed with, where no list is young enough.
        """
        now_s = self._clock()
        age_s = now_s - self._fetched_s
        if age_s < self._fresh_s:
            return self._specs
        if now_s >= self._retry_from_s and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._fetch())
        if age_s < self._stale_s:
            return self._specs
        if self._refresh is not None and not self._refresh.done():
            await asyncio.shield(self._refresh)  # others wait for it, too
        if self._clock() - self._fetched_s < self._stale_s:
            return self._specs
        assert self._failure is not None  # a refresh ends in one or the other
        raise self._failure.with_traceback(None)  # told to many: it must not gather all their frames

    async def _fetch(self) -> None:
        begun_s = self._clock()
        try:
            # It serves all turns, so it spends from no turn's deadline.
            with deadline.bind(deadline.Deadline.after(self._timeout_s)):
                async with asyncio.timeout(self._timeout_s):
                    specs = await self._tools.specs()
            if specs != self._specs:  # who knows the list by its identity needn't look at it anew
                self._specs = specs
            self._fetched_s, self._failure = self._clock(), None
        except WeftError as err:
            self._failed(err, begun_s)
        except TimeoutError:
            late = error(
                Reason.DEPENDENCY_UNAVAILABLE,
                f"the tools service did not list its tools within {self._timeout_s} s",
                timeout_s=self._timeout_s,
            )
            self._failed(late, begun_s)

    def _failed(self, err: WeftError, begun_s: float) -> None:
        now_s = self._clock()
        self._failure = err
        longest_s = self._retry_s if now_s >= self._started_s else _QUICK_RETRY_S
        self._retry_from_s = now_s + min(longest_s, max(_QUICK_RETRY_S, now_s - begun_s))

    async def close(self) -> None:
        """Stop a refresh that runs."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

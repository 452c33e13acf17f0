"""How long one answer of an upstream may take: to the first token, from token to token, in all.

The caller's own deadline bounds all of them. Whose patience ended says the error: the caller's is DEADLINE_EXCEEDED,
the operator's is MODEL_UNAVAILABLE, after which another model may answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh import deadline
from services.generator.openai.options import Timeouts
from weft.errors import Reason, WeftError, error


class Patience:
    """The clock of one answer. It starts when it is made."""

    def __init__(self, server: str, timeouts: Timeouts) -> None:
        """`server`: as errors call it."""
        self._server, self._timeouts = server, timeouts
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._caller = deadline.current()
        self._caller_end_s = None if self._caller is None else now_s + self._caller.remaining_s()
        self._end_s = now_s + timeouts.total_s
        self._next_end_s = now_s + timeouts.first_token_s
        self.begun = False
        """Whether the first token is there."""

    def heard(self) -> None:
        """A token came."""
        self.begun = True
        self._next_end_s = self._loop.time() + self._timeouts.token_s

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for what comes next, as long as there is patience.

        Raises:
            WeftError: DEADLINE_EXCEEDED, MODEL_UNAVAILABLE.
        """
        ours_s = min(self._next_end_s, self._end_s)
        caller_s = self._caller_end_s
        limit = asyncio.timeout_at(ours_s if caller_s is None else min(ours_s, caller_s))
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._ended(ours_s) from None

    def _ended(self, ours_s: float) -> WeftError:
        if self._caller is not None and self._caller_end_s is not None and self._caller_end_s <= ours_s:
            return deadline.exceeded(f"{self._server} was answering", self._caller.given_s)
        if ours_s == self._end_s:
            problem = f"was not done after {self._timeouts.total_s:g} s (timeout_s)"
        elif self.begun:
            problem = f"said nothing more for {self._timeouts.token_s:g} s (token_timeout_s)"
        else:
            problem = f"said nothing for {self._timeouts.first_token_s:g} s (first_token_timeout_s)"
        return error(Reason.MODEL_UNAVAILABLE, f"{self._server} {problem}", server=self._server, problem=problem)

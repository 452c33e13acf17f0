"""How long one answer of an upstream may take: to the first token, from token to token, in all.

From token to token only the waiting counts: a reader who takes their time is not the server's silence.

The caller's own deadline bounds all of them. Whose patience ended says the error: the caller's is DEADLINE_EXCEEDED,
the operator's is MODEL_UNAVAILABLE, after which another model may answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from mesh import deadline
from mesh.plugins import Url
from weft.errors import Reason, WeftError, error

MAX_TIMEOUT_S: Final = 3_600.0
PARAMETERS: Final = {
    "connect_timeout_s": 2.0,
    "first_token_timeout_s": 20.0,
    "token_timeout_s": 20.0,
    "timeout_s": 300.0,
}
"""Of an upstream's URL, and what holds without them."""
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a server may take, in seconds."""

    connect_s: float
    first_token_s: float
    """From the question to the first token, tries that failed included."""
    token_s: float
    """From one token to the next."""
    total_s: float
    """For the whole answer."""


def timeouts(url: Url) -> Timeouts:
    """Read the timeouts of a URL.

    Raises:
        WeftError: INVALID_FIELD.
    """
    return Timeouts(*(_seconds(url, name, default) for name, default in PARAMETERS.items()))


def plain(url: Url) -> bool:
    """Whether an upstream is called without TLS: those on this machine, and others where the URL says so."""
    return url.host in _LOCAL or url.query.get("tls") == "no"


def _seconds(url: Url, name: str, default: float) -> float:
    raw = url.query.get(name)
    if raw is None:
        return default
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_TIMEOUT_S:
        message = f"{url}: {name} is {raw[:20]!r}; allowed are seconds above 0, to {MAX_TIMEOUT_S:.0f}"
        raise error(Reason.INVALID_FIELD, message, url=url)
    return value


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
        self._first_end_s = now_s + timeouts.first_token_s
        self._last_end_s = math.inf
        self._silent_s = 0.0  # waited for since the last token
        self.begun = False
        """Whether the first token is there."""

    def heard(self) -> None:
        """A token came."""
        self.begun = True
        self._silent_s = 0.0

    def ending(self, seconds: float) -> None:
        """All that counts is there; what follows gets so long."""
        self._last_end_s = self._loop.time() + seconds

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for what comes next, as long as there is patience.

        Raises:
            WeftError: DEADLINE_EXCEEDED, MODEL_UNAVAILABLE.
        """
        now_s = self._loop.time()
        next_s = now_s + self._timeouts.token_s - self._silent_s if self.begun else self._first_end_s
        ours_s = min(next_s, self._last_end_s, self._end_s)
        caller_s = self._caller_end_s
        limit = asyncio.timeout_at(ours_s if caller_s is None else min(ours_s, caller_s))
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._ended(ours_s) from None
        finally:
            self._silent_s += self._loop.time() - now_s

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

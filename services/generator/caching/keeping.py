"""Kept answers, in a store that may fail: then there are none, and no caller notices.

A store that fails or takes longer than PATIENCE_S is left alone for REST_S: meanwhile everything is a miss and
nothing is kept, at no cost. Then one request tries again, while the others go on without. The log says so once in
LOG_EVERY_S, the metric each time. What can't be read, because somebody else wrote it, is a miss, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from services.generator.caching import answers
from services.generator.caching.answers import Answer
from weft.errors import WeftError

PATIENCE_S: Final = 0.25
REST_S: Final = 1.0
LOG_EVERY_S: Final = 30.0

_log = logging.getLogger(__name__)


class Store(Protocol):
    """Bytes by key, forgotten after their time or when there is no room.

    A backend is one file in `stores/`, named by its URL's scheme, with a function ``open(url: Url) -> Store`` that
    checks the URL and returns at once.
    """

    async def get(self, key: str) -> bytes | None:
        """What is kept under ``key``; None where nothing is.

        Raises:
            WeftError: DEPENDENCY_UNAVAILABLE.
        """
        ...

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """Keep ``data`` for ``ttl_s`` seconds, in place of what was there.

        Raises:
            WeftError: DEPENDENCY_UNAVAILABLE.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Keeping:
    """Answers in a store. One object serves all models of a process."""

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        *,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep answers for ``ttl_s`` seconds; ``on_failure`` is called each time that the store fails."""
        self._store, self._ttl_s = store, ttl_s
        self._on_failure, self._clock = on_failure, clock
        self._failing = False
        self._rests_until_s = self._logs_after_s = float("-inf")

    async def get(self, key: str) -> Answer | None:
        """The answer that is kept under ``key``, if there is one and it can be had."""
        if not self._may_ask():
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                data = await self._store.get(key)
            self._succeeded()
            return None if data is None else answers.from_bytes(data)
        except (WeftError, TimeoutError) as err:
            self._failed(err)
        except ValueError as err:
            self._say("an answer in the cache can't be read and is passed over: %s", err)
        return None

    async def put(self, key: str, answer: Answer) -> None:
        """Keep an answer, if that can be done."""
        data = answers.to_bytes(answer)
        if len(data) > answers.MAX_BYTES or not self._may_ask():
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._store.put(key, data, self._ttl_s)
            self._succeeded()
        except (WeftError, TimeoutError) as err:
            self._failed(err)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    def _may_ask(self) -> bool:
        now_s = self._clock()
        if now_s < self._rests_until_s:
            return False
        if self._failing:
            self._rests_until_s = now_s + REST_S  # one tries
        return True

    def _succeeded(self) -> None:
        if self._failing:
            self._failing = False
            self._rests_until_s = float("-inf")
            _log.info("the cache of answers answers again")

    def _failed(self, err: Exception) -> None:
        self._failing = True
        self._rests_until_s = self._clock() + REST_S
        self._on_failure()
        why = err.message if isinstance(err, WeftError) else f"it did not answer within {PATIENCE_S} s"
        self._say("the cache of answers is away, models answer everything: %s", why)

    def _say(self, message: str, why: object) -> None:
        if self._clock() >= self._logs_after_s:
            self._logs_after_s = self._clock() + LOG_EVERY_S
            _log.warning(message, why)

"""`redis://[user:password@]host[:port][/database]`, or `rediss://`, counts where all replicas count.

**When Redis is away** answers go on: each replica counts by itself, with the same limits, from nothing. So for as long
as that lasts a tenant may use as much on each replica as otherwise on all together, and what budgets had counted is not
known. It is logged once and counted (`weft_generator_limits_unshared_total`). Redis is asked again once a second, by
one request; no other waits for it. What was counted meanwhile is forgotten when it is back. What was being counted when
it fell silent may stay counted there: nobody can know.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mesh.plugins import Url
from services.generator.admission.counters import Counters
from weft.errors import WeftError

TIMEOUT_S: Final = 0.25
ASK_AGAIN_S: Final = 1.0
MAX_CONNECTIONS: Final = 16

_log = logging.getLogger(__name__)
T = TypeVar("T")


def open(url: Url, unshared: Callable[[], None]) -> Redis:
    """Open it. It need not be there yet."""
    return Redis(url, unshared)


class Redis:
    """Counts in a Redis; in this process while that is away."""

    def __init__(self, url: Url, unshared: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._shown = str(url)
        self._pool = BlockingConnectionPool.from_url(
            url.raw,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        options: dict[str, Any] = {"connection_pool": self._pool}
        self._shared = Counters(
            RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", **options)
        )
        self._own = Counters(MemoryStorage())
        self._unshared = unshared
        self._clock = clock
        self._ask_again_s = 0.0
        self._away = False

    async def run(self, work: Callable[[Counters], Awaitable[T]]) -> T:
        """Do `work` where all count; where that fails, once more in this process."""
        if not self._away or self._clock() >= self._ask_again_s:
            self._ask_again_s = self._clock() + ASK_AGAIN_S  # others don't wait for how this one fares
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    result = await work(self._shared)
            except (StorageError, OSError, TimeoutError) as exc:
                self._lost(exc)
            except WeftError:
                self._found()  # it answered: no
                raise
            else:
                self._found()
                return result
        self._unshared()
        return await work(self._own)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    def _lost(self, exc: Exception) -> None:
        if not self._away:
            self._away = True
            cause = exc.storage_error if isinstance(exc, StorageError) else exc
            _log.warning("limits are not shared, this replica counts by itself: %s is away: %r", self._shown, cause)

    def _found(self) -> None:
        if self._away:
            self._away = False
            _log.warning("limits are shared again: %s is back", self._shown)

"""`redis://[user:password@]host[:port][/database]` keeps answers where all replicas find them.

A key is `weft:answer:TENANT:HASH`, so an operator can forget one tenant's answers by that beginning. Redis forgets
each when its time is over. How much it holds in all is Redis's own setting: `maxmemory`, with the policy
`allkeys-lru` or `volatile-lru`. One command to look, one to keep; connections are opened when they are needed, and
a command that fails is not repeated: the answer is then made anew, which is what a cache is allowed to cost.
"""

from __future__ import annotations

from typing import Final

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mesh.plugins import Url
from weft.errors import Reason, WeftError, error

PREFIX: Final = "weft:answer:"
_PORT: Final = 6379
_TIMEOUT_S: Final = 0.2
_MAX_CONNECTIONS: Final = 32


def open(url: Url) -> Redis:
    """Open the store that the URL describes; it need not be there yet."""
    database = url.path.removeprefix("/") or "0"
    if not url.host or url.query or not (database.isascii() and database.isdigit() and len(database) <= 5):
        raise error(
            Reason.INVALID_FIELD, f"{url}: expected redis://[user:password@]host[:port][/database], no parameters"
        )
    return Redis(url, int(database))


class Redis:
    """Answers in a Redis server."""

    def __init__(self, url: Url, database: int) -> None:
        self._place = f"{url.host}:{url.port or _PORT}"
        self._client = redis.Redis(
            connection_pool=redis.BlockingConnectionPool(
                host=url.host,
                port=url.port or _PORT,
                db=database,
                username=url.username or None,
                password=url.password or None,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                max_connections=_MAX_CONNECTIONS,
                timeout=_TIMEOUT_S,
            )
        )

    async def get(self, key: str) -> bytes | None:
        """See the port."""
        try:
            found = await self._client.get(PREFIX + key)
        except (RedisError, OSError) as exc:
            raise self._away(exc) from exc
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See the port."""
        try:
            await self._client.set(PREFIX + key, data, px=max(1, round(ttl_s * 1_000)))
        except (RedisError, OSError) as exc:
            raise self._away(exc) from exc

    async def close(self) -> None:
        """See the port."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _away(self, exc: Exception) -> WeftError:
        return error(
            Reason.DEPENDENCY_UNAVAILABLE,
            f"Redis at {self._place} failed: {type(exc).__name__}: {exc}",
            address=self._place,
            problem=type(exc).__name__,
        )

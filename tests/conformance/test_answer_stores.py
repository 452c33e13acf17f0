"""What every store of answers does. A backend joins by adding an opener to ``BACKENDS``."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from mesh import plugins
from mesh.plugins import Url
from services.generator.caching.keeping import Store
from services.generator.caching.stores import redis
from services.generator.settings import CACHES
from tests.support.redis import RedisServer, redis_server

__all__ = ["redis_server"]

_DATABASES = itertools.count(1)


def memory_url(_request: pytest.FixtureRequest) -> str:
    return "memory:?max_bytes=1000000"


def redis_url(request: pytest.FixtureRequest) -> str:
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url(next(_DATABASES))


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], str]] = {"memory": memory_url, "redis": redis_url}


def open_store(raw: str) -> Store:
    url = Url.parse(raw)
    store: Store = plugins.load(CACHES, url).open(url)
    return store


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(redis, "_TIMEOUT_S", 10.0)  # on a busy machine it would take what is slow for a miss
    opened = open_store(BACKENDS[request.param](request))
    yield opened
    await opened.close()


def test_every_store_is_tested_here() -> None:
    assert sorted(BACKENDS) == plugins.available(CACHES)


async def test_what_was_put_is_got_byte_for_byte(store: Store) -> None:
    data = bytes(range(256)) * 100
    await store.put("acme:1", data, 60)
    await store.put("acme:2", b"", 60)
    assert await store.get("acme:1") == data
    assert await store.get("acme:2") == b""


async def test_a_key_that_nothing_is_under_has_nothing(store: Store) -> None:
    await store.put("acme:1", b"a", 60)
    for key in ("acme:2", "other:1", "acme:", "acme:1 ", "acme:*", "a" * 10_000):
        assert await store.get(key) is None


async def test_what_is_put_again_takes_the_place_of_what_was_there(store: Store) -> None:
    await store.put("acme:1", b"old", 60)
    await store.put("acme:1", b"new", 60)
    assert await store.get("acme:1") == b"new"


async def test_what_is_put_is_forgotten_after_its_time_and_not_before(store: Store) -> None:
    await store.put("acme:short", b"a", 0.3)
    await store.put("acme:long", b"b", 600)
    await asyncio.sleep(0.5)
    assert await store.get("acme:short") is None
    assert await store.get("acme:long") == b"b"


async def test_putting_again_renews_the_time(store: Store) -> None:
    await store.put("acme:1", b"a", 0.2)
    await store.put("acme:1", b"a", 600)
    await asyncio.sleep(0.4)
    assert await store.get("acme:1") == b"a"


async def test_many_at_once_do_not_mix(store: Store) -> None:
    await asyncio.gather(*(store.put(f"acme:{n}", str(n).encode(), 60) for n in range(200)))
    found = await asyncio.gather(*(store.get(f"acme:{n}") for n in range(200)))
    assert found == [str(n).encode() for n in range(200)]


async def test_a_large_answer_is_kept_whole(store: Store) -> None:
    await store.put("acme:1", b"x" * 500_000, 60)
    assert await store.get("acme:1") == b"x" * 500_000

"""What is peculiar to each store of answers: the room of the one, the failures of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from mesh.plugins import Url
from mesh.settings import load
from services.generator.caching import keeping
from services.generator.caching.answers import Answer
from services.generator.caching.keeping import Keeping
from services.generator.caching.stores import memory, redis
from services.generator.caching.stores.memory import Memory
from services.generator.settings import Settings
from services.generator.types import Piece
from tests.support.redis import RedisServer, redis_server
from tests.support.told import END, PROMPT
from weft.errors import InvalidArgument, Unavailable, WeftError

__all__ = ["redis_server"]

ANSWER = Answer(PROMPT, (Piece("Weft weaves.", (7, 8)),), END)


async def test_memory_holds_no_more_than_its_room_and_lets_go_of_what_was_used_longest_ago() -> None:
    store = Memory(100_000)
    for number in range(100):
        await store.put(f"acme:{number}", b"x" * 4_000, 60)
        await store.get("acme:0")
        assert store.size_bytes <= 100_000
    kept = [number for number in range(100) if await store.get(f"acme:{number}") is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(100 - len(kept) + 1, 100))
    assert len(kept) == 23


async def test_memory_does_not_clear_itself_for_what_is_larger_than_all_of_it() -> None:
    store = Memory(100_000)
    await store.put("acme:1", b"x", 60)
    await store.put("acme:2", b"x" * 100_000, 60)
    assert await store.get("acme:1") == b"x"
    await store.put("acme:1", b"x" * 100_000, 60)  # nor keeps what it took the place of
    assert await store.get("acme:1") is None
    assert store.size_bytes == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memory:?max_bytes=1", "max_bytes is '1'; allowed is 65536 to"),
        ("memory:?max_bytes=1e9", "max_bytes is '1e9'"),
        ("memory:?size=9", "takes max_bytes alone"),
        ("memory://host", "takes max_bytes alone"),
        ("redis:", "expected redis://"),
        ("redis://host/name", "expected redis://"),
        ("redis://user:secret@host?ssl=yes", "expected redis://"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str, problem: str) -> None:
    parsed = Url.parse(url)
    with pytest.raises(InvalidArgument) as caught:
        (memory if parsed.scheme == "memory" else redis).open(parsed)
    assert problem in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CACHE", "nosuch:", "nosuch: is no kind of cache here; there are: memory, redis"),
        ("CACHE", "memory", "not a URL"),
        ("CACHE_TTL_S", "0", "greater than 0"),
        ("CACHE_TTL_S", "9999999", "less than or equal"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(f"WEFT_GENERATOR__{name}", value)
    with pytest.raises(WeftError, match=f"WEFT_GENERATOR__{name}") as caught:
        load(Settings)
    assert problem in caught.value.message


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[redis.Redis]:
    opened = redis.open(Url.parse(redis_server.url(9)))
    yield opened
    await opened.close()


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Stuck:
    """A store that hangs until it is told to answer."""

    def __init__(self) -> None:
        self.asked, self.answers = 0, False

    async def get(self, key: str) -> bytes | None:
        self.asked += 1
        if not self.answers:
            await asyncio.Event().wait()
        return None

    async def put(self, key: str, data: bytes, ttl_s: float) -> None: ...

    async def close(self) -> None: ...


class Failures:
    count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_redis_that_is_down_is_a_miss_said_once_and_found_again(
    redis_server: RedisServer, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "REST_S", 0.0)
    failures = Failures()
    kept = Keeping(store, 60, on_failure=failures)
    await kept.put("acme:1", ANSWER)
    assert await kept.get("acme:1") == ANSWER
    redis_server.kill()
    for _ in range(5):
        assert await kept.get("acme:1") is None
        await kept.put("acme:1", ANSWER)
    assert failures.count == 10
    assert len([record for record in caplog.records if "is away" in record.message]) == 1
    redis_server.start()
    assert await kept.get("acme:1") is None  # it has forgotten
    await kept.put("acme:1", ANSWER)
    assert await kept.get("acme:1") == ANSWER


async def test_redis_that_hangs_costs_one_short_wait_and_mixes_nothing_up_later(
    redis_server: RedisServer, store: redis.Redis
) -> None:
    failures = Failures()
    kept = Keeping(store, 60, on_failure=failures)
    others = [Answer(PROMPT, (Piece(f"answer {n}", (n,)),), END) for n in range(20)]
    for n, answer in enumerate(others):
        await kept.put(f"acme:{n}", answer)
    redis_server.pause()
    try:
        begin_s = time.monotonic()
        assert await asyncio.gather(*(kept.get(f"acme:{n}") for n in range(20))) == [None] * 20
        assert time.monotonic() - begin_s < 10 * keeping.PATIENCE_S
        begin_s, before = time.monotonic(), failures.count
        for _ in range(1_000):  # left alone: nobody waits again
            await kept.get("acme:1")
        assert failures.count - before <= 1 + (time.monotonic() - begin_s) / keeping.REST_S
    finally:
        redis_server.resume()
    async with asyncio.timeout(20):
        for n, answer in enumerate(others):
            while (found := await kept.get(f"acme:{n}")) is None:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.1)
            assert found == answer


async def test_while_a_store_is_away_one_tries_it_and_nobody_else_waits() -> None:
    clock = Clock()
    store = Stuck()
    kept = Keeping(store, 60, clock=clock)
    assert await kept.get("acme:1") is None
    assert await asyncio.gather(*(kept.get("acme:1") for _ in range(50))) == [None] * 50
    assert store.asked == 1
    clock.now_s += keeping.REST_S
    assert await asyncio.gather(*(kept.get("acme:1") for _ in range(50))) == [None] * 50
    assert store.asked == 2
    clock.now_s += keeping.REST_S
    store.answers = True
    await kept.get("acme:1")
    await asyncio.gather(*(kept.get("acme:1") for _ in range(50)))
    assert store.asked == 53


async def test_redis_that_refuses_the_password_is_away_and_the_password_is_not_told(redis_server: RedisServer) -> None:
    store = redis.open(Url.parse(f"redis://nobody:wrong@127.0.0.1:{redis_server.port}"))
    with pytest.raises(Unavailable) as caught:
        await store.get("acme:1")
    assert "wrong" not in caught.value.message
    await store.close()

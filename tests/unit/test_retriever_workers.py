"""Pools of threads: bounded, and one behind the other."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from services.retriever import workers as module
from services.retriever.workers import MAX_HELD_QUEUED_S, MAX_HELD_S, Workers
from weft.errors import Reason, WeftError


@pytest.fixture
def before() -> Iterator[Workers]:
    pool = Workers("search", 2, 100)
    yield pool
    pool.close()


@pytest.fixture
def behind(before: Workers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    pool = Workers("ingest", 1, 10, behind=before)
    yield pool
    pool.close()


async def test_work_that_finds_no_room_to_wait_is_refused() -> None:
    pool, let = Workers("small", 1, 1), threading.Event()
    calls = [asyncio.create_task(pool.run(let.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(WeftError) as refused:
        await pool.run(let.wait, 10)
    assert refused.value.reason == Reason.OVERLOADED
    let.set()
    assert await asyncio.gather(*calls) == [True, True]
    pool.close()


async def test_work_behind_searches_waits_for_them_and_goes_on_when_they_are_done(
    before: Workers, behind: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HELD_S", 30.0)
    let = threading.Event()
    search = asyncio.create_task(before.run(let.wait, 10))
    await asyncio.sleep(0)
    step = asyncio.create_task(behind.run(behind.give_way))
    await asyncio.sleep(0.1)
    assert not step.done()
    let.set()
    await asyncio.wait_for(asyncio.gather(search, step), 10)


@pytest.mark.parametrize(("searches", "held_s"), [(1, MAX_HELD_S), (3, MAX_HELD_QUEUED_S)], ids=["run", "queue"])
async def test_searches_without_a_pause_do_not_keep_documents_out(
    before: Workers, behind: Workers, searches: int, held_s: float
) -> None:
    let = threading.Event()
    calls = [asyncio.create_task(before.run(let.wait, 30)) for _ in range(searches)]
    await asyncio.sleep(0)
    began_s = time.monotonic()
    await asyncio.wait_for(behind.run(behind.give_way), 10)
    assert time.monotonic() - began_s >= held_s
    assert not any(call.done() for call in calls)
    let.set()
    await asyncio.gather(*calls)


async def test_nothing_is_held_back_where_processors_are_left(before: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(module, "MAX_HELD_S", 30.0)
    pool, let = Workers("ingest", 4, 10, behind=before), threading.Event()
    searches = [asyncio.create_task(before.run(let.wait, 10)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.wait_for(pool.run(pool.give_way), 10)
    let.set()
    await asyncio.gather(*searches)
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_the_threads_behind_have_a_lower_priority_and_no_others_have(before: Workers, behind: Workers) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    here = niceness()
    assert await before.run(niceness) == here
    assert await behind.run(niceness) > here
    assert niceness() == here

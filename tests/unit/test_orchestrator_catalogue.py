"""How often the tools service is asked what tools there are."""

from __future__ import annotations

import asyncio

import pytest

from services.orchestrator.catalogue import Catalogue
from services.orchestrator.types import ToolSpec
from weft.errors import Reason, WeftError, error

DOWN = error(Reason.DEPENDENCY_UNAVAILABLE, "connection refused")


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Listing:
    """A tools service that lists what it was told to."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ("calculator",)
        self.failure: WeftError | None = None
        self.hold: asyncio.Event | None = None
        self.asked = 0

    async def specs(self) -> tuple[ToolSpec, ...]:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        return tuple(map(ToolSpec, self.names))

    async def call(self, *_: object, **__: object) -> None:  # type: ignore[override]
        raise AssertionError("a catalogue calls no tool")


def catalogue(listing: Listing, clock: Clock, *, starting_s: float = 0.0, **times: float) -> Catalogue:
    return Catalogue(listing, clock=clock, starting_s=starting_s, **times)


async def names(found: Catalogue) -> list[str]:
    return [spec.name for spec in await found.specs()]


async def test_a_young_list_is_taken_as_it_is() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock)
    await found.specs()
    clock.now_s += 14
    await found.specs()
    assert listing.asked == 1


async def test_many_turns_at_once_ask_once() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock)
    await asyncio.gather(*(found.specs() for _ in range(20)))
    assert listing.asked == 1


async def test_an_older_list_is_used_while_it_is_fetched_again() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock)
    await found.specs()
    clock.now_s += 20
    listing.names, listing.hold = ("units",), asyncio.Event()
    assert await names(found) == ["calculator"]  # and doesn't wait
    listing.hold.set()
    await asyncio.sleep(0.01)
    assert await names(found) == ["units"]


async def test_a_service_that_is_down_leaves_the_old_list_in_use() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock)
    await found.specs()
    listing.failure = DOWN
    for _ in range(10):
        clock.now_s += 20
        assert await names(found) == ["calculator"]
        await asyncio.sleep(0)


async def test_without_any_list_the_failure_is_told_and_not_sought_again_at_once() -> None:
    listing, clock = Listing(), Clock()
    listing.failure = DOWN
    found = catalogue(listing, clock)
    for _ in range(5):
        with pytest.raises(WeftError) as caught:
            await found.specs()
        assert caught.value is DOWN
    assert listing.asked == 1
    clock.now_s += 0.25  # it failed at once: seen at once when it is back
    listing.failure = None
    assert await names(found) == ["calculator"]


async def test_a_failure_that_took_long_is_not_waited_for_again_for_as_long() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock)
    listing.hold, listing.failure = asyncio.Event(), DOWN
    asking = asyncio.create_task(found.specs())
    await asyncio.sleep(0.01)
    clock.now_s += 1.5
    listing.hold.set()
    for later_s, asked in ((1.4, 1), (0.2, 2)):
        with pytest.raises(WeftError):
            await asking
        clock.now_s += later_s
        with pytest.raises(WeftError):
            await found.specs()
        assert listing.asked == asked


async def test_while_the_mesh_comes_up_a_failure_is_not_held_against_the_service_however_long_it_took() -> None:
    listing, clock = Listing(), Clock()
    found = catalogue(listing, clock, starting_s=30.0)
    listing.hold, listing.failure = asyncio.Event(), DOWN
    asking = asyncio.create_task(found.specs())
    await asyncio.sleep(0.01)
    clock.now_s += 2.0
    listing.hold.set()
    with pytest.raises(WeftError):
        await asking
    clock.now_s += 0.25
    listing.failure = None
    assert await names(found) == ["calculator"]


async def test_a_service_that_hangs_is_given_up_within_its_own_time() -> None:
    listing, clock = Listing(), Clock()
    listing.hold = asyncio.Event()
    found = catalogue(listing, clock, timeout_s=0.05)
    with pytest.raises(WeftError) as caught:
        await found.specs()
    assert caught.value.reason == Reason.DEPENDENCY_UNAVAILABLE


async def test_a_turn_that_leaves_does_not_stop_the_fetch_for_others() -> None:
    listing, clock = Listing(), Clock()
    listing.hold = asyncio.Event()
    found = catalogue(listing, clock)
    leaving, staying = asyncio.create_task(found.specs()), asyncio.create_task(found.specs())
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0)
    listing.hold.set()
    assert [spec.name for spec in await staying] == ["calculator"]
    assert listing.asked == 1
    await found.close()

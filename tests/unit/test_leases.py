"""The built-in registry's leases: counted in ticks, read back after a restart, never parted from the file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.controlplane.leases import LeaseRegistry, open_leases
from mesh.controlplane.store import MAX_DEPARTURES, Store
from mesh.registry import Catalogue, Instance
from weft.errors import DataLoss, NotFound, Unavailable

NEVER_S = 10_000.0  # the tests tick themselves
TICKS_OF_A_LEASE = 6
TICKS_OF_A_RESTORED_LEASE = 7  # and what 3 s are in ticks


def instance(name: str, **fields: object) -> Instance:
    return Instance(service="retriever", id=name, host="127.0.0.1", port=50051, **fields)  # type: ignore[arg-type]


async def now(registry: LeaseRegistry) -> Catalogue:
    async with contextlib.aclosing(registry.watch()) as catalogues:
        return await anext(catalogues)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[LeaseRegistry]:
    async with open_leases(directory, NEVER_S) as registry:
        yield registry


async def ids(registry: LeaseRegistry) -> list[str]:
    return [found.id for found in (await now(registry)).instances]


async def test_a_lease_lasts_a_ttl_of_ticks_and_a_renewal_begins_it_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("renewed"))
        await registry.grant(instance("silent"))
        for _ in range(TICKS_OF_A_LEASE - 1):
            await registry.tick()
            registry.renew("retriever", "renewed")
        assert await ids(registry) == ["renewed", "silent"]
        await registry.tick()
        assert await ids(registry) == ["renewed"]
        assert not (await now(registry)).deregistered


async def test_a_lease_that_ran_out_asks_for_registering_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("one"))
        for _ in range(TICKS_OF_A_LEASE):
            await registry.tick()
        with pytest.raises(NotFound) as gone:
            registry.renew("retriever", "one")
        assert gone.value.reason == "LEASE_NOT_FOUND"


async def test_a_pause_however_long_is_one_tick(tmp_path: Path) -> None:
    async with open_leases(tmp_path, ttl_s=0.25) as registry:
        await registry.grant(instance("one"))
        blocked_s = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < blocked_s:
            pass  # four TTLs in which this process's loop stands still, as when it is stopped
        await asyncio.sleep(0.06)
        assert await ids(registry) == ["one"]


async def test_an_empty_store_is_warm_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        assert (await now(registry)).warm


async def test_a_restart_reads_everything_back_and_is_warm_once_all_have_renewed(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("one", version="v2", zone="a", tags=("x",)))
        await registry.grant(instance("two"))
        await registry.grant(instance("left"))
        await registry.release("retriever", "left")
        policy = await registry.put_policy("retriever", "{}", revision=0)
        before = await now(registry)
    async with opened(tmp_path) as registry:
        after = await now(registry)
        assert after.instances == before.instances
        assert after.policies == (policy,)
        assert after.deregistered == {"left"}
        assert after.index == before.index
        assert not after.warm
        registry.renew("retriever", "one")
        assert not (await now(registry)).warm
        await registry.grant(instance("two"))
        assert (await now(registry)).warm


async def test_a_restart_is_warm_after_a_ttl_without_those_who_are_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("alive"))
        await registry.grant(instance("dead"))
    async with opened(tmp_path) as registry:
        for _ in range(TICKS_OF_A_RESTORED_LEASE):
            assert not (await now(registry)).warm
            registry.renew("retriever", "alive")
            await registry.tick()
        after = await now(registry)
        assert after.warm
        assert [found.id for found in after.instances] == ["alive"]
    async with opened(tmp_path) as registry:
        assert await ids(registry) == ["alive"]


async def test_registering_the_same_record_again_is_no_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("one"))
        index = (await now(registry)).index
        await registry.grant(instance("one"))
        assert (await now(registry)).index == index
        await registry.grant(instance("one", version="v2"))
        assert (await now(registry)).index == index + 1


async def test_a_caller_that_goes_away_parts_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        put = asyncio.create_task(registry.put_policy("retriever", "{}", revision=0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        await registry.close()
        (policy,) = await registry.policies()
    async with opened(tmp_path) as registry:
        assert await registry.policies() == (policy,)


async def test_departures_are_remembered_up_to_a_bound(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        for number in range(12):
            await registry.grant(instance(f"i{number}"))
            await registry.release("retriever", f"i{number}")
        assert len((await now(registry)).deregistered) == 12
    many = [("retriever", f"j{number}") for number in range(MAX_DEPARTURES)]
    store = Store(tmp_path)
    store.drop_instances(many, departed=True)
    assert set(store.read().departures) == {name for _, name in many}
    store.close()


async def test_lost_writes_keep_the_index_growing(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("one"))
        await registry.grant(instance("two"))
        index = (await now(registry)).index
        locker = sqlite3.connect(tmp_path / "mesh.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for _ in range(TICKS_OF_A_LEASE):
            registry.renew("retriever", "two")
            await registry.tick()
        assert await ids(registry) == ["two"], "who is gone is gone, also where that can't be written down"
        assert (await now(registry)).index == index + 1
        locker.close()
        await registry.grant(instance("three"))
        assert (await now(registry)).index == index + 2


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
async def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mesh.db").write_bytes(content)
    with pytest.raises(DataLoss) as damaged:
        async with opened(tmp_path):
            pass
    assert damaged.value.reason == "STORE_CORRUPT"
    assert str(tmp_path / "mesh.db") in damaged.value.message
    assert "move it away" in damaged.value.message


async def test_a_record_that_is_none_is_damage_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as registry:
        await registry.grant(instance("one"))
    with contextlib.closing(sqlite3.connect(tmp_path / "mesh.db")) as database, database:
        database.execute("UPDATE instances SET record = '[]'")
    with pytest.raises(DataLoss):
        async with opened(tmp_path):
            pass


async def test_a_second_control_plane_on_one_directory_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(Unavailable) as taken:
            async with opened(tmp_path):
                pass
        assert str(tmp_path) in taken.value.message
        assert taken.value.metadata["pid"].isdigit()
    async with opened(tmp_path):
        pass

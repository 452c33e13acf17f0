"""What every registry backend does, the built-in one and a real Consul agent alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh import plugins
from mesh.plugins import Url
from mesh.registry import Method
from mesh.settings import ServiceSettings
from tests.support.consul import ConsulAgent
from tests.support.registries import (
    BACK_S,
    Backend,
    Builtin,
    Consul,
    Watcher,
    live,
    process,
    store_away,
    watching,
)
from weft.errors import Aborted, InvalidArgument, Unavailable


@pytest.fixture(params=["builtin", pytest.param("consul", marks=pytest.mark.consul)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    found = Builtin(tmp_path) if request.param == "builtin" else Consul(tmp_path)
    await found.start()
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Consul]:
    found = Consul(tmp_path)
    await found.start()
    try:
        yield found
    finally:
        await found.close()


async def test_a_registered_instance_appears_with_its_whole_record(backend: Backend) -> None:
    fields = {"version": "v2", "zone": "a", "tags": ("gpu", "fast"), "metrics_port": 9102}
    async with watching(backend) as watcher, process("one", **fields) as one:
        await backend.announcer().register(one.instance)
        seen = await watcher.until(lambda c: live(c) == {"one"}, within_s=backend.seen_s, what="one")
        assert seen.instances == (one.instance,)
        assert not seen.deregistered


async def test_a_deregistered_instance_vanishes_at_once_and_its_wish_is_known(backend: Backend) -> None:
    async with watching(backend) as watcher, process("one") as one, process("two") as two:
        announcer = backend.announcer()
        registration = await announcer.register(one.instance)
        await announcer.register(two.instance)
        await watcher.until(lambda c: live(c) == {"one", "two"}, within_s=backend.seen_s, what="both")
        await registration.deregister()
        seen = await watcher.until(lambda c: live(c) == {"two"}, within_s=backend.seen_s, what="two alone")
        assert {i.id for i in seen.instances} == {"two"}
        assert seen.deregistered == {"one"}
        await registration.deregister()  # once more changes nothing
        assert live(watcher.seen[-1]) == {"two"}


async def test_one_that_left_and_registers_again_is_no_longer_gone(backend: Backend) -> None:
    async with watching(backend) as watcher, process("one") as one:
        await (await backend.announcer().register(one.instance)).deregister()
        await watcher.until(lambda c: c.deregistered == {"one"}, within_s=backend.seen_s, what="its wish")
        await backend.announcer().register(one.instance)
        seen = await watcher.until(lambda c: live(c) == {"one"}, within_s=backend.seen_s, what="one again")
        assert not seen.deregistered


async def test_an_instance_that_died_leaves_and_that_is_no_wish(backend: Backend) -> None:
    async with watching(backend) as watcher, process("one") as one, process("two") as two:
        registration = await backend.announcer().register(one.instance)
        await backend.announcer().register(two.instance)
        await watcher.until(lambda c: live(c) == {"one", "two"}, within_s=backend.seen_s, what="both")
        await registration.close()
        await one.die()
        seen = await watcher.until(lambda c: live(c) == {"two"}, within_s=backend.gone_s, what="two alone")
        assert not seen.deregistered


async def test_a_living_instance_stays(backend: Backend) -> None:
    async with watching(backend) as watcher, process("one") as one:
        await backend.announcer().register(one.instance)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=backend.seen_s, what="one")
        before = len(watcher.seen)
        await asyncio.sleep(3.5)  # three of the built-in registry's leases, three of Consul's checks
        assert all(live(catalogue) == {"one"} for catalogue in watcher.seen[before:])


async def test_all_register_again_by_themselves_with_a_registry_that_came_back_empty(backend: Backend) -> None:
    async with AsyncExitStack() as stack:
        for name in ("one", "two", "three"):
            made = await stack.enter_async_context(process(name))
            await backend.announcer().register(made.instance)
        await backend.kill()
        await asyncio.sleep(1)
        await backend.start()
        started_s = time.monotonic()
        watcher = await stack.enter_async_context(watching(backend))
        await watcher.until(lambda c: live(c) == {"one", "two", "three"}, within_s=BACK_S, what="all three")
        assert time.monotonic() - started_s <= BACK_S


async def test_an_instance_may_be_there_before_the_registry_is(backend: Backend) -> None:
    await backend.kill()
    async with process("one") as one:
        started_s = time.monotonic()
        await backend.announcer().register(one.instance)
        assert time.monotonic() - started_s < 5, "registering waits for a registry that is away"
        await backend.start()
        async with watching(backend) as watcher:
            await watcher.until(lambda c: live(c) == {"one"}, within_s=BACK_S, what="one")


async def test_leaving_doesnt_wait_for_a_registry_that_is_away(backend: Backend) -> None:
    async with process("one") as one:
        registration = await backend.announcer().register(one.instance)
        await backend.kill()
        started_s = time.monotonic()
        await registration.deregister()
        assert time.monotonic() - started_s < 2.5


async def test_the_index_grows_with_each_change(backend: Backend) -> None:
    registry = await backend.registry()
    async with watching(backend) as watcher, process("one") as one:
        await registry.put_policy("retriever", "{}", revision=0)
        await watcher.until(lambda c: len(c.policies) == 1, within_s=backend.seen_s, what="the policy")
        registration = await backend.announcer().register(one.instance)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=backend.seen_s, what="one")
        await registration.deregister()
        await watcher.until(lambda c: not live(c), within_s=backend.seen_s, what="nobody")
        indexes = [catalogue.index for catalogue in watcher.seen]
        assert indexes == sorted(indexes)
        assert indexes[-1] >= indexes[0] + 3


async def test_a_policy_is_stored_by_compare_and_set(backend: Backend) -> None:
    registry = await backend.registry()
    first = await registry.put_policy("retriever", '{"weights": {"v1": 100}}', revision=0)
    assert await registry.policies() == (first,)
    with pytest.raises(Aborted) as created_twice:
        await registry.put_policy("retriever", "{}", revision=0)
    assert created_twice.value.reason == "POLICY_CONFLICT"
    second = await registry.put_policy("retriever", '{"weights": {"v2": 100}}', revision=first.revision)
    assert second.revision > first.revision
    with pytest.raises(Aborted):
        await registry.put_policy("retriever", "{}", revision=first.revision)
    assert await registry.policies() == (second,)
    forced = await registry.put_policy("retriever", "{}", revision=None)
    assert await registry.policies() == (forced,)


async def test_of_two_who_write_from_one_reading_one_wins(backend: Backend) -> None:
    registry = await backend.registry()
    read = await registry.put_policy("retriever", "{}", revision=0)
    writes = [registry.put_policy("retriever", f'{{"n": {n}}}', revision=read.revision) for n in range(5)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(outcome, Aborted) for outcome in outcomes if outcome not in winners)
    assert await registry.policies() == (winners[0],)


async def test_a_deleted_policy_is_gone_and_may_be_created_again(backend: Backend) -> None:
    registry = await backend.registry()
    async with watching(backend) as watcher:
        first = await registry.put_policy("retriever", "{}", revision=0)
        await watcher.until(lambda c: c.policies == (first,), within_s=backend.seen_s, what="the policy")
        await registry.delete_policy("retriever")
        await registry.delete_policy("retriever")
        await watcher.until(lambda c: not c.policies, within_s=backend.seen_s, what="no policy")
        again = await registry.put_policy("retriever", "{}", revision=0)
        assert again.revision > first.revision


async def test_a_document_that_is_no_policy_is_kept_as_it_is(backend: Backend) -> None:
    registry = await backend.registry()
    async with watching(backend) as watcher:
        document = "not JSON — 规则"
        stored = await registry.put_policy("retriever", document, revision=None)
        seen = await watcher.until(lambda c: bool(c.policies), within_s=backend.seen_s, what="the document")
        assert seen.policies == (stored,)
        assert stored.document == document


async def test_a_record_out_of_bounds_is_refused(backend: Backend) -> None:
    async with watching(backend) as watcher, process("one") as one:
        for wrong in ({"service": "No Name"}, {"id": "a/b"}, {"port": 0}, {"version": "?"}, {"host": ""}):
            with pytest.raises(InvalidArgument) as refused:
                await backend.announcer().register(replace(one.instance, **wrong))
            assert refused.value.field == f"instance.{next(iter(wrong))}"
        assert not watcher.seen[-1].instances


async def test_a_store_that_is_away_is_said_to_be(backend: Backend) -> None:
    registry = await backend.registry()
    await registry.put_policy("retriever", "{}", revision=0)
    async with store_away(backend):
        with pytest.raises(Unavailable) as away:
            await registry.put_policy("retriever", '{"weights": {"v1": 100}}', revision=None)
        assert away.value.reason == "REGISTRY_UNAVAILABLE"
        with pytest.raises(Unavailable):
            await registry.delete_policy("retriever")
        assert not registry.available


@pytest.mark.consul
async def test_an_emptied_consul_is_a_new_registry_to_a_watcher_that_stayed(agent: Consul) -> None:
    async with watching(agent) as watcher, process("one") as one:
        registry = await agent.registry()
        await agent.announcer().register(one.instance)
        await registry.put_policy("retriever", "{}", revision=0)
        before = await watcher.until(lambda c: bool(live(c) and c.policies), within_s=30, what="one and a policy")
        await agent.kill()
        await asyncio.sleep(0.5)
        said = len(watcher.seen)
        await agent.start()
        await watcher.until(lambda c: c.index < before.index, within_s=10, what="an index that ran backwards")
        after = await watcher.until(lambda c: c.warm and live(c) == {"one"}, within_s=BACK_S, what="one again")
        assert not after.policies
        assert not watcher.seen[said].warm
        indexes = [catalogue.index for catalogue in watcher.seen[said:]]
        assert indexes == sorted(indexes)


@pytest.mark.consul
async def test_an_instance_that_says_not_serving_is_failing_and_comes_back(agent: Consul) -> None:
    async with watching(agent) as watcher, process("one") as one:
        await agent.announcer().register(one.instance)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=agent.seen_s, what="one")
        await one.set_serving(False)
        await watcher.until(lambda c: c.failing == {"one"}, within_s=30, what="one failing")
        await one.set_serving(True)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=30, what="one again")


@pytest.mark.consul
async def test_two_meshes_share_a_consul_by_their_prefixes(agent: Consul) -> None:
    async with watching(agent) as watcher, process("ours") as ours, process("theirs") as theirs:
        url = Url.parse(f"{agent.url}?prefix=other")
        other = plugins.load("mesh.registry", url).open(url, agent.settings())
        try:
            await other.register(theirs.instance)
            await other.put_policy("retriever", "{}", revision=0)
            await agent.announcer().register(ours.instance)
            await watcher.until(lambda c: live(c) == {"ours"}, within_s=agent.seen_s, what="ours")
            assert all(live(c) <= {"ours"} and not c.policies for c in watcher.seen)
        finally:
            await other.close()


@pytest.mark.consul
async def test_a_method_table_longer_than_a_meta_value_comes_back_whole(agent: Consul) -> None:
    methods = tuple(Method(f"/weft.test.v1.TestService/Method{n:03}", n % 2 == 0) for n in range(200))
    async with watching(agent) as watcher, process("one") as one:
        instance = replace(one.instance, methods=methods)
        await agent.announcer().register(instance)
        seen = await watcher.until(lambda c: bool(c.instances), within_s=agent.seen_s, what="one")
        assert seen.instances == (instance,)


@pytest.mark.consul
async def test_what_others_registered_under_our_name_is_left_out(agent: Consul) -> None:
    registry: Any = await agent.registry()
    async with watching(agent) as watcher, process("one") as one:
        api = registry._client.api
        await api.agent.service.register("weft-retriever", service_id="odd", port=1, meta={"started": "yesterday"})
        await agent.announcer().register(one.instance)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=agent.seen_s, what="one alone")


@pytest.mark.consul
async def test_a_token_opens_what_is_closed_without(tmp_path: Path) -> None:
    token = "6f3a2b0c-1111-4222-8333-944455566677"
    agent = ConsulAgent(tmp_path, token=token)
    async with AsyncExitStack() as stack:
        stack.callback(agent.kill)
        await asyncio.to_thread(agent.start)

        def opened(address: str) -> Any:
            url = Url.parse(address)
            registry = plugins.load("mesh.registry", url).open(url, ServiceSettings())
            stack.push_async_callback(registry.close)
            return registry

        stranger, ours = opened(agent.url), opened(f"{agent.url}?token={token}")
        watcher = Watcher()
        watching_ = asyncio.create_task(watcher.follow(ours))
        stack.callback(watching_.cancel)
        one = await stack.enter_async_context(process("one"))
        await ours.register(one.instance)
        await watcher.until(lambda c: live(c) == {"one"}, within_s=30, what="one")
        with pytest.raises(Unavailable) as denied:
            await stranger.put_policy("retriever", "{}", revision=None)
        assert "Permission denied" in denied.value.message
        assert token not in denied.value.message


@pytest.mark.parametrize("url", ["consul://127.0.0.1:8500?tokn=x", "consul:"])
async def test_a_url_with_an_unknown_option_is_refused(url: str) -> None:
    parsed = Url.parse(url)
    with pytest.raises(InvalidArgument) as refused:
        plugins.load("mesh.registry", parsed).open(parsed, ServiceSettings())
    assert "consul://host:port" in refused.value.message

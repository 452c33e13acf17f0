"""The control plane and gRPC's own xDS client: splits, fallback, retries and pushes as callers see them.

Each caller is a child process, since gRPC reads its xDS bootstrap once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from grpc import aio

from mesh.controlplane.ads import METHOD, SERVICE, AdsServicer
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.policy import HeaderRoute, RoutePolicy, VersionWeight, to_document
from mesh.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, Kind
from mesh.controlplane.routes import INGRESS
from mesh.controlplane.snapshot import State, fold
from mesh.registry import Catalogue, Instance, Method, StoredPolicy
from tests.support.peers import FAIL_FIRST, GET, PUT, SLEEP_MS, peer, start_server
from weft.xds.v1 import discovery_pb2 as pb

METHODS = (Method(GET, True), Method(PUT, False))


class ControlPlane:
    """The pure parts and the ADS server, without a registry."""

    def __init__(self) -> None:
        self.cache = SnapshotCache()
        self.ads = AdsServicer(self.cache)
        self.address = ""
        self._state = State()
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self.ads.handler(),))

    async def start(self, port: int = 0) -> None:
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def show(self, *instances: Instance, policy: RoutePolicy | None = None) -> None:
        policies = (StoredPolicy(policy.service, to_document(policy), 1),) if policy else ()
        deregistered = frozenset(i.id for group in self._state.members.values() for i in group.live)
        catalogue = Catalogue(instances, policies, 1, True, deregistered)
        self._state = fold(self._state, catalogue, 0, ttl_ticks=10)
        assert self._state.snapshot is not None
        self.cache.set(self._state.snapshot)


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    await plane.start()
    yield plane
    await plane.stop()


def instance(name: str, port: int, version: str = "v1", zone: str = "") -> Instance:
    return Instance("shop", name, "127.0.0.1", port, version=version, zone=zone, methods=METHODS)


def weights(*headers: HeaderRoute, **shares: int) -> RoutePolicy:
    return RoutePolicy("shop", tuple(VersionWeight(v, w) for v, w in shares.items()), headers)


@asynccontextmanager
async def servers(*names: str, **busy: float) -> AsyncIterator[dict[str, int]]:
    """Servers in this process, by name with their ports; ``busy`` ones report that utilisation."""
    async with AsyncExitStack() as stack:
        ports = {}
        for name in (*names, *busy):
            server, ports[name] = await start_server(name, busy.get(name, 0.5))
            stack.push_async_callback(server.stop, 0)
        yield ports


# -- what callers see -------------------------------------------------------------------------------


async def test_a_split_holds_for_callers_without_a_bucket_and_is_exact_for_those_with_one(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=90, v2=10))
        by_chance = Counter(await caller.call([(GET, {})] * 1_000))
        assert by_chance.keys() == {"a", "b"}
        assert 60 <= by_chance["b"] <= 140  # 100 expected, standard deviation 9.5
        with_bucket = await caller.call([(GET, {"weft-bucket": str(n % 100)}) for n in range(300)])
        assert with_bucket == (["a"] * 90 + ["b"] * 10) * 3


async def test_a_header_route_takes_every_call_that_carries_it(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        canary = HeaderRoute("weft-route-canary", "yes", "v2")
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(canary, v1=100))
        assert set(await caller.call([(PUT, {"weft-route-canary": "yes", "weft-bucket": "3"})] * 100)) == {"b"}
        assert set(await caller.call([(PUT, {"weft-route-canary": "no"})] * 100)) == {"a"}


async def test_only_what_is_declared_idempotent_is_retried(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]))
        assert await caller.call([(GET, {FAIL_FIRST: "1"}), (PUT, {FAIL_FIRST: "1"})]) == ["a", "!UNAVAILABLE"]


@pytest.mark.parametrize("at_once", [5, 20])
async def test_a_lone_canary_killed_under_load_costs_no_call(plane: ControlPlane, at_once: int):
    async with servers("a") as ports, peer("serve", "b") as canary, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", await canary.read(), "v2"), policy=weights(v1=50, v2=50))
        assert set(await caller.call([(GET, {})] * 100)) == {"a", "b"}
        calling = asyncio.create_task(caller.call([(GET, {SLEEP_MS: "1"})] * 2_000, at_once=at_once))
        await asyncio.sleep(0.3)
        assert not calling.done()
        await canary.kill()
        answers = Counter(await calling)
        assert answers.keys() == {"a", "b"}
        assert answers["a"] > answers["b"]
        assert await caller.call([(PUT, {})] * 100) == ["a"] * 100  # what isn't retried fails over too


async def test_a_version_without_instances_takes_its_share_by_the_others(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), policy=weights(v1=50, v9=50))
        assert await caller.call([(PUT, {})] * 50) == ["a"] * 50


async def test_a_policy_change_reaches_a_running_caller_at_once(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        both = instance("a", ports["a"]), instance("b", ports["b"], "v2")
        plane.show(*both, policy=weights(v1=100, v2=0))
        assert set(await caller.call([(GET, {})] * 20)) == {"a"}
        plane.show(*both, policy=weights(v1=0, v2=100))
        started_s = time.monotonic()
        while await caller.call([(GET, {})]) != ["b"]:
            assert time.monotonic() < started_s + 2
        assert time.monotonic() < started_s + 0.5  # milliseconds on a quiet machine
        assert set(await caller.call([(GET, {})] * 50)) == {"b"}


async def test_a_control_plane_that_dies_and_comes_back_cold_costs_no_call(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=50, v2=50))
        assert set(await caller.call([(PUT, {})] * 50)) == {"a", "b"}
        await plane.stop()
        assert Counter(await caller.call([(PUT, {})] * 300)).keys() == {"a", "b"}
        again = ControlPlane()
        await again.start(plane.port)
        await until(lambda: again.ads.subscribers)
        assert Counter(await caller.call([(PUT, {})] * 300)).keys() == {"a", "b"}
        again.show(instance("a", ports["a"]), instance("b", ports["b"], "v2"), policy=weights(v1=100))
        await until(lambda: again.ads.streams()[0].accepted.get(ROUTE))
        assert await caller.call([(PUT, {})] * 50) == ["a"] * 50
        await again.stop()


async def test_instances_in_several_zones_are_all_used(plane: ControlPlane):
    async with servers("a", "b") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"], zone="z1"), instance("b", ports["b"], zone="z2"))
        share = Counter(await caller.call([(GET, {})] * 200))
        assert share.keys() == {"a", "b"}
        assert abs(share["a"] - share["b"]) <= 40


async def test_a_busy_instance_is_called_less_whichever_zone_it_is_in(plane: ControlPlane):
    async with servers(a=0.9, b=0.1) as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"], zone="z1"), instance("b", ports["b"], zone="z2"))
        async with asyncio.timeout(10):
            share = Counter(await caller.call([(GET, {})] * 200))
            while share["a"] > 40:  # 20 expected, once the reports count
                await asyncio.sleep(0.3)
                share = Counter(await caller.call([(GET, {})] * 200))
        assert share["a"] >= 5


async def test_more_calls_under_way_than_the_data_planes_default_limit(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        plane.show(instance("a", ports["a"]))
        assert await caller.call([(PUT, {SLEEP_MS: "1500"})] * 1_300, at_once=1_300) == ["a"] * 1_300


async def test_a_caller_that_came_before_the_first_snapshot_waits_for_it(plane: ControlPlane):
    async with servers("a") as ports, peer("call", plane.address) as caller:
        calling = asyncio.create_task(caller.call([(PUT, {})]))
        await until(lambda: plane.ads.subscribers == 1)
        await asyncio.sleep(0.2)
        assert not calling.done()
        plane.show(instance("a", ports["a"]))
        assert await calling == ["a"]
        (stream,) = plane.ads.streams()
        assert (stream.node_id, stream.kind, stream.refused) == ("caller", Kind.GRPC, {})
        assert set(stream.accepted.values()) == {plane.cache.current.version}  # type: ignore[union-attr]
        assert stream.accepted.keys() == {LISTENER, ROUTE, CLUSTER, ENDPOINT}


# -- the stream itself ------------------------------------------------------------------------------


class Client:
    """A hand-driven ADS client."""

    def __init__(self, channel: aio.Channel, kind: str) -> None:
        self.call = channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=pb.DiscoveryRequest.SerializeToString,
            response_deserializer=pb.DiscoveryResponse.FromString,
        )()
        self._node: pb.Node | None = pb.Node(id="hand", user_agent_name="envoy" if kind == "envoy" else "grpc")

    async def want(self, type_url: str, *names: str) -> None:
        await self._send(pb.DiscoveryRequest(type_url=type_url, resource_names=names))

    async def answer(self, response: pb.DiscoveryResponse, *names: str, problem: str = "") -> None:
        request = pb.DiscoveryRequest(
            type_url=response.type_url,
            resource_names=names,
            version_info=response.version_info,
            response_nonce=response.nonce,
        )
        if problem:
            request.error_detail.message = problem
        await self._send(request)

    async def _send(self, request: pb.DiscoveryRequest) -> None:
        if self._node is not None:
            request.node.CopyFrom(self._node)
            self._node = None
        await self.call.write(request)

    async def read(self) -> pb.DiscoveryResponse:
        async with asyncio.timeout(5):
            response = await self.call.read()
        assert isinstance(response, pb.DiscoveryResponse)
        return response

    async def silent(self) -> bool:
        """Whether nothing comes for a while; the stream can't be read after one that came."""
        done, _ = await asyncio.wait([asyncio.ensure_future(self.call.read())], timeout=0.2)
        return not done


@asynccontextmanager
async def client(plane: ControlPlane, kind: str = "grpc") -> AsyncIterator[Client]:
    async with aio.insecure_channel(plane.address) as channel:
        connected = Client(channel, kind)
        yield connected
        connected.call.cancel()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.005)


A, B = instance("a", 1), instance("b", 2, "v2")


async def test_nothing_is_sent_before_the_first_snapshot_nor_for_a_name_that_is_not_there(plane: ControlPlane):
    async with client(plane) as first, client(plane) as second:
        await first.want(LISTENER, "shop")
        assert await first.silent()
        plane.show(A)
        await second.want(LISTENER, "nobody")
        assert await second.silent()


async def test_a_subscription_is_answered_once_and_again_for_one_more_name(plane: ControlPlane):
    plane.show(A, B, policy=weights(v1=90, v2=10))
    async with client(plane) as hand:
        await hand.want(CLUSTER, "shop@v1")
        response = await hand.read()
        assert len(response.resources) == 1
        await hand.answer(response, "shop@v1", "shop@v2")
        again = await hand.read()
        assert len(again.resources) == 2
        assert again.nonce != response.nonce
        await hand.answer(again, "shop@v1", "shop@v2")
        assert await hand.silent()


async def test_only_what_changed_is_sent_again(plane: ControlPlane):
    plane.show(A, B, policy=weights(v1=90, v2=10))
    async with client(plane) as hand:
        for type_url, name in ((CLUSTER, "shop@v1"), (ENDPOINT, "shop@v1"), (LISTENER, "shop"), (ROUTE, "shop")):
            await hand.want(type_url, name)
            await hand.answer(await hand.read(), name)
        plane.show(A, B, policy=weights(v1=80, v2=20))
        assert (await hand.read()).type_url == ROUTE
        assert await hand.silent()


async def test_a_change_of_everything_goes_out_in_the_order_that_breaks_nothing(plane: ControlPlane):
    plane.show(A)
    async with client(plane) as hand:
        for type_url in (LISTENER, CLUSTER):
            await hand.want(type_url, "*")
            await hand.answer(await hand.read(), "*")
        for type_url in (ROUTE, ENDPOINT):
            await hand.want(type_url, "shop", "shop@v1")
            await hand.answer(await hand.read(), "shop", "shop@v1")
        other = Instance("tools", "t", "127.0.0.1", 3)
        plane.show(A, B, other, policy=weights(v1=90, v2=10))
        assert [(await hand.read()).type_url for _ in range(4)] == [CLUSTER, ENDPOINT, LISTENER, ROUTE]


async def test_a_refusal_is_remembered_and_not_answered_by_the_same_again(plane: ControlPlane):
    plane.show(A)
    async with client(plane) as hand:
        await hand.want(CLUSTER, "shop")
        response = await hand.read()
        await hand.answer(response, "shop", problem="no such balancer")
        await until(lambda: plane.ads.streams()[0].refused)
        assert plane.ads.streams()[0].refused == {CLUSTER: "no such balancer"}
        assert plane.ads.streams()[0].accepted == {}
        await hand.answer(response, "shop")
        await until(lambda: not plane.ads.streams()[0].refused)
        assert plane.ads.streams()[0].accepted == {CLUSTER: response.version_info}


async def test_an_answer_to_an_older_response_says_nothing_of_the_newest(plane: ControlPlane):
    plane.show(A)
    async with client(plane) as hand:
        await hand.want(ENDPOINT, "shop")
        old = await hand.read()
        plane.show(A, B)
        new = await hand.read()
        await hand.answer(old, "shop")
        await asyncio.sleep(0.1)
        assert plane.ads.streams()[0].accepted == {}
        await hand.answer(new, "shop")
        await until(lambda: plane.ads.streams()[0].accepted == {ENDPOINT: new.version_info})


async def test_envoy_gets_all_clusters_and_its_routes_only_when_these_are_answered_for(plane: ControlPlane):
    plane.show(A)
    async with client(plane, "envoy") as hand:
        await hand.want(CLUSTER)
        clusters = await hand.read()
        assert len(clusters.resources) == 2
        await hand.want(ROUTE, INGRESS)
        await hand.want(ENDPOINT, "shop")
        assert (await hand.read()).type_url == ENDPOINT
        await asyncio.sleep(0.1)
        await hand.answer(clusters)
        assert (await hand.read()).type_url == ROUTE


async def test_an_envoy_that_never_answers_gets_its_routes_all_the_same(plane: ControlPlane):
    plane.show(A)
    async with client(plane, "envoy") as hand:
        await hand.want(CLUSTER)
        await hand.read()
        await hand.want(ROUTE, INGRESS)
        assert (await hand.read()).type_url == ROUTE


class SlowReader:
    """A client's end that takes one response at a time, when the test lets it."""

    def __init__(self) -> None:
        self.ready = asyncio.Semaphore(0)
        self.read: list[pb.DiscoveryResponse] = []

    async def write(self, response: pb.DiscoveryResponse) -> None:
        await self.ready.acquire()
        self.read.append(response)

    async def requests(self) -> AsyncIterator[pb.DiscoveryRequest]:
        yield pb.DiscoveryRequest(type_url=ENDPOINT, resource_names=["shop"])
        await asyncio.Event().wait()


async def test_a_slow_reader_skips_to_the_newest(plane: ControlPlane):
    plane.show(A)
    slow = SlowReader()
    serving = asyncio.create_task(plane.ads.stream(slow.requests(), slow))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)  # the first response is under way
    for number in range(10):
        plane.show(A, instance("b", 100 + number))
        await asyncio.sleep(0)
    slow.ready.release()
    slow.ready.release()
    await until(lambda: len(slow.read) == 2)
    assert slow.read[1].version_info == plane.cache.current.version  # type: ignore[union-attr]
    serving.cancel()


async def test_a_stream_that_ends_leaves_nothing_behind(plane: ControlPlane):
    plane.show(A)
    before = len(asyncio.all_tasks())
    async with client(plane) as cancelled, client(plane) as closed:
        await cancelled.want(CLUSTER, "shop")
        await closed.want(CLUSTER, "shop")
        await until(lambda: plane.ads.subscribers == 2)
        await closed.call.done_writing()
        await until(lambda: plane.ads.subscribers == 1)
        cancelled.call.cancel()
        await until(lambda: plane.ads.subscribers == 0)
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_control_plane_that_stops_ends_its_streams(plane: ControlPlane):
    async with client(plane) as hand:
        await hand.want(CLUSTER, "shop")
        await until(lambda: plane.ads.subscribers == 1)
        plane.ads.close()
        async with asyncio.timeout(2):
            assert await hand.call.code() == grpc.StatusCode.OK

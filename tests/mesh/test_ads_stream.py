"""One discovery stream, driven by hand: what is sent, when, in which order, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio

from mesh.controlplane.ads import METHOD, SERVICE
from mesh.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from mesh.controlplane.routes import INGRESS
from mesh.registry import Instance
from tests.support.plane import ControlPlane, control_plane, instance, until, weights
from weft.xds.v1 import discovery_pb2 as pb


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with control_plane() as plane:
        yield plane


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
        async with asyncio.timeout(10):
            assert await hand.call.code() == grpc.StatusCode.OK

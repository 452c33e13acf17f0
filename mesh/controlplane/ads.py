"""The discovery streams (ADS, state of the world): each client is shown the newest snapshot, in order.

    client                                                         this side
    subscribe (type, names)                       ─────────>
                                                  <─────────       response (version, nonce, all resources)
    ACK (nonce) or NACK (nonce, error)            ─────────>       remembered for ``weft status``

Per stream and type, what was sent is compared by content with what the subscription sees now; a difference
is sent, nothing else is. So a policy change sends routes alone, and a client that subscribes to one more
name gets it at once. Types go out in the order clusters, endpoints, listeners, routes. Envoy refuses calls to
a cluster that isn't warm yet and answers for clusters when they are, so its routes also wait for that answer,
for 2 s at most (gRPC's client orders all this by itself).

Nothing is sent before the first snapshot: a silent control plane breaks nobody, an empty answer would. Names
that don't exist are not answered. A resource that was refused is not sent again until it changes. A slow
reader is sent the newest when it is ready: one response is under way per stream, none are queued.

ADS lives under its public method path, by a generic handler outside of our interceptors: streams have no
deadline and aren't counted by admission.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc
from grpc import aio

from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.resources import CLUSTER, LISTENER, ROUTE, SEND_ORDER, Kind, Resource, Resources
from weft.xds.v1 import discovery_pb2 as pb

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD: Final = "StreamAggregatedResources"
_ALL: Final = "*"
_MAY_ASK_FOR_ALL: Final = (LISTENER, CLUSTER)
_REFERS_TO_CLUSTERS: Final = (LISTENER, ROUTE)
_ANSWER_WAIT_S: Final = 2.0
_MAX_PROBLEM_CHARS: Final = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One open stream, for ``weft status``.

    Attributes:
        node_id: how the client names itself.
        kind: what it is rendered for.
        accepted: version that the client has taken, by type URL.
        refused: why the client refused what it was sent last, by type URL.
    """

    node_id: str
    kind: Kind
    accepted: Mapping[str, str]
    refused: Mapping[str, str]


@dataclass(slots=True)
class _Subscription:
    """What a stream wants of one type, and how far it has come."""

    names: frozenset[str] = frozenset()
    everything: bool = False
    sent: dict[str, bytes] | None = None  # name -> digest of the last response; None before the first
    sent_version: str = ""
    nonce: str = ""
    unanswered_since_s: float | None = None
    accepted: str = ""
    refused: str = ""

    def subscribe(self, type_url: str, names: list[str], *, first: bool) -> None:
        wanted = frozenset(names)
        if type_url in _MAY_ASK_FOR_ALL:
            # Asking for nothing asks for all, but only from the start: later it gives up the names.
            asks_for_none = not wanted and (first or (self.everything and not self.names))
            self.everything = _ALL in wanted or asks_for_none
        self.names = wanted - {_ALL}
        if self.sent is not None and not self.everything:
            self.sent = {name: digest for name, digest in self.sent.items() if name in self.names}

    def answer(self, request: pb.DiscoveryRequest) -> None:
        """Take the client's ACK or NACK of the last response; an older one says nothing."""
        if not request.response_nonce or request.response_nonce != self.nonce:
            return
        self.unanswered_since_s = None
        if request.HasField("error_detail"):
            self.refused = request.error_detail.message[:_MAX_PROBLEM_CHARS] or "refused without a word"
        else:
            self.refused, self.accepted = "", self.sent_version

    def due(self, type_url: str, resources: Resources) -> list[Resource] | None:
        """What to send now, or None."""
        there = resources.by_type[type_url]
        visible = (
            list(there.values()) if self.everything else [there[name] for name in sorted(self.names) if name in there]
        )
        digests = {resource.name: resource.digest for resource in visible}
        if digests == self.sent:
            return None
        nothing_new = not visible and not self.everything and not self.sent
        only_gone = type_url not in _MAY_ASK_FOR_ALL and self.sent is not None and digests.items() <= self.sent.items()
        if nothing_new or only_gone:  # leaving out endpoints or routes tells a client nothing
            if self.sent is not None:
                self.sent = digests
            return None
        self.sent = digests
        return visible


@dataclass(slots=True, eq=False)
class _Stream:
    """One client's stream."""

    cache: SnapshotCache
    nonces: itertools.count[int]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    node_id: str = ""
    kind: Kind = Kind.GRPC
    types: dict[str, _Subscription] = field(default_factory=dict)

    async def run(self, requests: AsyncIterator[pb.DiscoveryRequest], context: aio.ServicerContext) -> None:
        """Serve until the client or ``close`` ends the stream."""
        reader = asyncio.create_task(self._read(requests), name="ads-reader")
        try:
            with self.cache.waking(self.wake):
                while not (self.closing or reader.done()):
                    wait_s = await self._send_due(context)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self.wake.wait()
                    self.wake.clear()
            if reader.done():
                reader.result()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def close(self) -> None:
        """End the stream."""
        self.closing = True
        self.wake.set()

    async def _read(self, requests: AsyncIterator[pb.DiscoveryRequest]) -> None:
        try:
            async for request in requests:
                self._take(request)
                self.wake.set()
        finally:
            self.wake.set()

    def _take(self, request: pb.DiscoveryRequest) -> None:
        if request.HasField("node"):
            self.node_id, self.kind = request.node.id, _kind_of(request.node)
        if request.type_url not in SEND_ORDER:
            return
        first = request.type_url not in self.types
        subscription = self.types.setdefault(request.type_url, _Subscription())
        subscription.subscribe(request.type_url, list(request.resource_names), first=first)
        subscription.answer(request)
        if request.HasField("error_detail"):
            _log.warning(
                "a client refused resources: node=%s type=%s problem=%s",
                self.node_id,
                request.type_url,
                request.error_detail.message[:_MAX_PROBLEM_CHARS],
            )

    async def _send_due(self, context: aio.ServicerContext) -> float | None:
        """Send what is due. Returns how long what is held back may still wait, None where nothing is."""
        for type_url in SEND_ORDER:
            resources = self.cache.resources(self.kind)  # the newest, also between two types
            subscription = self.types.get(type_url)
            if resources is None or subscription is None:
                continue
            wait_s = self._must_wait_s(type_url)
            if wait_s > 0:
                return wait_s
            due = subscription.due(type_url, resources)
            if due is None:
                continue
            subscription.nonce = str(next(self.nonces))
            subscription.sent_version, subscription.unanswered_since_s = resources.version, time.monotonic()
            await context.write(
                pb.DiscoveryResponse(
                    version_info=resources.version,
                    resources=[resource.body for resource in due],
                    type_url=type_url,
                    nonce=subscription.nonce,
                )
            )
        return None

    def _must_wait_s(self, type_url: str) -> float:
        """How long Envoy may still take to answer for the clusters that this type refers to."""
        clusters = self.types.get(CLUSTER)
        if self.kind is not Kind.ENVOY or type_url not in _REFERS_TO_CLUSTERS or clusters is None:
            return 0.0
        since_s = clusters.unanswered_since_s
        return 0.0 if since_s is None else since_s + _ANSWER_WAIT_S - time.monotonic()

    def status(self) -> StreamStatus:
        return StreamStatus(
            node_id=self.node_id,
            kind=self.kind,
            accepted={url: s.accepted for url, s in self.types.items() if s.accepted},
            refused={url: s.refused for url, s in self.types.items() if s.refused},
        )


class AdsServicer:
    """Serves discovery streams from a ``SnapshotCache``."""

    def __init__(self, cache: SnapshotCache) -> None:
        self._cache = cache
        self._streams: set[_Stream] = set()
        self._nonces = itertools.count(1)

    @property
    def subscribers(self) -> int:
        """Open streams."""
        return len(self._streams)

    def streams(self) -> tuple[StreamStatus, ...]:
        """The open streams, by node."""
        return tuple(sorted((stream.status() for stream in self._streams), key=lambda s: s.node_id))

    async def stream(self, requests: AsyncIterator[pb.DiscoveryRequest], context: aio.ServicerContext) -> None:
        """StreamAggregatedResources: one stream, to its end."""
        stream = _Stream(self._cache, self._nonces)
        self._streams.add(stream)
        try:
            await stream.run(requests, context)
        finally:
            self._streams.discard(stream)

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler to add to a ``grpc.aio`` server."""
        method = grpc.stream_stream_rpc_method_handler(
            self.stream,
            request_deserializer=pb.DiscoveryRequest.FromString,
            response_serializer=pb.DiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    def close(self) -> None:
        """End all streams, so that a server that stops need not wait for them. Clients keep what they
        have and look for a control plane again."""
        for stream in self._streams:
            stream.close()


def _kind_of(node: pb.Node) -> Kind:
    """What the node says it is, else what its program is."""
    said = node.metadata.fields["weft.kind"].string_value if "weft.kind" in node.metadata.fields else ""
    if said in set(Kind):
        return Kind(said)
    return Kind.ENVOY if node.user_agent_name == "envoy" else Kind.GRPC

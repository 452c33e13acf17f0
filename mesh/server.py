"""Builds the gRPC server of a process: interceptor, health, out-of-band load, limits.

    bind -> serve -> SERVING -> … -> NOT_SERVING -> grace -> stop

A taken port is an error that names it: gRPC's default ``SO_REUSEPORT`` would let a second server share
the port in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from mesh.interceptors.incoming import IncomingCalls
from mesh.load import LoadMeter, load_report_handler
from mesh.registry import Method
from mesh.telemetry import Metrics
from weft.errors import Reason, error

_IDEMPOTENT: Final = frozenset({MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT})
_MAX_PENDING_ACCEPTS: Final = 20_000
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True)
class Binding:
    """One protobuf service and what implements it."""

    descriptor: ServiceDescriptor
    add: Callable[[Any, aio.Server], None]  # the generated add_…Servicer_to_server
    servicer: object
    traced: bool = True  # False for what is called every second or two and would drown the traces

    def methods(self) -> tuple[Method, ...]:
        """The method table entry of each RPC, as its proto declares it."""
        return tuple(_method(self.descriptor, method) for method in self.descriptor.methods)


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    level = method.GetOptions().idempotency_level
    return Method(f"/{service.full_name}/{method.name}", level in _IDEMPOTENT)


class MeshServer:
    """A ``grpc.aio`` server with everything that each process of the mesh has.

    Attributes:
        port: the port that was bound, after ``start``.
        methods: every method of the bindings.
    """

    def __init__(
        self,
        *,
        tracer: Any,
        metrics: Metrics,
        load: LoadMeter,
        default_deadline_s: float = 30.0,
        max_concurrent_calls: int = 2_000,
        max_message_bytes: int = 4 * 1024 * 1024,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._tracer, self._metrics, self.load = tracer, metrics, load
        self._default_deadline_s = default_deadline_s
        self._max_concurrent_calls = max_concurrent_calls
        self._max_message_bytes = max_message_bytes
        self._credentials = credentials
        self._health = health_aio.HealthServicer()
        self._server: aio.Server | None = None  # kept: a server that is collected stops serving
        self._services: list[str] = []
        self.methods: tuple[Method, ...] = ()
        self.port = 0

    async def start(
        self,
        host: str,
        port: int,
        bindings: Sequence[Binding],
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
    ) -> int:
        """Bind, serve (health says NOT_SERVING until ``set_serving``) and return the port.

        ``generic_handlers`` serve methods that have no descriptor of ours and take part in nothing
        here: no admission, no deadline, no span.

        Raises:
            WeftError: INVALID_FIELD when the address is taken or can't be bound.
        """
        self.methods = tuple(method for binding in bindings for method in binding.methods())
        paths = [method.path for method in self.methods]
        self._metrics.register_methods(paths)
        interceptor = IncomingCalls(
            {method.path: binding.traced for binding in bindings for method in binding.methods()},
            tracer=self._tracer,
            metrics=self._metrics,
            load=self.load,
            default_deadline_s=self._default_deadline_s,
            max_concurrent_calls=self._max_concurrent_calls,
        )
        server = aio.server(interceptors=[interceptor], options=self._options())
        for binding in bindings:
            binding.add(binding.servicer, server)
            self._services.append(binding.descriptor.full_name)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((load_report_handler(self.load), *generic_handlers))
        await self.set_serving(False)
        self.port = self._bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        await server.start()
        self._server = server
        return self.port

    def _bind(self, server: aio.Server, address: str) -> int:
        try:
            if self._credentials is not None:
                return server.add_secure_port(address, self._credentials)
            return server.add_insecure_port(address)
        except RuntimeError as exc:
            raise error(
                Reason.INVALID_FIELD,
                f"cannot listen on {address}: the port is taken or the address is not this machine's; "
                "choose another with WEFT_PORT (or WEFT_MESH for the control plane), 0 takes a free one",
                address=address,
            ) from exc

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_send_message_length", self._max_message_bytes),
            ("grpc.max_receive_message_length", self._max_message_bytes),
            # Clients ping each 20 s, also when idle; the default would answer with "too many pings".
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Above 1,000 calls that wait to be accepted, gRPC begins to cancel some at random. Refusing is
            # the interceptor's business, with a reason and a time to come back.
            ("grpc.server.max_pending_requests", _MAX_PENDING_ACCEPTS),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_ACCEPTS),
        ]

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks of the whole server and of each service."""
        status = SERVING if serving else NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones finish within ``grace_s``, then cancel them."""
        if self._server is not None:
            self.load.closed.set()
            await self._server.stop(grace_s)
            self._server = None

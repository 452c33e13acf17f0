"""What every call of the SDK shares: the mesh's address, the channels, the metadata, the words for failures.

A connection asks the control plane once when it opens, with a short timeout, so that a mesh that isn't
there is told at once and by its address instead of after a call's whole deadline.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
from grpc import aio
from opentelemetry import trace

from weft import names
from weft.channel import Dial, open_address, open_service
from weft.errors import Reason, WeftError, error, from_rpc_error
from weft.mesh.v1 import status_pb2, status_pb2_grpc
from weft.settings import process_is_bound
from weft.tracing import traced

SERVICES: Final = ("orchestrator", "retriever")
CHECK_TIMEOUT_S: Final = 2.0
_ADVICE: Final = "start one with `weft up`, or name another by WEFT_MESH=host:port"
Metadata = tuple[tuple[str, str], ...]
_STATUS_DETAILS: Final = "grpc-status-details-bin"


class Connection:
    """Channels to the services of one mesh, for one tenant."""

    def __init__(self, dial: Dial, tenant: str, headers: Mapping[str, str], tracer: trace.Tracer) -> None:
        self.dial = dial
        self._companions = _companions(tenant, headers)
        self._tenant = tenant
        self._tracer = tracer
        self._channels: dict[str, aio.Channel] = {}

    async def open(self) -> None:
        """Find the mesh and open the channels.

        Raises:
            Unavailable: no control plane answers within CHECK_TIMEOUT_S.
            MeshAlreadyBound: this process already belongs to another mesh.
        """
        if not self.dial.target.startswith("xds:"):
            self._open_channels()
        elif process_is_bound():  # tell of another mesh before asking this one
            self._open_channels()
            await self._check()
        else:  # ask first: a wrong address must not bind the process
            await self._check()
            self._open_channels()

    async def close(self) -> None:
        """Close the channels; calls under way end."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def channel(self, service: str) -> aio.Channel:
        """The channel to a service."""
        try:
            return self._channels[service]
        except KeyError:
            raise RuntimeError("the client is not open; use it within `async with weft.Client() as c:`") from None

    def metadata(self, request_id: str) -> Metadata:
        """What every call carries beside its request."""
        return (*self._companions, (names.METADATA_REQUEST_ID, request_id))

    def turn_metadata(self, request_id: str, session: str) -> Metadata:
        """The same for a turn, with the bucket that keeps its session on one version from the first turn on."""
        session = session or new_session(self._tenant, request_id)
        return (*self.metadata(request_id), (names.METADATA_BUCKET, str(session_bucket(session))))

    def explain(self, exc: aio.AioRpcError, service: str, timeout_s: float) -> WeftError:
        """The peer's own error, or one of ours where gRPC alone has spoken."""
        if has_details(exc):
            return from_rpc_error(exc)
        mesh = ",".join(self.dial.mesh)
        if exc.code() is grpc.StatusCode.UNAVAILABLE:
            return error(
                Reason.DEPENDENCY_UNAVAILABLE,
                f"no {service} can be reached through the mesh at {mesh} ({exc.details()}); "
                "`weft status` shows who is there",
                service=service,
                mesh=mesh,
            )
        if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return error(
                Reason.DEADLINE_EXCEEDED,
                f"the {service} did not answer within {timeout_s:g} s; give more by timeout_s",
                service=service,
                timeout_s=timeout_s,
            )
        return from_rpc_error(exc)

    def _open_channels(self) -> None:
        for service in SERVICES:
            self._channels[service] = traced(open_service(service, self.dial), self._tracer)

    async def _check(self) -> None:
        async with open_address(self.dial.mesh, self.dial) as channel:
            try:
                stub = status_pb2_grpc.StatusServiceStub(channel)
                await stub.GetMeshStatus(status_pb2.GetMeshStatusRequest(), timeout=CHECK_TIMEOUT_S)
            except aio.AioRpcError as exc:
                raise no_mesh(self.dial.mesh, exc) from exc


def has_details(exc: aio.AioRpcError) -> bool:
    """Whether a handler has raised it: gRPC's own failures carry no error details."""
    trailers: Any = exc.trailing_metadata() or ()
    return any(key == _STATUS_DETAILS for key, _ in trailers)


def new_session(tenant: str, request_id: str) -> str:
    """The session that the orchestrator makes for a turn without one: the same request finds it again."""
    return "sessions/" + hashlib.sha256(f"{tenant}\n{request_id}".encode()).hexdigest()[:32]


def session_bucket(session: str) -> int:
    """The bucket, 0 to 99, that keeps a session on its version; ``session`` is ``sessions/{s}``."""
    return zlib.crc32(session.encode()) % 100


def no_mesh(mesh: Sequence[str], exc: aio.AioRpcError, advice: str = _ADVICE) -> WeftError:
    """What to tell of a control plane that doesn't answer."""
    where = ",".join(mesh)
    if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
        problem = f"what listens at {where} is not the control plane of a mesh"
    elif exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        problem = f"the control plane at {where} does not answer within {CHECK_TIMEOUT_S:g} s"
    else:
        problem = f"no mesh answers at {where}"
    return error(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"{problem}; {advice}",
        mesh=where,
    )


def _companions(tenant: str, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", tenant):
        raise error(
            Reason.TENANT_INVALID,
            f"tenant is {tenant[:70]!r}; allowed are 1 to 63 lower-case letters, digits and hyphens",
            tenant=tenant[:70],
        )
    for key, value in headers.items():
        if not re.fullmatch(r"[a-z0-9_.-]+", key) or not re.fullmatch(r"[\x20-\x7e]+", value):
            raise error(
                Reason.INVALID_FIELD,
                f"header {key!r}: keys are lower-case letters, digits, '-', '_' and '.', values printable ASCII",
                field="headers",
                header=key,
            )
    return (names.METADATA_TENANT, tenant), *headers.items()

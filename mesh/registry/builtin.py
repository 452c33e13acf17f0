"""``builtin:`` — the registry that the control plane itself is, seen from an instance.

    first attempt ──ok──> held ──renew each third of the TTL──> held …
         │                 │ LEASE_NOT_FOUND: register again at once
         └──away──> try again, with back-off up to a third of the TTL, for ever

An attempt waits up to 2 s for the connection, so that it succeeds as soon as the control plane is
back, and a process that starts together with it registers at first go.

A control plane that is away changes nothing: the lease it keeps for us survives its restart and its
pauses (see ``mesh/controlplane/leases.py``), and what it forgot we tell it again. The channel is a
plain one to ``WEFT_MESH``; xDS comes only after there is something to find.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, Final

from grpc import aio

from mesh import records
from mesh.plugins import Url
from mesh.registry import Instance
from mesh.settings import ServiceSettings
from weft.channel import Dial, open_address
from weft.errors import Reason, WeftError, error, from_rpc_error
from weft.mesh.v1 import registry_pb2, registry_pb2_grpc

_log = logging.getLogger(__name__)
_CALL_TIMEOUT_S: Final = 2.0
_FIRST_BACKOFF_S: Final = 0.1
_TTL_UNTIL_TOLD_S: Final = 3.0


def open(url: Url, settings: ServiceSettings) -> BuiltinAnnouncer:
    """The instances' side of the registry at ``settings.mesh``."""
    return BuiltinAnnouncer(open_address(settings.mesh, Dial(mesh=settings.mesh)), ",".join(settings.mesh))


class BuiltinAnnouncer:
    """An ``Announcer`` over RegistryService; ``where`` names the control planes."""

    def __init__(self, channel: aio.Channel, where: str) -> None:
        self._channel = channel
        self._where = where
        self._stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        self._leases: list[Lease] = []

    async def register(self, instance: Instance) -> Lease:
        """See ``Announcer.register``."""
        lease = Lease(self._stub, records.check(instance), self._where)
        await lease.begin()
        self._leases.append(lease)
        return lease

    async def close(self) -> None:
        """See ``Announcer.close``."""
        for lease in self._leases:
            await lease.close()
        await self._channel.close()


class Lease:
    """A ``Registration``: one record and the task that keeps its lease."""

    def __init__(self, stub: Any, instance: Instance, where: str) -> None:
        self._stub = stub
        self._instance = instance
        self._where = where
        self._record = records.to_proto(instance)
        self._held = False
        self._away = False
        self._ttl_s = _TTL_UNTIL_TOLD_S
        self._backoff_s = _FIRST_BACKOFF_S
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Make the first attempt, then keep at it in a task.

        Raises:
            WeftError: the registry refuses the record.
        """
        pause_s = await self._attempt(first=True)
        self._task = asyncio.create_task(self._keep(pause_s), name=f"lease-{self._instance.id}")

    async def deregister(self) -> None:
        """See ``Registration.deregister``."""
        await self.close()
        request = registry_pb2.DeregisterRequest(service=self._instance.service, id=self._instance.id)
        try:
            await self._stub.Deregister(request, timeout=_CALL_TIMEOUT_S)
        except aio.AioRpcError as exc:
            _log.warning("not deregistered (%s); the lease runs out in %.0f s", exc.details(), self._ttl_s)

    async def close(self) -> None:
        """See ``Registration.close``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self._attempt()

    async def _attempt(self, *, first: bool = False) -> float:
        """Renew or register once; returns how long to wait before the next time."""
        try:
            await (self._renew() if self._held else self._register())
        except aio.AioRpcError as exc:
            err = from_rpc_error(exc)
            if err.reason == Reason.LEASE_NOT_FOUND:
                _log.info("the registry has no lease for %s; registering again", self._instance.id)
                self._held = False
                return 0.0
            if first and err.reason == Reason.NOT_IMPLEMENTED:
                raise error(
                    Reason.NOT_IMPLEMENTED,
                    "the control plane keeps no registry of its own; give this process the same WEFT_REGISTRY",
                ) from None
            if first and err.reason == Reason.INVALID_FIELD:
                raise err from None
            return self._failed(err)
        if self._away:
            _log.info("the registry is back")
        self._away, self._backoff_s = False, _FIRST_BACKOFF_S
        return self._ttl_s / 3

    def _failed(self, err: WeftError) -> float:
        if not self._away:
            _log.warning(
                "the registry at the control plane %s (WEFT_MESH) can't be reached, trying on: %s", self._where, err
            )
        self._away = True
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(self._backoff_s * 2, self._ttl_s / 3)
        return pause_s

    async def _register(self) -> None:
        response = await self._stub.Register(
            registry_pb2.RegisterRequest(instance=self._record), timeout=_CALL_TIMEOUT_S, wait_for_ready=True
        )
        self._held = True
        self._ttl_s = response.ttl.ToMilliseconds() / 1_000

    async def _renew(self) -> None:
        request = registry_pb2.RenewRequest(service=self._instance.service, id=self._instance.id)
        response = await self._stub.Renew(request, timeout=_CALL_TIMEOUT_S, wait_for_ready=True)
        self._ttl_s = response.ttl.ToMilliseconds() / 1_000

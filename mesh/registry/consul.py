"""``consul://host:port?token=…&prefix=weft`` — instances and policies in Consul, by the agent beside us.

**An instance** registers with a gRPC check each second and looks every 3 s whether the agent still
knows it: an agent that came back empty has it again within seconds. Before it deregisters it writes
down the wish (``<prefix>/left/<id>``), since Consul doesn't tell leaving from failing.

**The control plane** reads in rounds: all that there is, each read by its own, complete and current;
then it waits in blocking queries, one for each thing it read at the index that it was read at, and the
first that returns begins the next round. So no read ever carries an index from before a restart,
which Consul would answer with silence, and what is composed is never half old. A round that found
nothing new makes the next wait longer, up to a second: a busy neighbour in the cluster costs one
round a second.

A registry is the same as long as its index doesn't run backwards and the marker in KV that the first
control plane wrote there is the one we know; otherwise the catalogue's index begins again at 0, which
is how a catalogue says "new registry". It is warm from the second round on.

The client is py-consul's asyncio one; each exchange has its own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import aiohttp
import consul
import consul.aio
from consul.exceptions import BadRequest

from mesh import records
from mesh.plugins import Url
from mesh.registry import Catalogue, Instance, StoredPolicy
from mesh.registry._consul_records import Entries, Names, from_health, from_keys, to_meta
from mesh.settings import ServiceSettings
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
_DEFAULT_PORT: Final = 8500
_EXCHANGE_S: Final = 2.0
_WAIT_S: Final = 10  # of a blocking query; the agent adds up to a sixteenth of it
_WARM_UP_WAIT_S: Final = 1
_TTL_S: Final = 10.0  # re-registering after an outage takes up to _LOOK_S and the agent's own start
_LOOK_S: Final = 3.0
_CHECK_INTERVAL: Final = "1s"
_CHECK_TIMEOUT: Final = "3s"  # a busy process answers late, a dead one refuses at once
_FORGET_AFTER: Final = "1m"  # Consul's least
_MAX_DEPARTURES: Final = 256
_MIN_PAUSE_S: Final = 0.02
_MAX_PAUSE_S: Final = 1.0
_FAILURES: Final = (consul.ConsulException, aiohttp.ClientError, OSError, TimeoutError)

T = TypeVar("T")


def open(url: Url, settings: ServiceSettings) -> ConsulRegistry:
    """The registry at ``url``, for instances and for the control plane.

    Raises:
        WeftError: INVALID_FIELD for an option that there isn't.
    """
    unknown = sorted(url.query.keys() - {"token", "prefix"})
    if unknown or not url.host:
        raise error(
            Reason.INVALID_FIELD,
            f"WEFT_REGISTRY is {str(url)!r}; expected consul://host:port?token=…&prefix=weft",
            value=url,
        )
    prefix = records.check_service("prefix", url.query.get("prefix") or "weft")
    return ConsulRegistry(url.host, url.port or _DEFAULT_PORT, url.query.get("token"), prefix)


class _Client:
    """py-consul with a deadline and one kind of error for each exchange."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self.address = f"{host}:{port}"
        with warnings.catch_warnings():
            # py-consul 1.8 names its TLS context by an argument that aiohttp 3 calls deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.api = consul.aio.Consul(host=host, port=port, scheme="http")
        if token:  # set here, because py-consul prefers its own environment variable to the argument
            self.api.token = token

    async def call(self, exchange: Awaitable[T], timeout_s: float = _EXCHANGE_S) -> T:
        """Raises REGISTRY_UNAVAILABLE, or INVALID_FIELD where Consul refuses what it was given."""
        try:
            async with asyncio.timeout(timeout_s):
                return await exchange
        except BadRequest as exc:
            raise error(Reason.INVALID_FIELD, f"Consul at {self.address} refuses: {exc}", cause=exc) from exc
        except _FAILURES as exc:
            raise error(
                Reason.REGISTRY_UNAVAILABLE,
                f"Consul at {self.address} gives no good answer: {exc or type(exc).__name__}",
                address=self.address,
                cause=exc or type(exc).__name__,
            ) from exc


@dataclass(frozen=True, slots=True)
class _Reading:
    """One round's result. ``cursors`` are the indexes to wait at, by Consul service; "" is the list of
    services and "/" the keys."""

    instances: tuple[Instance, ...]
    failing: frozenset[str]
    entries: Entries
    cursors: dict[str, int]


class ConsulRegistry:
    """An ``Announcer`` and a ``Registry``.

    Attributes:
        ttl_s: how long the control plane gives instances to register again, in seconds.
        available: whether the last exchange of ``watch`` or a policy call succeeded.
    """

    def __init__(self, host: str, port: int, token: str | None, prefix: str) -> None:
        self.ttl_s = _TTL_S
        self.available = True
        self._client = _Client(host, port, token)
        self._names = Names(prefix)
        self._announced: list[Announcement] = []

    async def register(self, instance: Instance) -> Announcement:
        """See ``Announcer.register``."""
        announcement = Announcement(self._client, self._names, records.check(instance))
        await announcement.begin()
        self._announced.append(announcement)
        return announcement

    async def watch(self) -> AsyncIterator[Catalogue]:
        """See ``Registry.watch``."""
        last: _Reading | None = None
        shown: Catalogue | None = None
        index, rounds, pause_s = 0, 0, _MIN_PAUSE_S
        while True:
            try:
                reading = await self._read()
            except WeftError as err:
                if self.available:
                    _log.warning("%s; trying on", err)
                self.available = False
                await asyncio.sleep(random.uniform(0.2, 0.5))
                continue
            if not self.available:
                _log.info("Consul is back")
            self.available = True
            if last is not None and _is_new_registry(last, reading):
                _log.warning("Consul lost what it knew: a new registry")
                index, rounds, shown = -1, 0, None
            rounds, last = rounds + 1, reading
            catalogue = _compose(reading, index, warm=rounds > 1)
            if shown is None or catalogue != shown:
                index, pause_s = index + 1, _MIN_PAUSE_S
                shown = replace(catalogue, index=index)
                yield shown
            else:
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
            await self._until_change(reading, _WAIT_S if rounds > 1 else _WARM_UP_WAIT_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def policies(self) -> tuple[StoredPolicy, ...]:
        """See ``Registry.policies``."""
        _, entries = await self._read_keys()
        return entries.policies

    async def put_policy(self, service: str, document: str, *, revision: int | None) -> StoredPolicy:
        """See ``Registry.put_policy``."""
        key, kv = self._names.policy(service), self._client.api.kv
        if not await self._exchange(lambda: kv.put(key, document, cas=revision)):
            raise error(
                Reason.POLICY_CONFLICT,
                f"the policy of {service!r} is not at revision {revision} any more; read it again",
                service=service,
                given=revision,
            )
        _, row = await self._exchange(lambda: kv.get(key))
        return StoredPolicy(service, document, row["ModifyIndex"] if row else 0)

    async def delete_policy(self, service: str) -> None:
        """See ``Registry.delete_policy``."""
        await self._exchange(lambda: self._client.api.kv.delete(self._names.policy(service)))

    async def close(self) -> None:
        """See ``Announcer.close``."""
        for announcement in self._announced:
            await announcement.close()
        await self._client.api.close()

    async def _exchange(self, start: Callable[[], Awaitable[Any]]) -> Any:
        try:
            result = await self._client.call(start())
        except WeftError as err:
            self.available = self.available and err.reason != Reason.REGISTRY_UNAVAILABLE
            raise
        return result

    async def _read(self) -> _Reading:
        """Everything, now. Keys come last: an instance that left wrote down its wish before."""
        api, call, names = self._client.api, self._client.call, self._names
        services_index, listed = await call(api.catalog.services())
        ours = sorted(name for name in listed if name.startswith(names.consul_service("")))
        rows = await asyncio.gather(*(call(api.health.service(name)) for name in ours))
        keys_index, entries = await self._read_keys()
        if not entries.marker:
            await call(api.kv.put(names.marker, uuid.uuid4().hex, cas=0))
            keys_index, entries = await self._read_keys()
        await self._prune(entries)
        instances: list[Instance] = []
        failing: set[str] = set()
        cursors = {"": int(services_index), "/": keys_index}
        for name, (index, found) in zip(ours, rows, strict=True):
            some, bad = from_health(name.removeprefix(names.consul_service("")), found)
            instances += some
            failing |= bad
            cursors[name] = int(index)
        instances.sort(key=lambda i: (i.service, i.id))
        return _Reading(tuple(instances), frozenset(failing), entries, cursors)

    async def _read_keys(self) -> tuple[int, Entries]:
        index, rows = await self._exchange(lambda: self._client.api.kv.get(self._names.root, recurse=True))
        return int(index), from_keys(self._names, rows or ())

    async def _prune(self, entries: Entries) -> None:
        for instance_id in entries.departures[:-_MAX_DEPARTURES]:
            await self._client.call(self._client.api.kv.delete(self._names.left(instance_id)))

    async def _until_change(self, reading: _Reading, wait_s: int) -> None:
        """Return when Consul says that something moved, or nothing did for ``wait_s``, or it went away."""
        api, wait = self._client.api, f"{wait_s}s"
        timeout_s = wait_s * 17 / 16 + _EXCHANGE_S
        queries: list[Awaitable[Any]] = []
        for name, cursor in reading.cursors.items():
            index = max(cursor, 1)  # Consul takes 0 for "don't wait"
            if name == "":
                queries.append(api.catalog.services(index=index, wait=wait))
            elif name == "/":
                queries.append(api.kv.get(self._names.root, recurse=True, index=index, wait=wait))
            else:
                queries.append(api.health.service(name, index=index, wait=wait))
        tasks = [asyncio.ensure_future(self._client.call(query, timeout_s)) for query in queries]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _is_new_registry(last: _Reading, reading: _Reading) -> bool:
    return reading.entries.marker != last.entries.marker or reading.cursors[""] < last.cursors[""]


def _compose(reading: _Reading, index: int, *, warm: bool) -> Catalogue:
    listed = {instance.id for instance in reading.instances}
    return Catalogue(
        instances=reading.instances,
        policies=reading.entries.policies,
        index=index,
        warm=warm,
        deregistered=frozenset(reading.entries.departures) - listed,
        failing=reading.failing,
    )


class Announcement:
    """A ``Registration``: one record and the task that looks after it."""

    def __init__(self, client: _Client, names: Names, instance: Instance) -> None:
        self._client = client
        self._names = names
        self._instance = instance
        self._meta = to_meta(instance)
        self._away = False
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Make the first attempt, then look after it in a task.

        Raises:
            WeftError: Consul refuses the record.
        """
        try:
            await self._announce()
        except WeftError as err:
            if err.reason != Reason.REGISTRY_UNAVAILABLE:
                raise
            self._went_away(err)
        self._task = asyncio.create_task(self._keep(), name=f"consul-{self._instance.id}")

    async def deregister(self) -> None:
        """See ``Registration.deregister``."""
        await self.close()
        api, instance_id = self._client.api, self._instance.id
        try:
            async with asyncio.timeout(_EXCHANGE_S):
                await self._client.call(api.kv.put(self._names.left(instance_id), f"{time.time():.0f}"))
                await self._client.call(api.agent.service.deregister(instance_id))
        except (WeftError, TimeoutError) as exc:
            _log.warning("not deregistered (%s); Consul's check will find us gone", exc)

    async def close(self) -> None:
        """See ``Registration.close``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S * random.uniform(0.5, 1.0) / (3 if self._away else 1))
            try:
                if not await self._is_known():
                    await self._announce()
                    _log.info("registered %s again", self._instance.id)
                self._away = False
            except WeftError as err:
                self._went_away(err)

    async def _is_known(self) -> bool:
        found = await self._client.call(self._client.api.agent.service_definition(self._instance.id))
        return bool(found)

    async def _announce(self) -> None:
        instance, api = self._instance, self._client.api
        check = consul.Check.grpc(
            instance.address, _CHECK_INTERVAL, timeout=_CHECK_TIMEOUT, deregister=_FORGET_AFTER
        ) | {"status": "passing"}  # it serves before it registers; without, callers would wait for the first check
        await self._client.call(
            api.agent.service.register(
                self._names.consul_service(instance.service),
                service_id=instance.id,
                address=instance.host,
                port=instance.port,
                tags=list(instance.tags),
                meta=self._meta,
                check=check,
                replace_existing_checks=True,
            )
        )
        await self._client.call(api.kv.delete(self._names.left(instance.id)))

    def _went_away(self, err: WeftError) -> None:
        if not self._away:
            _log.warning("%s; trying on", err)
        self._away = True

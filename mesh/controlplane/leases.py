"""The built-in registry: leases counted in memory, records and policies in ``mesh.db``.

    grant ──> 6 ticks ──renew──> 6 ticks again …
                │ a tick each fifth of the TTL
                └── 0: the lease is dropped           release: dropped at once, and remembered as a wish

Leases run by the reaper's ticks and not by the clock. A control plane that stood still for 20 s
(paused, swapped out) wakes up to one tick, not to twenty seconds of missed renewals, so it evicts
nobody who renews again; and renewals cost no write. After a restart the records are read back and
each gets a full lease, and 3 s more for redialling. Until every one of them was renewed, released or
dropped the list may be wrong, and the catalogue says so: it is not warm. A store without records has
nothing to wait for.

Errors: LEASE_NOT_FOUND asks an instance to register again, POLICY_CONFLICT, REGISTRY_UNAVAILABLE
where SQLite can't write.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from mesh import records
from mesh.controlplane.store import MAX_DEPARTURES, Contents, Store
from mesh.registry import Catalogue, Instance, StoredPolicy
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
_TICKS_PER_TTL: Final = 5
_FULL_LEASE: Final = _TICKS_PER_TTL + 1  # the first tick may come right after the renewal
_REDIAL_S: Final = 3.0  # gRPC redials a peer that was away for long after up to 2.4 s
_MAX_INSTANCES: Final = 10_000
_MAX_DOCUMENT_CHARS: Final = 100_000

T = TypeVar("T")
Key = tuple[str, str]  # service, id


class LeaseRegistry:
    """A ``Registry``, and what RegistryService answers from.

    Attributes:
        ttl_s: how long a lease runs without renewal, in seconds.
        available: whether the last write succeeded.
    """

    def __init__(self, store: Store, contents: Contents, pool: ThreadPoolExecutor, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.available = True
        self._store = store
        self._pool = pool
        self._writing = asyncio.Lock()
        self._index = contents.index
        self._instances: dict[Key, Instance] = {(i.service, i.id): i for i in contents.instances}
        restored = _FULL_LEASE + math.ceil(_REDIAL_S / (ttl_s / _TICKS_PER_TTL))
        self._ticks: dict[Key, int] = dict.fromkeys(self._instances, restored)
        self._unconfirmed: set[Key] = set(self._instances)
        self._policies = {policy.service: policy for policy in contents.policies}
        self._departed: dict[str, None] = dict.fromkeys(contents.departures)  # in order, oldest first
        self._changes: set[asyncio.Future[Any]] = set()
        self._changed = asyncio.Event()
        self._catalogue = self._compose()

    async def grant(self, instance: Instance) -> None:
        """Store the record and give it a full lease.

        Raises:
            WeftError: INVALID_FIELD, REGISTRY_UNAVAILABLE.
        """
        await self._complete(self._grant(records.check(instance)))

    async def _grant(self, instance: Instance) -> None:
        key = (instance.service, instance.id)
        async with self._writing:
            if self._instances.get(key) != instance:
                if key not in self._instances and len(self._instances) >= _MAX_INSTANCES:
                    raise error(
                        Reason.REGISTRY_UNAVAILABLE,
                        f"the built-in registry holds {_MAX_INSTANCES} instances, which is all it takes",
                        limit=_MAX_INSTANCES,
                    )
                self._advance(await self._write(self._store.put_instance, instance))
                self._instances[key] = instance
                self._departed.pop(instance.id, None)
            self._ticks[key] = _FULL_LEASE
            self._unconfirmed.discard(key)
            self._publish()

    def renew(self, service: str, instance_id: str) -> None:
        """Give the lease its full length again.

        Raises:
            WeftError: LEASE_NOT_FOUND.
        """
        key = (service, instance_id)
        if key not in self._ticks:
            raise error(
                Reason.LEASE_NOT_FOUND,
                f"no lease for instance {instance_id!r} of {service!r}; register again",
                service=service,
                id=instance_id,
            )
        self._ticks[key] = _FULL_LEASE
        if key in self._unconfirmed:
            self._unconfirmed.discard(key)
            self._publish()

    async def release(self, service: str, instance_id: str) -> None:
        """Drop a lease as the instance's own wish. An unknown one is no error."""
        await self._complete(self._release(service, instance_id))

    async def _release(self, service: str, instance_id: str) -> None:
        key = (service, instance_id)
        async with self._writing:
            if key in self._instances:
                index = await self._write(lambda: self._store.drop_instances([key], departed=True))
                self._departed[instance_id] = None
                while len(self._departed) > MAX_DEPARTURES:
                    del self._departed[next(iter(self._departed))]
                self._forget([key], index)

    def instances(self, service: str = "") -> tuple[Instance, ...]:
        """Records whose leases run, of one service or of all, by service and id."""
        return tuple(i for i in self._catalogue.instances if not service or i.service == service)

    async def watch(self) -> AsyncIterator[Catalogue]:
        """See ``Registry.watch``."""
        while True:
            changed = self._changed
            yield self._catalogue
            await changed.wait()

    async def policies(self) -> tuple[StoredPolicy, ...]:
        """See ``Registry.policies``."""
        return self._catalogue.policies

    async def put_policy(self, service: str, document: str, *, revision: int | None) -> StoredPolicy:
        """See ``Registry.put_policy``."""
        if len(document) > _MAX_DOCUMENT_CHARS:
            raise error(
                Reason.POLICY_INVALID,
                f"the policy of {service!r} has {len(document)} characters; at most {_MAX_DOCUMENT_CHARS} are kept",
                service=service,
            )
        return await self._complete(self._put_policy(service, document, revision))

    async def _put_policy(self, service: str, document: str, revision: int | None) -> StoredPolicy:
        async with self._writing:
            stored = self._policies.get(service)
            present = stored.revision if stored else 0
            if revision is not None and revision != present:
                raise error(
                    Reason.POLICY_CONFLICT,
                    f"the policy of {service!r} is at revision {present}, not {revision}; read it again",
                    service=service,
                    revision=present,
                    given=revision,
                )
            written = await self._write(self._store.put_policy, service, document)
            self._policies[service] = written
            self._advance(written.revision)
            self._publish()
            return written

    async def delete_policy(self, service: str) -> None:
        """See ``Registry.delete_policy``."""
        await self._complete(self._delete_policy(service))

    async def _delete_policy(self, service: str) -> None:
        async with self._writing:
            if service in self._policies:
                self._advance(await self._write(self._store.delete_policy, service))
                del self._policies[service]
                self._publish()

    async def close(self) -> None:
        """Let changes that are under way finish. ``open_leases`` releases the rest."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def reap(self) -> None:
        """Tick for ever."""
        while True:
            await asyncio.sleep(self.ttl_s / _TICKS_PER_TTL)
            await self.tick()

    async def tick(self) -> None:
        """Take one tick from every lease and drop those that ran out."""
        async with self._writing:
            for key in self._ticks:
                self._ticks[key] -= 1
            gone = [key for key, ticks in self._ticks.items() if ticks <= 0]
            if not gone:
                return
            _log.warning("not renewed for %.1f s, dropped: %s", self.ttl_s, ", ".join(i for _, i in gone))
            self._forget(gone, self._index)
            # Where the file can't be written they are gone all the same: a restart would read them
            # back and drop them again.
            with suppress(WeftError):
                await self._write(lambda: self._store.drop_instances(gone, departed=False))

    def _forget(self, keys: list[Key], index: int) -> None:
        for key in keys:
            del self._instances[key], self._ticks[key]
            self._unconfirmed.discard(key)
        self._advance(index)
        self._publish()

    def _advance(self, index: int) -> None:
        self._index = max(self._index + 1, index)

    def _publish(self) -> None:
        self._catalogue = self._compose()
        self._changed.set()
        self._changed = asyncio.Event()

    def _compose(self) -> Catalogue:
        return Catalogue(
            instances=tuple(self._instances[key] for key in sorted(self._instances)),
            policies=tuple(self._policies[service] for service in sorted(self._policies)),
            index=self._index,
            warm=not self._unconfirmed,
            deregistered=frozenset(self._departed),
        )

    async def _complete(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change to its end even if its caller goes away: file and memory must not part."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _write(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        except sqlite3.Error as exc:
            self.available = False
            raise error(
                Reason.REGISTRY_UNAVAILABLE, f"the registry's store {self._store.path} cannot be written: {exc}"
            ) from exc
        self.available = True
        return result


@asynccontextmanager
async def open_leases(directory: Path, ttl_s: float) -> AsyncIterator[LeaseRegistry]:
    """The built-in registry over ``directory/mesh.db``, with its reaper running.

    Raises:
        WeftError: STORE_CORRUPT, or REGISTRY_UNAVAILABLE where the directory can't be used or is in use.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="mesh-db") as pool:
        store = await loop.run_in_executor(pool, Store, directory)
        reaper: asyncio.Task[None] | None = None
        try:
            registry = LeaseRegistry(store, await loop.run_in_executor(pool, store.read), pool, ttl_s)
            reaper = asyncio.create_task(registry.reap(), name="lease-reaper")
            yield registry
        finally:
            if reaper is not None:
                reaper.cancel()
                await asyncio.gather(reaper, return_exceptions=True)
                await registry.close()
            await loop.run_in_executor(pool, store.close)

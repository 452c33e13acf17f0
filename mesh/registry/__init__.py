"""What the mesh asks of a registry, and the records that pass through it.

A registry has two users, and a protocol for each. An instance uses an **Announcer**: ``register``
keeps its record alive until ``close``, whatever happens to the registry in between (restarts, empty
stores, lost leases), and ``deregister`` takes it back at once. The control plane uses a **Registry**:
``watch`` yields a whole ``Catalogue`` on every change, and the route policies live beside the records
under compare-and-set.

One file per backend, chosen by the scheme of ``WEFT_REGISTRY`` and imported only then. Its
``open(url, settings)`` returns an Announcer that is a Registry too, with one exception: the built-in
registry is the control plane itself, so ``builtin.py`` is only the instances' side, and the other
side is ``mesh/controlplane/leases.py``. Every backend passes ``tests/conformance/test_registry.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC that an instance serves. ``idempotent`` is what its proto declares."""

    path: str  # "/package.Service/Method"
    idempotent: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """The record of one process serving one service. It changes seldom: no load, no epoch."""

    service: str
    id: str
    host: str
    port: int
    metrics_port: int = 0
    version: str = "v1"
    zone: str = ""
    tags: tuple[str, ...] = ()
    methods: tuple[Method, ...] = ()
    started_unix_s: float = 0.0

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A route policy as the store holds it: JSON text, since it may have come in another way than
    through RoutingService and then be anything. ``revision`` grows with each change."""

    service: str
    document: str
    revision: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that a registry knows at one moment.

    ``index`` grows with each change while the registry lives; running backwards means a new, perhaps
    empty, registry. ``deregistered`` holds ids whose instances took themselves off the list since the
    registry began (bounded, newest kept), which tells a wish from a failure. ``warm`` is false until
    the registry can vouch that the list is complete.
    """

    instances: tuple[Instance, ...]
    policies: tuple[StoredPolicy, ...]
    index: int
    warm: bool
    deregistered: frozenset[str] = field(default=frozenset())
    failing: frozenset[str] = field(default=frozenset())  # ids on the list whose check doesn't pass


class Registration(Protocol):
    """A record that is being kept alive by a task of its own."""

    async def deregister(self) -> None:
        """Take the record off the list now, as our own wish. Idempotent; gives up after 2 s."""

    async def close(self) -> None:
        """Stop keeping it alive, without deregistering."""


class Announcer(Protocol):
    """What an instance asks of a registry."""

    async def register(self, instance: Instance) -> Registration:
        """Announce ``instance`` and keep it announced. Returns once the first attempt was made; a
        registry that is away is retried for ever, with back-off, and is not an error.

        Raises:
            WeftError: the registry answers and refuses the record.
        """

    async def close(self) -> None:
        """Release connections and tasks."""


class Registry(Protocol):
    """What the control plane asks of a registry.

    Attributes:
        ttl_s: how long a record outlives its process, in seconds.
        available: whether the last exchange succeeded.
    """

    ttl_s: float
    available: bool

    def watch(self) -> AsyncIterator[Catalogue]:
        """Yield the catalogue now and after every change. Never ends and never raises for a
        registry that is away: it yields nothing until it is back, with ``available`` false."""

    async def policies(self) -> tuple[StoredPolicy, ...]:
        """All policies as stored, by service. REGISTRY_UNAVAILABLE where the store cannot be reached."""

    async def put_policy(self, service: str, document: str, *, revision: int | None) -> StoredPolicy:
        """Store by compare-and-set: ``revision`` is the one that was read, 0 to create, None to
        overwrite. POLICY_CONFLICT when it is another; REGISTRY_UNAVAILABLE."""

    async def delete_policy(self, service: str) -> None:
        """Remove; absent is no error. REGISTRY_UNAVAILABLE."""

    async def close(self) -> None:
        """Release connections and tasks."""

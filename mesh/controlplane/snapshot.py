"""Snapshots: what the mesh looks like, as a pure function of what was known and what the registry says.

    fold(state, catalogue, tick) -> state          state.snapshot is what the streams show

    cold ──first warm catalogue──> following ──index runs backwards──> renewing ──one TTL──> following

- **cold**: nothing is published. A control plane that shows a half-read list breaks the callers of all
  that is missing from it; silence breaks nobody.
- **following**: each catalogue is folded in, members by the rules of ``guard.py``.
- **renewing**: the registry is a new one. Whoever it doesn't list yet is held for one TTL, and policies it
  doesn't have stay in force and are named in ``state.restore`` for the caller to write back, each to be
  created only (revision 0), until the registry lists them.

A catalogue that isn't warm changes nothing. A service that was once seen stays, with no instances if need
be, so that its callers are told "unavailable" instead of waiting for a name. A version that nothing refers
to any more stays one TTL longer, so that no route leads to a cluster that is gone.

A policy document that can't be carried out leaves the last good one in force and is named with its problem.
An instance whose record can't be dialled is left out and named likewise.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mesh.controlplane import guard
from mesh.controlplane.guard import Members
from mesh.controlplane.policy import SERVICE_NAME, VERSION_LABEL, RoutePolicy, read, to_document
from mesh.registry import Catalogue, Instance, Method, StoredPolicy

_METHOD_PATH: Final = re.compile(r"/[A-Za-z0-9_.]{1,200}/[A-Za-z0-9_]{1,100}")
_ZONE: Final = re.compile(r"[A-Za-z0-9._/:-]{0,63}")
_VERSION_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Version:
    """The instances of a service that carry one version label, by id."""

    label: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its versions by label, its method table by path, the policy in force."""

    name: str
    versions: tuple[Version, ...]
    methods: tuple[Method, ...]
    policy: RoutePolicy | None = None

    def instances(self) -> tuple[Instance, ...]:
        """All instances, by version, then id."""
        return tuple(instance for version in self.versions for instance in version.instances)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What became of a stored policy.

    Attributes:
        service: whose policy.
        revision: the stored document's.
        policy: the policy in force; None where there is none.
        problem: why the stored document isn't in force; empty where it is.
        since: version of the first snapshot that held the policy in force.
    """

    service: str
    revision: int
    policy: RoutePolicy | None
    problem: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An instance on the registry's list that the snapshot leaves out, and why."""

    service: str
    id: str
    problem: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment. ``version`` is a hash of the services: equal content, equal version.

    ``held`` are ids that the registry no longer vouches for, kept by the guard.
    """

    version: str
    services: tuple[Service, ...]
    policies: tuple[PolicyState, ...] = ()
    held: frozenset[str] = frozenset()
    refused: tuple[Refused, ...] = ()

    def service(self, name: str) -> Service | None:
        """The service of this name, or None."""
        return next((service for service in self.services if service.name == name), None)


@dataclass(frozen=True, slots=True)
class State:
    """All that one fold hands to the next. Start with ``State()``; treat the fields as this module's own,
    save ``snapshot`` and ``restore``."""

    snapshot: Snapshot | None = None
    """What to publish; None while cold."""
    restore: tuple[StoredPolicy, ...] = ()
    """Policies in force that a new registry lacks: to be created there."""
    index: int = 0
    members: Mapping[str, Members] = field(default_factory=dict)
    renewed_until: int = 0
    lingering: Mapping[tuple[str, str], int] = field(default_factory=dict)


def fold(state: State, catalogue: Catalogue, tick: int, *, ttl_ticks: int) -> State:
    """Fold what the registry says into what is known.

    Call it for each new catalogue, and with the last one again for each tick, so that what was held can
    leave. ``tick`` never runs backwards and only counts while the registry answers; ``ttl_ticks`` ticks
    are one TTL.
    """
    if state.snapshot is None:
        if not catalogue.warm:
            return state
        return _following(replace(state, index=catalogue.index), None, catalogue, tick, ttl_ticks)
    if catalogue.index < state.index:
        state = replace(state, index=catalogue.index, renewed_until=tick + ttl_ticks, restore=_in_force(state.snapshot))
    if not catalogue.warm:
        if state.renewed_until > tick:  # its instances' time begins when it can be believed
            return replace(state, renewed_until=tick + ttl_ticks)
        return state
    return _following(replace(state, index=catalogue.index), state.snapshot, catalogue, tick, ttl_ticks)


def forget_policy(state: State, service: str) -> State:
    """Don't write ``service``'s policy back: an operator has just deleted it."""
    return replace(state, restore=tuple(p for p in state.restore if p.service != service))


def _in_force(snapshot: Snapshot) -> tuple[StoredPolicy, ...]:
    return tuple(
        StoredPolicy(state.service, to_document(state.policy), 0)
        for state in snapshot.policies
        if state.policy is not None
    )


def _following(state: State, before: Snapshot | None, catalogue: Catalogue, tick: int, ttl_ticks: int) -> State:
    listed, refused = _listed(catalogue)
    members = {
        name: guard.step(
            state.members.get(name, Members()),
            listed.get(name, ()),
            deregistered=catalogue.deregistered,
            tick=tick,
            ttl_ticks=ttl_ticks,
            renewed_until=state.renewed_until,
        )
        for name in sorted(state.members.keys() | listed.keys())
    }
    stored = {policy.service: policy for policy in catalogue.policies}
    restore = tuple(policy for policy in state.restore if policy.service not in stored)
    policies = _policies(before, stored, {policy.service for policy in restore})
    lingering = _lingering(state, before, members, policies, tick, ttl_ticks)
    services = tuple(
        _service(name, group, before, policies.get(name), [label for owner, label in lingering if owner == name])
        for name, group in members.items()
    )
    snapshot = _snapshot(services, before, policies, members, refused)
    return replace(state, snapshot=snapshot, restore=restore, members=members, lingering=lingering)


def _listed(catalogue: Catalogue) -> tuple[dict[str, list[Instance]], tuple[Refused, ...]]:
    """The instances that pass their checks and can be dialled, by service."""
    listed: dict[str, dict[str, Instance]] = {}
    refused = []
    for instance in catalogue.instances:
        problem = problem_of(instance)
        if problem:
            refused.append(Refused(instance.service, instance.id, problem))
        elif instance.id not in catalogue.failing:
            host = str(ipaddress.ip_address(instance.host))  # one spelling: two would be one address twice
            listed.setdefault(instance.service, {})[instance.id] = replace(instance, host=host)
    refused.sort(key=lambda r: (r.service, r.id))
    return {name: list(group.values()) for name, group in listed.items()}, tuple(refused)


def problem_of(instance: Instance) -> str:
    """Why nobody could dial this instance; empty where one could. One bad endpoint would make clients
    refuse its whole cluster, so such a record never gets that far."""
    if not SERVICE_NAME.fullmatch(instance.service):
        return f"service {instance.service!a} is not a service name: 1 to 63 of a-z, 0-9 and '-'"
    try:
        address = ipaddress.ip_address(instance.host)
    except ValueError:
        return f"host {instance.host!a} is not an IP address; register the address that callers dial"
    if address.is_unspecified or "%" in instance.host:
        return f"host {instance.host} can't be dialled from elsewhere; register the address that callers dial"
    if not 1 <= instance.port <= 65_535:
        return f"port {instance.port} is not between 1 and 65535"
    if not VERSION_LABEL.fullmatch(instance.version):
        return f"version {instance.version!a} is not a version label: 1 to 63 of letters, digits, '.', '_' and '-'"
    if not _ZONE.fullmatch(instance.zone):
        return f"zone {instance.zone!a} is not a zone: at most 63 of letters, digits, '.', '_', '/', ':' and '-'"
    for method in instance.methods:
        if not _METHOD_PATH.fullmatch(method.path):
            return f"method {method.path!a} is not a path of the form /package.Service/Method"
    return ""


def _policies(
    before: Snapshot | None, stored: Mapping[str, StoredPolicy], restoring: set[str]
) -> dict[str, PolicyState]:
    """What becomes of each stored policy, and of those that are being written back."""
    known = {state.service: state for state in before.policies} if before else {}
    result = {}
    for service, document in stored.items():
        policy, problem = read(document)
        last = known.get(service)
        if policy is None:
            policy = last.policy if last else None
        result[service] = PolicyState(service, document.revision, policy, problem)
    for service in restoring - stored.keys():
        result[service] = known[service]
    return dict(sorted(result.items()))


def _lingering(
    state: State,
    before: Snapshot | None,
    members: Mapping[str, Members],
    policies: Mapping[str, PolicyState],
    tick: int,
    ttl_ticks: int,
) -> dict[tuple[str, str], int]:
    """Versions that nothing refers to any more, with the tick until which they stay."""
    result = {}
    for service in before.services if before else ():
        wanted = {instance.version for instance in members[service.name].all()} | _named(policies.get(service.name))
        for version in service.versions:
            key = (service.name, version.label)
            until = state.lingering.get(key, tick + ttl_ticks)
            if version.label not in wanted and until > tick:
                result[key] = until
    return result


def _named(state: PolicyState | None) -> frozenset[str]:
    return state.policy.versions() if state and state.policy else frozenset()


def _service(
    name: str, members: Members, before: Snapshot | None, policy: PolicyState | None, lingering: Iterable[str]
) -> Service:
    instances = members.all()
    by_label: dict[str, list[Instance]] = {label: [] for label in {*lingering, *_named(policy)}}
    for instance in instances:
        by_label.setdefault(instance.version, []).append(instance)
    known = before.service(name) if before else None
    methods = _methods(instances) if instances or known is None else known.methods
    return Service(
        name=name,
        versions=tuple(Version(label, tuple(group)) for label, group in sorted(by_label.items())),
        methods=methods,
        policy=policy.policy if policy else None,
    )


def _methods(instances: Iterable[Instance]) -> tuple[Method, ...]:
    """One table for the service. A method is idempotent where all that serve it say so."""
    table: dict[str, bool] = {}
    for instance in instances:
        for method in instance.methods:
            table[method.path] = table.get(method.path, True) and method.idempotent
    return tuple(Method(path, idempotent) for path, idempotent in sorted(table.items()))


def _snapshot(
    services: tuple[Service, ...],
    before: Snapshot | None,
    policies: Mapping[str, PolicyState],
    members: Mapping[str, Members],
    refused: tuple[Refused, ...],
) -> Snapshot:
    version = _content_hash(services)
    known = {state.service: state for state in before.policies} if before else {}
    return Snapshot(
        version=version,
        services=services,
        policies=tuple(
            _dated(state, known.get(name), version, served=name in members) for name, state in policies.items()
        ),
        held=frozenset(held.instance.id for group in members.values() for held in group.held),
        refused=refused,
    )


def _dated(state: PolicyState, last: PolicyState | None, version: str, *, served: bool) -> PolicyState:
    if state.policy is None:
        return state
    if not served:
        problem = state.problem or f"no instance of {state.service} has been seen yet"
        return replace(state, problem=problem, since="")
    if last and last.since and last.policy and to_document(last.policy) == to_document(state.policy):
        return replace(state, since=last.since)
    return replace(state, since=version)


def _content_hash(services: tuple[Service, ...]) -> str:
    """Equal for equal content, in every process. A policy's revision is no content."""
    content = [
        (
            service.name,
            [(v.label, [(i.id, i.address, i.zone) for i in v.instances]) for v in service.versions],
            [(method.path, method.idempotent) for method in service.methods],
            to_document(service.policy) if service.policy else None,
        )
        for service in services
    ]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:_VERSION_CHARS]

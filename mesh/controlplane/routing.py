"""Route policies as operators use them: checked, stored by compare-and-set, read with what is wrong.

Reads come from the registry's store, so that one sees what was just written. While it is away, the
last known policies are read; writes are refused with REGISTRY_UNAVAILABLE.
"""

from __future__ import annotations

from mesh.controlplane.feed import Feed
from mesh.controlplane.policy import RoutePolicy, read, to_document, validate
from mesh.controlplane.snapshot import PolicyState, Snapshot
from mesh.registry import Registry, StoredPolicy
from weft.errors import Reason, WeftError, error


class Routing:
    """Reads and writes policies."""

    def __init__(self, registry: Registry, feed: Feed) -> None:
        self._registry = registry
        self._feed = feed

    async def put(self, policy: RoutePolicy, *, force: bool) -> tuple[RoutePolicy, list[str]]:
        """Store ``policy``; returns it with its new revision, and warnings.

        ``policy.revision`` is the one that was read, 0 to create; ``force`` overwrites any.

        Raises:
            WeftError: POLICY_INVALID, POLICY_CONFLICT, REGISTRY_UNAVAILABLE.
        """
        checked = validate(policy)
        stored = await self._registry.put_policy(
            checked.service, to_document(checked), revision=None if force else checked.revision
        )
        kept = RoutePolicy(checked.service, checked.weights, checked.headers, stored.revision)
        return kept, warnings(kept, self._feed.state.snapshot)

    async def get(self, service: str) -> PolicyState:
        """One service's policy.

        Raises:
            WeftError: POLICY_NOT_FOUND, REGISTRY_UNAVAILABLE.
        """
        for state in await self.all():
            if state.service == service:
                return state
        raise error(
            Reason.POLICY_NOT_FOUND,
            f"no route policy is set for {service[:63]!r}: its calls spread evenly over all versions",
            service=service[:63],
        )

    async def all(self) -> list[PolicyState]:
        """Every policy, by service.

        Raises:
            WeftError: REGISTRY_UNAVAILABLE, where nothing is known from before either.
        """
        snapshot = self._feed.state.snapshot
        known = {state.service: state for state in snapshot.policies} if snapshot else {}
        try:
            stored = await self._registry.policies()
        except WeftError:
            if snapshot is None:
                raise
            return list(known.values())
        found = {policy.service: _state(policy, known.get(policy.service)) for policy in stored}
        for policy in self._feed.state.restore:  # in force, and on its way back into an emptied registry
            if policy.service in known:
                found.setdefault(policy.service, known[policy.service])
        return [found[service] for service in sorted(found)]

    async def delete(self, service: str) -> None:
        """Back to an even spread; absent is no error.

        Raises:
            WeftError: REGISTRY_UNAVAILABLE.
        """
        self._feed.forget_policy(service)
        await self._registry.delete_policy(service)


def warnings(policy: RoutePolicy, snapshot: Snapshot | None) -> list[str]:
    """What an operator should know of a valid policy."""
    service = snapshot.service(policy.service) if snapshot else None
    if service is None:
        return [f"no instance of {policy.service} has registered yet"]
    there = {version.label for version in service.versions if version.instances}
    missing = sorted(policy.versions() - there)
    found = [f"version {label} has no instances; its calls go to the other versions" for label in missing]
    unused = sorted(there - policy.versions()) if policy.weights else []
    return found + [f"version {label} has instances but takes no share of the calls" for label in unused]


def _state(stored: StoredPolicy, known: PolicyState | None) -> PolicyState:
    if known is not None and known.revision == stored.revision:
        return known
    policy, problem = read(stored)  # newer than the snapshot
    return PolicyState(stored.service, stored.revision, policy, problem)

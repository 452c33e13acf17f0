"""Who belongs to a service: the registry's word, held back where the registry is likelier to err than
the service to die.

An instance may leave the list in three ways:

- it **deregistered**: gone at once, as it wished;
- it **failed** (no lease, a check that doesn't pass) among few: gone at once too;
- it failed and, within one TTL, **more than half** of its service with it: held for one TTL. A partitioned
  registry looks like this, a paused control plane too, and callers can still reach what it lost. What is
  held comes back by itself when the registry sees it again, and leaves when the TTL has passed.

A **new registry** (its index ran backwards) knows nobody yet: all that it doesn't list is held until the
instances had one TTL to register again.

Time is counted in **ticks**, which the caller passes in: they pass only while the control plane runs and
the registry answers, so a process that was stopped for a minute evicts nobody when it wakes up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.registry import Instance


@dataclass(frozen=True, slots=True)
class Held:
    """An instance that left the list, kept until the tick ``until``."""

    instance: Instance
    until: int


@dataclass(frozen=True, slots=True)
class Members:
    """One service's instances. ``lost`` are ids that failed lately, with the tick until which they count
    among the failures that more than half is reckoned by."""

    live: tuple[Instance, ...] = ()
    held: tuple[Held, ...] = ()
    lost: tuple[tuple[str, int], ...] = ()

    def all(self) -> tuple[Instance, ...]:
        """Live and held ones, by id; of two at one address the live, else the younger one."""
        by_address: dict[str, Instance] = {}
        held = sorted((h.instance for h in self.held), key=_age)
        for instance in (*held, *sorted(self.live, key=_age)):
            by_address[instance.address] = instance
        return tuple(sorted(by_address.values(), key=lambda i: i.id))


def _age(instance: Instance) -> tuple[float, str]:
    return instance.started_unix_s, instance.id


def step(
    before: Members,
    listed: Iterable[Instance],
    *,
    deregistered: frozenset[str],
    tick: int,
    ttl_ticks: int,
    renewed_until: int = 0,
) -> Members:
    """What the service has now, given what it had and what the registry lists.

    ``renewed_until`` is the tick until which a new registry is given time; 0 where it is the same one.
    """
    live = {instance.id: instance for instance in listed}
    taken = {instance.address for instance in live.values()}

    def stays_away(instance: Instance) -> bool:
        """Left the list, not by its own wish, and no other process sits at its address."""
        return instance.id not in live and instance.id not in deregistered and instance.address not in taken

    carried = [h for h in before.held if h.until > tick and stays_away(h.instance)]
    lost = [(id_, until) for id_, until in before.lost if until > tick and id_ not in live]
    gone = [i for i in before.live if stays_away(i)]
    remaining = [i for i in before.live if i.id in live]

    if renewed_until > tick:
        carried = [Held(h.instance, max(h.until, renewed_until)) for h in carried]
        carried += [Held(i, renewed_until) for i in gone]
    elif _is_suspicious(failed=len(gone) + len(carried) + len(lost), well=len(remaining)):
        carried += [Held(i, tick + ttl_ticks) for i in gone]
    else:
        lost += [(i.id, tick + ttl_ticks) for i in gone]
    return Members(
        live=tuple(sorted(live.values(), key=lambda i: i.id)),
        held=tuple(sorted(carried, key=lambda h: h.instance.id)),
        lost=tuple(sorted(lost)),
    )


def _is_suspicious(*, failed: int, well: int) -> bool:
    return failed > well

"""Our records in Consul's terms.

A service of the mesh is ``<prefix>-<service>`` in Consul, so that two meshes share one cluster. What
operators and Prometheus' service discovery want to read stands in the service's meta under plain names;
the method table is one compact JSON text, cut to fit: Consul takes 64 values of 512 characters.

    meta  version=v2 zone=a metrics_port=9102 started=1700000000.0 methods_0={"weft.…":{"Search":1}}
    KV    <prefix>/policies/<service>   a route policy, JSON
          <prefix>/left/<id>            an instance took itself off the list
          <prefix>/registry             names this registry; gone when it came back empty
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from mesh import records
from mesh.registry import Instance, StoredPolicy
from weft.errors import Reason, error

_log = logging.getLogger(__name__)
_MAX_META_CHARS: Final = 512
_MAX_CHUNKS: Final = 48


@dataclass(frozen=True, slots=True)
class Names:
    """Where things lie under one prefix."""

    prefix: str

    def consul_service(self, service: str) -> str:
        """Consul's name of a service of the mesh."""
        return f"{self.prefix}-{service}"

    def policy(self, service: str) -> str:
        """Key of a route policy."""
        return f"{self.prefix}/policies/{service}"

    def left(self, instance_id: str) -> str:
        """Key of a departure."""
        return f"{self.prefix}/left/{instance_id}"

    @property
    def marker(self) -> str:
        """Key of the registry's name."""
        return f"{self.prefix}/registry"

    @property
    def root(self) -> str:
        """What all keys begin with."""
        return f"{self.prefix}/"


@dataclass(frozen=True, slots=True)
class Entries:
    """What lies under the prefix in KV."""

    marker: str = ""
    policies: tuple[StoredPolicy, ...] = ()
    departures: tuple[str, ...] = ()  # oldest first


def to_meta(instance: Instance) -> dict[str, str]:
    """The meta of a record.

    Raises:
        WeftError: INVALID_FIELD where the method table is too long.
    """
    table = records.methods_to_json(instance.methods)
    chunks = [table[i : i + _MAX_META_CHARS] for i in range(0, len(table), _MAX_META_CHARS)]
    if len(chunks) > _MAX_CHUNKS:
        raise error(
            Reason.INVALID_FIELD,
            f"instance.methods: the table has {len(table)} characters; Consul's meta takes "
            f"{_MAX_CHUNKS * _MAX_META_CHARS}",
            field="instance.methods",
            length=len(table),
        )
    return {
        "version": instance.version,
        "zone": instance.zone,
        "metrics_port": str(instance.metrics_port),
        "started": repr(instance.started_unix_s),
        **{f"methods_{i}": chunk for i, chunk in enumerate(chunks)},
    }


def from_health(service: str, rows: Iterable[Mapping[str, Any]]) -> tuple[list[Instance], set[str]]:
    """The instances of one service as Consul's health endpoint lists them, and ids of the failing ones.

    A record that isn't ours (another program registered under the name) is left out.
    """
    instances: list[Instance] = []
    failing: set[str] = set()
    for row in rows:
        try:
            instance = _from_row(service, row)
        except (KeyError, TypeError, ValueError) as exc:
            _log.warning("Consul lists an instance of %s that is no record of ours: %s", service, exc)
            continue
        instances.append(instance)
        if any(check.get("Status") == "critical" for check in row.get("Checks") or ()):
            failing.add(instance.id)
    return instances, failing


def _from_row(service: str, row: Mapping[str, Any]) -> Instance:
    entry = row["Service"]
    meta: Mapping[str, str] = entry.get("Meta") or {}
    keys = takewhile(meta.__contains__, (f"methods_{i}" for i in range(_MAX_CHUNKS)))
    return Instance(
        service=service,
        id=entry["ID"],
        host=entry.get("Address") or row["Node"]["Address"],
        port=int(entry["Port"]),
        metrics_port=int(meta.get("metrics_port", "0")),
        version=meta.get("version") or "v1",
        zone=meta.get("zone", ""),
        tags=tuple(entry.get("Tags") or ()),
        methods=records.methods_from_json("".join(meta[key] for key in keys) or "{}"),
        started_unix_s=float(meta.get("started", "0")),
    )


def from_keys(names: Names, rows: Sequence[Mapping[str, Any]]) -> Entries:
    """What a recursive read of the prefix returned."""
    marker, policies, departures = "", [], []
    policy_root, left_root = names.policy(""), names.left("")
    for row in rows:
        key, value = row["Key"], (row["Value"] or b"").decode("utf-8", "replace")
        if key == names.marker:
            marker = value
        elif key.startswith(policy_root) and key != policy_root:
            policies.append(StoredPolicy(key.removeprefix(policy_root), value, row["ModifyIndex"]))
        elif key.startswith(left_root) and key != left_root:
            departures.append((row["ModifyIndex"], key.removeprefix(left_root)))
    policies.sort(key=lambda policy: policy.service)
    return Entries(marker, tuple(policies), tuple(instance_id for _, instance_id in sorted(departures)))

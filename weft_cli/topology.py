"""What ``weft up`` starts: which processes, how many of each, with which settings, ended in which order.

    retriever=2               two retrievers, in place of the default number
    retriever@v2=1            one more, of version v2
    tools=0                   none

The control plane and the trace collector are always there once, except that there is no collector where
OTEL_EXPORTER_OTLP_ENDPOINT names another. Services listen on ports of their own choice on loopback and
register; what they read from the environment beside that is the operator's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import typer

from weft_cli.options import pairs

MODULES: Final[Mapping[str, str]] = {
    "controlplane": "mesh.controlplane",
    "collector": "mesh.telemetry.collector",
    "retriever": "services.retriever",
    "generator": "services.generator",
    "tools": "services.tools",
    "orchestrator": "services.orchestrator",
}
DEFAULT_REPLICAS: Final[Mapping[str, int]] = {"retriever": 2, "generator": 1, "tools": 1, "orchestrator": 1}
# Callers end before those whom they call, so that turns under way can finish.
DRAIN_ORDER: Final = (("orchestrator",), ("retriever", "generator", "tools"), ("controlplane",), ("collector",))
_MAX_REPLICAS: Final = 32
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Spec:
    """One process to keep running."""

    name: str
    """Unique within this mesh: "retriever-1"."""
    service: str
    module: str
    """What ``python -m`` runs."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What is set for it beside what all share."""
    instance_id: str = ""
    """Under which it registers; empty for those that don't."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many of a version of a service; ``version`` is empty for the operator's own, v1 by default."""

    service: str
    version: str
    count: int


def parse_replicas(text: str | None) -> list[Replicas]:
    """``retriever=2,retriever@v2=1`` over the defaults.

    Raises:
        typer.BadParameter: an unknown service, or not a number from 0 to 32.
    """
    wanted = {(service, ""): count for service, count in DEFAULT_REPLICAS.items()}
    for name, number in pairs(text, "--replicas", "retriever=2,retriever@v2=1") if text is not None else ():
        service, _, version = name.partition("@")
        if service not in DEFAULT_REPLICAS:
            raise typer.BadParameter(
                f"{service!r} is no service; there are {', '.join(DEFAULT_REPLICAS)}", param_hint="--replicas"
            )
        if not number.isdecimal() or int(number) > _MAX_REPLICAS:
            raise typer.BadParameter(f"{name}={number}: allowed is 0 to {_MAX_REPLICAS}", param_hint="--replicas")
        wanted[service, version] = int(number)
    return [Replicas(service, version, count) for (service, version), count in wanted.items()]


def infrastructure(mesh: str, collector_port: int | None) -> list[Spec]:
    """Control plane and, where we keep traces ourselves, collector."""
    host, _, port = mesh.rpartition(":")
    specs = [_spec("controlplane", "controlplane", {"WEFT_HOST": host, "WEFT_PORT": port})]
    if collector_port is not None:
        specs.append(_spec("collector", "collector", {"WEFT_PORT": str(collector_port)}))
    return specs


def services(replicas: list[Replicas]) -> list[Spec]:
    """The services' processes. An instance keeps its id when it is started again, so that the registry
    replaces the record of the one that died instead of waiting for its lease to end."""
    mark = secrets.token_hex(3)
    specs: list[Spec] = []
    for item in replicas:
        label = f"{item.service}@{item.version}" if item.version else item.service
        for number in range(1, item.count + 1):
            name = f"{label}-{number}"
            instance_id = f"{name.replace('@', '-')}-{mark}"
            environ = {"WEFT_INSTANCE_ID": instance_id, "WEFT_PORT": "0"}
            if item.version:
                environ["WEFT_VERSION"] = item.version
            specs.append(_spec(name, item.service, environ, instance_id))
    return specs


def _spec(name: str, service: str, environ: Mapping[str, str], instance_id: str = "") -> Spec:
    return Spec(name, service, MODULES[service], environ, instance_id)


def shared_environ(
    environ: Mapping[str, str],
    *,
    mesh: str,
    registry: str | None,
    data_dir: Path,
    collector_port: int | None,
) -> dict[str, str]:
    """What every process of the mesh gets. Its lines are read by people, on a terminal or in a pipe, unless
    WEFT_LOG_FORMAT asks for JSON."""
    shared = {
        **environ,
        "WEFT_MESH": mesh,
        "WEFT_HOST": _LOOPBACK,
        "WEFT_METRICS_PORT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    embedded = f"sqlite:///{data_dir.resolve()}"
    if not shared.setdefault("WEFT_STORE", embedded).startswith("sqlite:"):
        # What a server's store doesn't keep, the processes of this machine share here.
        shared.setdefault("WEFT_DATA_DIR", str(data_dir.resolve()))
        shared.setdefault("WEFT_ORCHESTRATOR__SESSIONS", embedded)
    if registry is not None:
        shared["WEFT_REGISTRY"] = registry
    if collector_port is not None:
        shared["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{_LOOPBACK}:{collector_port}"
    shared.setdefault("WEFT_LOG_FORMAT", "console")
    return shared

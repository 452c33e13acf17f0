"""``weft status``: who is there, how they are, how traffic is split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import FAILED, OK, run
from weft_cli.settings import Where
from weft_cli.topology import DEFAULT_REPLICAS

if TYPE_CHECKING:
    from weft.mesh.v1 import routing_pb2, status_pb2

_HEALTHY: Final = ("serving", "held")  # held: gone from the registry, perhaps by its fault, and still called


def status(mesh: Mesh = None, data: Data = None, as_json: AsJson = False) -> None:
    """Show the mesh: instances with health and load, route policies, the registry, where traces go.

    Exits with 0 only when the mesh is ready: routes are out, and retriever, generator, tools and
    orchestrator have a healthy instance each. With 1 while it isn't, with 3 where there is none.
    """
    run(_status(where(mesh, data), as_json), as_json=as_json)


async def _status(at: Where, as_json: bool) -> int:
    from weft_cli.connecting import control_plane
    from weft_cli.output import print_json

    async with control_plane(at) as control:
        found = await control.status(with_load=True)
    shown = as_shape(",".join(control.mesh), found)
    if as_json:
        print_json(shown)
    else:
        print_status(shown)
    if shown["ready"]:
        return OK
    if not as_json:
        missing = ", ".join(shown["missing"]) or "nobody, but the control plane has no routes yet"
        typer.secho(f"weft: not ready; without a healthy instance: {missing}", err=True, fg="yellow")
    return FAILED


def as_shape(mesh: str, found: status_pb2.GetMeshStatusResponse) -> dict[str, Any]:
    """The status as ``--json`` prints it."""
    instances = [_instance(item) for item in found.instances]
    healthy = {item["service"] for item in instances if item["health"] in _HEALTHY and not item["problem"]}
    missing = [service for service in DEFAULT_REPLICAS if service not in healthy]
    return {
        "mesh": mesh,
        "ready": not missing and bool(found.snapshot_version),
        "missing": missing,
        "instances": instances,
        "policies": [policy(item) for item in found.policies],
        "snapshot_version": found.snapshot_version,
        "snapshot_time": found.snapshot_time.ToJsonString() if found.HasField("snapshot_time") else None,
        "registry": found.registry,
        "registry_available": found.registry_available,
        "otlp_endpoint": found.otlp_endpoint,
        "subscribers": found.subscribers,
    }


def _instance(item: status_pb2.InstanceStatus) -> dict[str, Any]:
    from weft.mesh.v1 import status_pb2

    record, load = item.instance, item.load
    return {
        "service": record.service,
        "id": record.id,
        "address": f"{record.host}:{record.port}",
        "version": record.version,
        "zone": record.zone,
        "tags": list(record.tags),
        "metrics_port": record.metrics_port,
        "health": status_pb2.Health.Name(item.health).removeprefix("HEALTH_").lower(),
        "problem": item.problem,
        "load": {
            "cpu": load.cpu,
            "pending": load.pending,
            "gpu_memory": load.gpu_memory,
            "rps": load.rps,
            "figures": dict(sorted(load.figures.items())),
        }
        if item.HasField("load")
        else None,
    }


def policy(item: routing_pb2.PolicyStatus) -> dict[str, Any]:
    """A route policy as ``--json`` prints it."""
    return {
        "service": item.policy.service,
        "weights": {weight.version: weight.weight for weight in item.policy.weights},
        "headers": [{"header": h.header, "value": h.value, "version": h.version} for h in item.policy.headers],
        "revision": item.policy.revision,
        "problem": item.problem,
        "snapshot_version": item.snapshot_version,
    }


def print_status(shown: dict[str, Any]) -> None:
    """The status in words."""
    from weft_cli.output import say

    registry = shown["registry"] + ("" if shown["registry_available"] else " (does not answer)")
    say(f"mesh {shown['mesh']} · registry {registry} · snapshot {shown['snapshot_version'] or 'none yet: warming up'}")
    say(f"traces {shown['otlp_endpoint'] or 'nowhere'}\n")
    if shown["instances"]:
        print_instances(shown["instances"])
    else:
        say("no instances")
    for item in shown["instances"]:
        if item["problem"]:
            say(f"\n{item['id']} is never called: {item['problem']}")
    for item in shown["policies"]:
        say()
        print_policy(item)


def print_instances(instances: list[dict[str, Any]]) -> None:
    """Instances as a table."""
    from weft_cli.output import print_table

    rows = []
    for item in instances:
        load = item["load"]
        figures = (f"{load['cpu']:.2f}", f"{load['pending']:.0f}", f"{load['rps']:.1f}") if load else ("-", "-", "-")
        more = ", ".join(f"{name} {round(value, 2):g}" for name, value in load["figures"].items()) if load else ""
        rows.append((item["service"], item["version"], item["id"], item["address"], item["health"], *figures, more))
    print_table(("SERVICE", "VERSION", "ID", "ADDRESS", "HEALTH", "CPU", "PENDING", "CALLS/S", "MORE"), rows)


def print_policy(item: dict[str, Any]) -> None:
    """A route policy in words."""
    from weft_cli.output import say

    weights = ", ".join(f"{version} {weight} %" for version, weight in item["weights"].items()) or "evenly over all"
    say(f"route {item['service']}: {weights} (revision {item['revision']})", bold=True)
    for route in item["headers"]:
        say(f"  {route['header']}={route['value']} → {route['version']}")
    if item["problem"]:
        say(f"  not in effect: {item['problem']}", colour="red")

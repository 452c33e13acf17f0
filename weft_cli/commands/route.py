"""``weft route``: how the traffic to a service is split between its versions.

A policy may be there before the first instance. But a name that nobody has is a slip of the finger far more often, and
a policy for it would do nothing, silently. So a service must be one of Weft's own, or have an instance or a policy;
any other takes ``--unknown-service``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from weft_cli.options import AsJson, Data, Mesh, pairs, where
from weft_cli.running import run
from weft_cli.settings import Where
from weft_cli.topology import DEFAULT_REPLICAS

if TYPE_CHECKING:
    from weft.mesh.v1 import routing_pb2
    from weft_cli.connecting import ControlPlane

Header = tuple[str, str, str]


def route(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", hidden=True)] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="V=PERCENT,...", help="Shares of the versions, adding up to 100: v1=90,v2=10."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE:VERSION",
            help="Send calls with this metadata to one version, whatever the weights: weft-route-canary=yes:v2. "
            "May be given more than once.",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the policies, and what is wrong with them; done without options, too.")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Spread evenly over all instances again.")] = False,
    unknown_service: Annotated[
        bool, typer.Option("--unknown-service", help="Set a policy for a service that the mesh has never seen.")
    ] = False,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show how a service's traffic is split, or split it by weight, or send calls with a header to one version.

    What is given replaces what was set: --weights the shares, --header all header routes; the other
    part of the policy stays. A session stays on its version.
    """
    changes = bool(weights or header)
    if changes + show + clear > 1:
        raise typer.BadParameter("say one of --weights/--header, --clear or --show")
    if unknown_service and not changes:
        raise typer.BadParameter("goes with --weights or --header", param_hint="--unknown-service")
    if service is None and (changes or clear):
        raise typer.BadParameter("say which service, such as retriever", param_hint="SERVICE")
    shares = _shares(weights) if weights else None
    routes = [_header(item) for item in header] if header else None
    work = _route(service, shares, routes, clear, unknown_service, where(mesh, data), as_json)
    run(work, as_json=as_json)


def _shares(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for version, percent in pairs(text, "--weights", "v1=90,v2=10"):
        if not percent.isdecimal() or int(percent) > 100:
            raise typer.BadParameter(f"{version}={percent}: allowed is 0 to 100 percent", param_hint="--weights")
        if version in found:
            raise typer.BadParameter(f"{version} is named twice", param_hint="--weights")
        found[version] = int(percent)
    if sum(found.values()) != 100:
        raise typer.BadParameter(f"add up to {sum(found.values())}, must be 100", param_hint="--weights")
    return found


def _header(text: str) -> Header:
    name, equals, rest = text.partition("=")
    value, colon, version = rest.rpartition(":")
    if not (name and equals and value and colon and version):
        raise typer.BadParameter(
            f"{text!r} is not NAME=VALUE:VERSION; an example is weft-route-canary=yes:v2", param_hint="--header"
        )
    return name.lower(), value, version


async def _route(
    service: str | None,
    weights: dict[str, int] | None,
    headers: list[Header] | None,
    clear: bool,
    unknown_service: bool,
    at: Where,
    as_json: bool,
) -> None:
    from weft.mesh.v1 import routing_pb2
    from weft_cli.commands.status import policy, print_policy
    from weft_cli.connecting import control_plane
    from weft_cli.output import print_json, say

    warnings: list[str] = []
    async with control_plane(at) as control:
        if service is not None and not unknown_service:
            await _check_known(control, service)
        if clear:
            request = routing_pb2.DeleteRoutePolicyRequest(service=service)
            await control.call(control.routing.DeleteRoutePolicy, request)
        elif weights is not None or headers is not None:
            assert service is not None
            warnings = await _set(control, service, weights, headers)
        listed = await control.call(control.routing.ListRoutePolicies, routing_pb2.ListRoutePoliciesRequest())
    policies = [policy(item) for item in listed.policies if service in (None, item.policy.service)]
    if as_json:
        print_json({"policies": policies, "warnings": warnings})
        return
    for item in policies:
        print_policy(item)
    if not policies:
        say(f"route {service}: evenly over all instances" if service else "no policies: all services spread evenly")
    for warning in warnings:
        say(f"note: {warning}", colour="yellow")


async def _check_known(control: ControlPlane, service: str) -> None:
    """Refuse a service that the mesh has neither instance nor policy of, unless it is one of Weft's."""
    from difflib import get_close_matches

    from weft.errors import Reason, error
    from weft.mesh.v1 import routing_pb2

    if service in DEFAULT_REPLICAS:
        return
    listed = await control.call(control.routing.ListRoutePolicies, routing_pb2.ListRoutePoliciesRequest())
    known = {*DEFAULT_REPLICAS, *(item.policy.service for item in listed.policies)}
    known.update(item.instance.service for item in (await control.status()).instances)
    if service in known:
        return
    near = get_close_matches(service, sorted(known), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    names = ", ".join(sorted(known))
    raise error(
        Reason.INVALID_FIELD,
        f"the mesh knows no service {service[:63]!r}{hint}; there are {names}. "
        "--unknown-service sets a policy for one that is yet to come",
        field="service",
        service=service[:63],
        known=names,
    )


async def _set(
    control: ControlPlane, service: str, weights: dict[str, int] | None, headers: list[Header] | None
) -> list[str]:
    """Change what was asked for and keep the rest, by compare-and-set on the revision that was read."""
    from weft.mesh.v1 import routing_pb2

    wanted = await _current(control, service)
    if weights is not None:
        del wanted.weights[:]
        for version, weight in weights.items():
            wanted.weights.add(version=version, weight=weight)
    if headers is not None:
        del wanted.headers[:]
        for name, value, version in headers:
            wanted.headers.add(header=name, value=value, version=version)
    request = routing_pb2.SetRoutePolicyRequest(policy=wanted)
    return list((await control.call(control.routing.SetRoutePolicy, request)).warnings)


async def _current(control: ControlPlane, service: str) -> routing_pb2.RoutePolicy:
    from weft.errors import NotFound, Reason
    from weft.mesh.v1 import routing_pb2

    try:
        request = routing_pb2.GetRoutePolicyRequest(service=service)
        found: routing_pb2.RoutePolicy = (await control.call(control.routing.GetRoutePolicy, request)).status.policy
        return found
    except NotFound as exc:
        if exc.reason != Reason.POLICY_NOT_FOUND:
            raise
        return routing_pb2.RoutePolicy(service=service)

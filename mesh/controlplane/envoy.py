"""The bootstrap of an Envoy that stands at the edge: one static listener, everything else from us.

    python -m mesh.controlplane.envoy --mesh HOST:PORT --listen HOST:PORT > envoy.json

Envoy takes no gRPC listeners over discovery, so its own is static and asks for the routes ``weft-ingress``;
clusters, endpoints and routes come over one ADS stream. Envoy keeps what it has while the control plane is
away, and its idle and route timeouts are off or long: the caller's deadline rules.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

from mesh.controlplane.routes import INGRESS
from mesh.settings import ServiceSettings, load
from weft.errors import WeftError

_CONTROL_PLANE: Final = "weft-control-plane"
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}


def bootstrap(control_planes: Sequence[str], listen: str, admin: str, *, node_id: str = "weft-envoy") -> dict[str, Any]:
    """Envoy's configuration as JSON for ``envoy -c``.

    Args:
        control_planes: their ``host:port``; Envoy streams from one, and from another when that one is gone.
        listen: ``host:port`` that callers dial; plain HTTP/2 and HTTP/1.1.
        admin: ``host:port`` of Envoy's admin interface; keep it on the loopback.
        node_id: how this Envoy names itself.
    """
    return {
        "node": {"id": node_id, "cluster": "weft", "metadata": {"weft.kind": "envoy"}},
        "admin": {"address": _address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": _CONTROL_PLANE}}],
            },
            "cds_config": _ADS,
        },
        "static_resources": {
            "clusters": [_control_plane_cluster(control_planes)],
            "listeners": [_listener(listen)],
        },
    }


def _control_plane_cluster(addresses: Sequence[str]) -> dict[str, Any]:
    return {
        "name": _CONTROL_PLANE,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": _CONTROL_PLANE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(address)}} for address in addresses]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "20s", "timeout": "5s"}}
                },
            }
        },
    }


def _listener(address: str) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "codec_type": "AUTO",
        "rds": {"config_source": _ADS, "route_config_name": INGRESS},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}],
    }
    return {
        "name": INGRESS,
        "address": _address(address),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a bootstrap."""
    parser = argparse.ArgumentParser(
        prog="python -m mesh.controlplane.envoy",
        description="Print the configuration of an Envoy at the mesh's edge, for `envoy -c`.",
    )
    add = parser.add_argument
    add("--mesh", type=_addresses, metavar="HOST:PORT,…", help="control planes; default: WEFT_MESH")
    add("--listen", type=_one, default="127.0.0.1:8080", metavar="HOST:PORT", help="for callers; default: %(default)s")
    add("--admin", type=_one, default="127.0.0.1:9901", metavar="HOST:PORT", help="for operators; default: %(default)s")
    add("--node-id", default="weft-envoy", metavar="NAME", help="what it calls itself; default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        mesh = arguments.mesh or load(ServiceSettings).mesh
    except WeftError as err:
        parser.error(err.message)
    print(json.dumps(bootstrap(mesh, arguments.listen, arguments.admin, node_id=arguments.node_id), indent=2))


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(_one(part.strip()) for part in text.split(","))


def _one(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


if __name__ == "__main__":
    main()

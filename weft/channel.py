"""The one place that builds a gRPC channel: target, credentials, xDS bootstrap.

``xds:///retriever`` is resolved by gRPC's own C core against the mesh's control plane, so balancing,
splits, retries and failover happen there, not in Python. gRPC reads its xDS bootstrap once per
process; a second mesh in the same process would silently reach the first, so it is refused with
``MeshAlreadyBound``. The bootstrap's environment variable is itself the record of what the process is
bound to. One that somebody else set (Istio's agent, say) is left as it is.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from weft.errors import MeshAlreadyBound, Reason

DEFAULT_MESH: Final = "127.0.0.1:9500"
DEFAULT_TARGET: Final = "xds:///{service}"
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

_BOOTSTRAP: Final = "GRPC_XDS_BOOTSTRAP_CONFIG"
_BOOTSTRAP_FILE: Final = "GRPC_XDS_BOOTSTRAP"
_NODE_CLUSTER: Final = "weft"
# Without xDS, gRPC still balances over what DNS or the list gives it.
_PLAIN_SERVICE_CONFIG: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@dataclass(frozen=True, slots=True)
class Dial:
    """How a process reaches the mesh. Printable: credentials don't show."""

    mesh: tuple[str, ...] = (DEFAULT_MESH,)
    """Control planes as host:port, tried in order."""
    target: str = DEFAULT_TARGET
    """gRPC target of a service; ``{service}`` is replaced."""
    zone: str = ""
    """Zone of this process, for zone-aware routing."""
    node_id: str = ""
    """Name under which the control plane knows this process; unset: made up."""
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)
    """TLS credentials; None is plain text."""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """Largest message sent or taken, in bytes."""


def open_service(service: str, dial: Dial) -> grpc.aio.Channel:
    """Open a channel to a service of the mesh, balanced over its instances.

    Raises:
        MeshAlreadyBound: this process already dials another mesh by xDS.
    """
    target = dial.target.format(service=service)
    options = _options(dial.max_message_bytes)
    if target.startswith("xds:"):
        _bind_process(dial)
    else:
        options.append(("grpc.service_config", _PLAIN_SERVICE_CONFIG))
    return _open(target, dial.credentials, options)


def open_address(addresses: Sequence[str], dial: Dial) -> grpc.aio.Channel:
    """Open a channel to fixed ``host:port`` addresses (a control plane, a collector, an instance);
    the first that answers is used."""
    hosts = {address.rpartition(":")[0] for address in addresses}
    numeric = all(host.replace(".", "").isdigit() for host in hosts)
    target = f"ipv4:{','.join(addresses)}" if numeric else addresses[0]
    return _open(target, dial.credentials, _options(dial.max_message_bytes))


def _open(target: str, credentials: grpc.ChannelCredentials | None, options: list[tuple[str, Any]]) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A peer that vanished without a word is noticed within 25 s even on an idle connection.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A restarted peer is found again quickly.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # In spite of its name the time that one attempt to connect may take: a far or busy peer's handshake needs some.
        ("grpc.min_reconnect_backoff_ms", 2_000),
    ]


def bootstrap(dial: Dial) -> dict[str, Any]:
    """gRPC's xDS bootstrap for ``dial``: the control planes and who we are."""
    return {
        "xds_servers": [
            {
                "server_uri": address,
                "channel_creds": [{"type": "insecure"}],
                # A control plane that forgot a service must not take it from its callers.
                "server_features": ["xds_v3", "ignore_resource_deletion"],
            }
            for address in dial.mesh
        ],
        "node": {
            "id": dial.node_id or f"client-{uuid.uuid4().hex[:12]}",
            "cluster": _NODE_CLUSTER,
            # The process id tells a bootstrap that a parent process left in the environment.
            "metadata": {"weft.kind": "grpc", "weft.pid": os.getpid()},
            "locality": {"zone": dial.zone},
        },
    }


def _bind_process(dial: Dial) -> None:
    if os.environ.get(_BOOTSTRAP_FILE):
        return
    present = os.environ.get(_BOOTSTRAP)
    if present:
        known = json.loads(present)
        node = known.get("node", {})
        if node.get("cluster") != _NODE_CLUSTER:
            return
        if node.get("metadata", {}).get("weft.pid") == os.getpid():
            bound = tuple(server["server_uri"] for server in known["xds_servers"])
            if bound != dial.mesh:
                raise MeshAlreadyBound(
                    Reason.INVALID_FIELD,
                    f"this process already dials the mesh at {','.join(bound)}, and gRPC reads its xDS bootstrap once; "
                    f"use another process for {','.join(dial.mesh)}, or dial it without xDS (WEFT_TARGET)",
                    metadata={"bound": ",".join(bound), "wanted": ",".join(dial.mesh)},
                )
            return
    os.environ[_BOOTSTRAP] = json.dumps(bootstrap(dial))

"""Where the mesh is: what the SDK was told, else the environment, else this machine.

The first that is set counts: the argument ``mesh``, the argument ``data_dir`` (the directory given to
``weft up --data``, whose ``mesh.json`` says where that mesh listens), ``WEFT_MESH``, 127.0.0.1:9500.
``WEFT_TARGET`` says how a service is dialled and seldom needs to be set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from weft.channel import DEFAULT_MESH, DEFAULT_TARGET
from weft.errors import Reason, error

MESH_FILE: Final = "mesh.json"


def find_mesh(
    mesh: str | Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[str, ...]:
    """Addresses of the control planes, ``host:port``, tried in order.

    Raises:
        InvalidArgument: INVALID_FIELD where an address is not ``host:port``.
        Unavailable: DEPENDENCY_UNAVAILABLE where no mesh was started on ``data_dir``.
    """
    if mesh is None and data_dir is not None:
        mesh = str(read_mesh_file(data_dir)["mesh"])
    if mesh is None:
        mesh = environ.get("WEFT_MESH") or DEFAULT_MESH
    addresses = tuple(a.strip() for a in mesh.split(",")) if isinstance(mesh, str) else tuple(mesh)
    for address in addresses or ("",):
        if problem := address_problem(address):
            raise error(Reason.INVALID_FIELD, f"the mesh's address {problem}", field="mesh", address=address)
    return addresses


def address_problem(address: str) -> str:
    """What is wrong with a control plane's address, as the rest of a sentence; empty where nothing is."""
    host, _, port = address.rpartition(":")
    if host and not set(host) & set("/@") and port.isdecimal() and 0 < int(port) < 65_536:
        return ""
    without = "; leave out what stands before the host" if "://" in address else ""
    return f"{address!r} is not host:port{without}; an example is {DEFAULT_MESH}"


def find_target(target: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """gRPC target of a service, with ``{service}`` where its name goes."""
    return target or environ.get("WEFT_TARGET") or DEFAULT_TARGET


def process_is_bound(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether gRPC's xDS bootstrap of this process is set already."""
    return "GRPC_XDS_BOOTSTRAP_CONFIG" in environ or "GRPC_XDS_BOOTSTRAP" in environ


def read_mesh_file(data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``weft up --data`` wrote down of the mesh that it started.

    Raises:
        Unavailable: DEPENDENCY_UNAVAILABLE where there is no such file, or not a readable one.
    """
    path = Path(data_dir) / MESH_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and isinstance(found.get("mesh"), str):
            return found
        problem = "does not say where the mesh listens"
    except FileNotFoundError:
        problem = "is not there"
    except (OSError, ValueError) as exc:
        problem = f"cannot be read ({exc})"
    raise error(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"no mesh runs on {data_dir}: {path.name} {problem}; start one with `weft up --data {data_dir}`",
        data_dir=data_dir,
    )

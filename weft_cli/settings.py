"""Which mesh a command talks to, and what else it takes from the environment.

--mesh HOST:PORT    its address
--data DIR          the mesh that was started on DIR (its mesh.json says where it listens)
WEFT_MESH           its address
./.weft/mesh.json   where ``weft up`` was called in this directory
127.0.0.1:9500      what ``weft up`` listens on when nothing is said
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DEFAULT_DATA_DIR: Final = Path(".weft")


def quiet_grpc() -> None:
    """Keep gRPC's own log lines off the terminal; what they tell is in our errors. Before it is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@dataclass(frozen=True, slots=True)
class Where:
    """Which mesh, as far as the command line says it: at most one of the two."""

    mesh: str | None = None
    data_dir: Path | None = None

    def addresses(self) -> tuple[str, ...]:
        """Addresses of the mesh to talk to."""
        from weft.settings import MESH_FILE, find_mesh

        data_dir = self.data_dir
        said = self.mesh or data_dir or os.environ.get("WEFT_MESH")
        if not said and (DEFAULT_DATA_DIR / MESH_FILE).is_file():
            data_dir = DEFAULT_DATA_DIR
        return find_mesh(self.mesh, data_dir)


def environ() -> dict[str, str]:
    """The environment that children start from: nothing of gRPC's bootstrap, which is each process's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GRPC_XDS_")}


def not_for_up() -> list[str]:
    """Variables that are set and that ``weft up`` sets otherwise for its processes."""
    return [name for name in ("WEFT_HOST", "WEFT_PORT", "WEFT_METRICS_PORT") if os.environ.get(name)]


def mesh_file(data_dir: Path) -> dict[str, Any] | None:
    """What is written down of the mesh on ``data_dir``; None where there is nothing readable."""
    from weft.errors import WeftError
    from weft.settings import read_mesh_file

    try:
        return read_mesh_file(data_dir)
    except WeftError:
        return None


def data_option(data: Path) -> str:
    """``--data DIR`` where it is needed to name this mesh."""
    return "" if data == DEFAULT_DATA_DIR else f" --data {data}"

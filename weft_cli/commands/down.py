"""``weft down``: ends the mesh that was started on a data directory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from weft_cli.running import NO_MESH, fail
from weft_cli.settings import DEFAULT_DATA_DIR

_DRAIN_S: Final = 90.0
_POLL_S: Final = 0.1


def down(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where that mesh keeps its data.")
    ] = DEFAULT_DATA_DIR,
) -> None:
    """Drain and stop the mesh that was started with weft up; its data stays."""
    from weft_cli.lock import holder

    pid = holder(data)
    if pid is None:
        fail(f"no mesh runs on {data}", NO_MESH)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it ended between the two lines
    except PermissionError:
        fail(f"the mesh on {data} is pid {pid}, which belongs to another user")
    until_s = time.monotonic() + _DRAIN_S
    while holder(data) == pid:
        if time.monotonic() > until_s:
            fail(f"the mesh on {data}, pid {pid}, still drains after {_DRAIN_S:g} s")
        time.sleep(_POLL_S)
    typer.echo(f"the mesh on {data} is down")

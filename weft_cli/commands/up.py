"""``weft up``: a whole mesh on this machine, kept running until it is told to stop.

    lock -> ports -> model -> control plane, collector -> services -> all SERVING -> … -> drain

``DIR/mesh.json`` says where the mesh listens as long as it runs: {mesh, otlp_endpoint, trace, registry, pid,
ready}. ``weft down``, ``--data DIR`` and the SDK's ``data_dir=`` read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft_cli.options import check_address
from weft_cli.running import FAILED, INTERRUPTED, fail, run
from weft_cli.settings import DEFAULT_DATA_DIR, data_option, not_for_up


def up(
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="SERVICE[@VERSION]=N,...",
            help="How many of each service: retriever=2,retriever@v2=1. Unset: retriever=2 and one of each other.",
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where instances register. Unset: WEFT_REGISTRY, else builtin:", envvar="WEFT_REGISTRY"
        ),
    ] = None,
    mesh: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the control plane listens.", envvar="WEFT_MESH")
    ] = "127.0.0.1:9500",
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where documents, sessions and policies are kept.")
    ] = DEFAULT_DATA_DIR,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once the mesh is ready; stop it with weft down.")
    ] = False,
) -> None:
    """Bring a mesh up: control plane, trace collector, retriever × 2, generator, tools, orchestrator.

    Runs in the foreground and shows the logs; Ctrl-C drains it. What dies is started again.
    """
    from weft_cli.local import Options, detached, foreground
    from weft_cli.lock import Held
    from weft_cli.topology import parse_replicas

    check_address(mesh)
    wanted = parse_replicas(replicas)
    if unused := not_for_up():
        problem = f"{', '.join(unused)} not used: what `weft up` starts listens on this machine alone, at free ports"
        typer.secho(f"weft: {problem}", err=True, fg="yellow")
    try:
        options = Options(wanted, registry, mesh, data, fresh=_make(data))
        if detach:
            raise typer.Exit(detached(options, replicas))
        run(foreground(options))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Held as exc:
        fail(
            f"a mesh runs on {data} already, pid {exc.pid}; "
            f"stop it with `weft down{data_option(data)}`, or use another --data"
        )
    except OSError as exc:
        fail(f"the data directory {data} cannot be used: {exc.strerror or exc}", FAILED)


def _make(data: Path) -> bool:
    """Make the data directory; whether it wasn't there."""
    try:
        data.mkdir(parents=True)
    except FileExistsError:
        data.mkdir(exist_ok=True)  # a file is no directory
        return False
    return True

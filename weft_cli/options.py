"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft_cli.settings import Where

Mesh = Annotated[
    str | None,
    typer.Option(
        "--mesh",
        metavar="HOST:PORT",
        help="Talk to the mesh at this address, whatever WEFT_MESH is.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Talk to the mesh started on DIR. Unset: WEFT_MESH, else the mesh on ./.weft, else 127.0.0.1:9500.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Collection = Annotated[
    str | None,
    typer.Option(
        "--collection", "-c", metavar="NAME", help="Collection of documents. Unset: default.", show_default=False
    ),
]


def where(mesh: str | None, data: Path | None) -> Where:
    """The mesh to talk to, of ``--mesh`` and ``--data``.

    Raises:
        typer.BadParameter: both are given, or an address is none.
    """
    if mesh is not None and data is not None:
        raise typer.BadParameter("say either --mesh or --data, both name a mesh", param_hint="--mesh")
    for address in mesh.split(",") if mesh is not None else ():
        check_address(address.strip())
    return Where(mesh, data)


def check_address(address: str) -> None:
    """Refuse what is not ``host:port``.

    Raises:
        typer.BadParameter: it isn't.
    """
    from weft.settings import address_problem

    if problem := address_problem(address):
        raise typer.BadParameter(problem, param_hint="--mesh")


Filter = Annotated[
    str,
    typer.Option(
        "--filter", metavar="CONDITION", help="On documents: 'team = \"search\" AND year >= 2025'.", show_default=False
    ),
]


def pairs(text: str, option: str, example: str) -> list[tuple[str, str]]:
    """``a=1,b=2`` as pairs.

    Raises:
        typer.BadParameter: it isn't written so.
    """
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not name or not equals or not value:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE; an example is {example}", param_hint=option)
        found.append((name, value))
    if not found:
        raise typer.BadParameter(f"is empty; an example is {example}", param_hint=option)
    return found

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

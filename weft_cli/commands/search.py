"""``weft search``: the passages that fit best."""

from __future__ import annotations

from typing import Annotated

import typer

from weft_cli.options import AsJson, Collection, Data, Filter, Mesh, where
from weft_cli.running import run
from weft_cli.settings import Where


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", hidden=True)],
    collection: Collection = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="N", help="Hits at the most, 1 to 100.")] = 5,
    filter_: Filter = "",
    explain: Annotated[bool, typer.Option("--explain", help="Show each part's score.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Deadline.")] = 10.0,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Find passages, best first, with their scores and where they stand."""
    run(_search(query, collection, top_k, filter_, explain, timeout, where(mesh, data), as_json), as_json=as_json)


async def _search(
    query: str,
    collection: str | None,
    top_k: int,
    condition: str,
    explain: bool,
    timeout_s: float,
    at: Where,
    as_json: bool,
) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, print_search

    async with connected(at) as client:
        result = await client.search(
            query, top_k, collection=collection, filter=condition, explain=explain, timeout_s=timeout_s
        )
    if as_json:
        print_json(result)
    else:
        print_search(result)

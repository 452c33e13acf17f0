"""``weft collections``: sets of documents, each with one embedder."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import USAGE, fail, run
from weft_cli.settings import Where

collections = typer.Typer(
    no_args_is_help=True,
    help="See what collections there are, make one with an embedder of its own, delete one.",
    short_help="List, make and delete collections.",
)
Name = Annotated[str, typer.Argument(metavar="COLLECTION", hidden=True)]


@collections.command("list")
def list_(mesh: Mesh = None, data: Data = None, as_json: AsJson = False) -> None:
    """List collections by name."""
    run(_list(where(mesh, data), as_json), as_json=as_json)


@collections.command()
def create(
    collection: Name,
    embedder: Annotated[
        str, typer.Option("--embedder", metavar="URL", help="minilm:, none:… Unset: the operator's default.")
    ] = "",
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection. An ingest makes one by itself, with the operator's default embedder."""
    run(_create(collection, embedder, where(mesh, data), as_json), as_json=as_json)


@collections.command()
def delete(
    collection: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Delete a collection with all its documents."""
    if not yes and not sys.stdin.isatty():
        fail(f"deleting {collection} deletes all its documents, and nobody is there to be asked; say --yes", USAGE)
    if not yes:
        typer.confirm(f"Delete {collection} with all its documents?", abort=True, err=True)
    run(_delete(collection, where(mesh, data), as_json), as_json=as_json)


async def _list(at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, print_table, say

    async with connected(at) as client:
        found = [one async for one in client.collections.list()]
    if as_json:
        print_json({"collections": found})
    elif found:
        rows = [(one.name.partition("/")[2], one.embedder, one.documents, one.chunks) for one in found]
        print_table(("collection", "embedder", "documents", "passages"), rows)
    else:
        say("no collections")


async def _create(collection: str, embedder: str, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, say

    async with connected(at) as client:
        made = await client.collections.create(collection, embedder)
    if as_json:
        print_json(made)
    else:
        say(f"{made.name.partition('/')[2]} with {made.embedder}")


async def _delete(collection: str, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, say

    async with connected(at) as client:
        await client.collections.delete(collection)
    if as_json:
        print_json({"deleted": collection})
    else:
        say(f"deleted {collection}")

"""``weft documents``: what was ingested, and taking it out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from weft_cli.options import AsJson, Collection, Data, Mesh, where
from weft_cli.running import run
from weft_cli.settings import Where

if TYPE_CHECKING:
    import weft

documents = typer.Typer(
    no_args_is_help=True,
    help="See which documents are in, and delete some.",
    short_help="List and delete documents.",
)


@documents.command("list")
def list_(
    collection: Collection = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 1_000,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the documents of a collection, with the names that delete takes."""
    run(_list(collection or "default", limit, where(mesh, data), as_json), as_json=as_json)


@documents.command()
def delete(
    names: Annotated[list[str], typer.Argument(metavar="DOCUMENT...", hidden=True)],
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Delete documents, named collections/C/documents/D as list and search --json have it, with all their passages."""
    run(_delete(names, where(mesh, data), as_json), as_json=as_json)


async def _list(collection: str, limit: int, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, print_table, say

    found: list[weft.StoredDocument] = []
    async with connected(at) as client:
        async for document in client.documents.list(collection):
            found.append(document)
            if len(found) == limit:
                break
    if as_json:
        print_json({"documents": found})
    elif found:
        rows = [(document.source, document.size_bytes, document.chunks, document.name) for document in found]
        print_table(("source", "bytes", "passages", "document"), rows)
    else:
        say("no documents")


async def _delete(names: list[str], at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, say

    async with connected(at) as client:
        for name in names:
            await client.documents.delete(name)
            if not as_json:
                say(f"deleted {name}")
    if as_json:
        print_json({"deleted": names})

"""``weft reindex``: a collection moves to another embedder."""

from __future__ import annotations

from typing import Annotated

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import FAILED, OK, run
from weft_cli.settings import Where


def reindex(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", hidden=True)],
    embedder: Annotated[str, typer.Option("--embedder", metavar="URL", help="The new embedder: minilm:, none:…")],
    detach: Annotated[bool, typer.Option("--detach", help="Don't wait: print the job and leave.")] = False,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Move a collection to another embedder.

    All its passages are embedded anew beside the old ones, while searches and ingests go on; in the end the
    collection changes over at once. Interrupted, the job goes on: see weft jobs.
    """
    run(_reindex(collection, embedder, detach, where(mesh, data), as_json), as_json=as_json)


async def _reindex(collection: str, embedder: str, detach: bool, at: Where, as_json: bool) -> int:
    from weft_cli.commands.jobs import print_job, progress_bar
    from weft_cli.connecting import connected

    async with connected(at) as client:
        job = await client.reindex(collection, embedder)
        if not detach:
            with progress_bar() as on_progress:
                job = await client.jobs.wait(job.name, on_progress=on_progress)
    print_job(job, as_json=as_json)
    return OK if detach or job.state == "succeeded" else FAILED

"""``weft ingest``: files, folders and standard input into a collection."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from weft_cli.options import AsJson, Collection, Data, Mesh, where
from weft_cli.running import FAILED, OK, run
from weft_cli.settings import Where

if TYPE_CHECKING:
    import weft


def ingest(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)],
    collection: Collection = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave when all is uploaded, and print the job that does the rest.")
    ] = False,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Take documents in: text, Markdown, HTML, PDF and Word, folders with all that is below them.

    PATH is a file or a folder; - reads a text from standard input. As it is given here it names the document:
    README.md and /full/path/README.md are two.

    When it returns, the documents are found; with --detach, when its job has ended. The same content again
    changes nothing, changed content replaces the old.

    One that can't be taken in harms no other: all the rest is in, and each failure is named with its
    reason. Exits with 0 when everything is in, with 1 when something is not, with 3 when there is no mesh.
    """
    run(_ingest(paths, collection, detach, where(mesh, data), as_json), as_json=as_json)


async def _ingest(paths: list[str], collection: str | None, detach: bool, at: Where, as_json: bool) -> int:
    from weft.ingest import passed_over
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, say

    sources = [_standard_input() if path == "-" else path for path in dict.fromkeys(paths)]
    async with connected(at) as client:
        with progress_bar() as on_progress:
            result = await client.ingest(sources, collection=collection, on_progress=on_progress, detach=detach)
    if as_json:
        print_json(result)
    else:
        say(f"{result.job} takes them in; see weft jobs wait" if result.job else summary(result))
        print_failed(result)
    if passed := await asyncio.to_thread(passed_over, sources):
        kinds = ", ".join(f"{number} {ending or 'without an ending'}" for ending, number in passed.most_common(8))
        note = f"left out of folders, since files like these are not read: {kinds}; name one to try it all the same"
        typer.secho(f"weft: {note}", err=True, fg="yellow")
    return FAILED if result.failed else OK


def print_failed(result: weft.IngestResult) -> None:
    """What was not taken in, and why, on stderr."""
    for failed in result.failed:
        typer.secho(f"not taken in: {failed.source}: {failed.error}", err=True, fg="red")
    if result.failed and not result.job:
        rest = "the rest is in and can be searched" if result.documents else "nothing is in"
        many = f"{len(result.failed)} of {_count(result.documents + len(result.failed), 'document')}"
        typer.secho(f"weft: {many} not taken in, for the reasons above; {rest}", err=True, fg="red")


def _standard_input() -> weft.Document:
    """Named by its content: the same text again is the same document, another text is another."""
    import weft

    content = sys.stdin.buffer.read()
    return weft.Document(f"stdin-{hashlib.sha256(content).hexdigest()[:12]}.txt", content)


@contextmanager
def progress_bar() -> Iterator[Callable[[weft.IngestProgress], None] | None]:
    """A bar on stderr where a person watches it; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(event: weft.IngestProgress) -> None:
            progress.update(
                task, total=event.documents_total, completed=event.documents_done, description=event.source[-60:]
            )

        yield show


def summary(result: weft.IngestResult) -> str:
    """``8 documents in 22 passages``, and how many of them were there already."""
    unchanged = f", {result.unchanged} of them unchanged" if result.unchanged else ""
    return f"{_count(result.documents, 'document')} in {_count(result.chunks, 'passage')}{unchanged}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

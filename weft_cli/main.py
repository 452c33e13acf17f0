"""The console script ``weft``: its commands, and nothing heavy before one of them is chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from weft_cli.commands.ask import ask
from weft_cli.commands.collections import collections
from weft_cli.commands.config import config
from weft_cli.commands.documents import documents
from weft_cli.commands.down import down
from weft_cli.commands.ingest import ingest
from weft_cli.commands.jobs import jobs
from weft_cli.commands.models import models
from weft_cli.commands.reindex import reindex
from weft_cli.commands.route import route
from weft_cli.commands.search import search
from weft_cli.commands.status import status
from weft_cli.commands.trace import trace
from weft_cli.commands.up import up
from weft_cli.settings import quiet_grpc

_EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no mesh there, 130 interrupted."

app = typer.Typer(
    name="weft",
    help="A mesh of retrieval and agent services: start it, feed it, ask it, look into it.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, the same in a pipe: no frames, no types where a name says more
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, summary in (
    (up, "Start a mesh on this machine, and keep it running."),
    (down, "Drain and stop it; its data stays."),
    (status, "Show who is there, and whether the mesh is ready."),
    (ingest, "Take documents in."),
    (search, "Find passages, best first."),
    (ask, "Ask a question."),
    (trace, "Show a trace, or list the newest."),
    (route, "Show or change how traffic is split."),
    (reindex, "Move a collection to another embedder."),
):
    app.command(short_help=summary)(command)
app.add_typer(collections, name="collections")
app.add_typer(documents, name="documents")
app.add_typer(jobs, name="jobs")
app.add_typer(models, name="models")
app.add_typer(config, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("weft"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    quiet_grpc()


def main() -> None:
    """Entry point."""
    app(prog_name="weft")


if __name__ == "__main__":
    main()

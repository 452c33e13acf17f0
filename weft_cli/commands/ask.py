"""``weft ask``: one turn, its text as it comes, then its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft_cli.options import AsJson, Collection, Data, Filter, Mesh, where
from weft_cli.running import run
from weft_cli.settings import Where

if TYPE_CHECKING:
    import weft


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", hidden=True)],
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", metavar="NAME", help="Go on with this conversation.", show_default=False),
    ] = None,
    collection: Collection = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="N", help="Passages at the most, 1 to 20.")] = 5,
    filter_: Filter = "",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Of `weft models list`.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Deadline of the turn.")] = 30.0,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Have it searched and written anew.")] = False,
    ledger: Annotated[bool, typer.Option("--ledger", help="Show where the time went.")] = False,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question; the answer rests on the documents and says on which.

    Prints the text as it comes, then sources, what was left out, and the names of session and trace.
    """
    where_to_look = {"collection": collection, "top_k": top_k, "filter": filter_}
    options = {"session": session, "model": model, "timeout_s": timeout, "allow_cached": not no_cache, **where_to_look}
    run(_ask(question, options, ledger, where(mesh, data), as_json), as_json=as_json)


async def _ask(question: str, options: dict[str, Any], ledger: bool, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_answer_tail, print_json

    async with connected(at) as client:
        stream = client.stream(question, **options)
        answer = await (stream.finish() if as_json else show(stream))
    if as_json:
        print_json(answer)
    else:
        print_answer_tail(answer, ledger=ledger)


async def show(stream: weft.TurnStream) -> weft.Answer:
    """Print a turn's text as it comes, and each tool on a line of its own."""
    import weft
    from weft_cli.output import say

    written = ""
    try:
        async with stream:
            async for event in stream:
                match event:
                    case weft.ToolCall():
                        say(f"· {event.tool}({_arguments(event.arguments)})", dim=True)
                    case weft.ToolResult():
                        say(f"  {event.error.message if event.error else event.text}", dim=True)
                    case weft.TextDelta():
                        written += event.text
                        typer.echo(event.text, nl=False)
    except weft.WeftError:
        if written:
            typer.echo(" …")  # the error's own line comes below
        raise
    assert stream.answer is not None
    typer.echo(stream.answer.text if not written else "")
    return stream.answer


def _arguments(arguments: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())

"""``weft jobs``: long work that goes on by itself: detached ingests, moves of collections."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import FAILED, OK, run
from weft_cli.settings import Where

if TYPE_CHECKING:
    import weft

jobs = typer.Typer(
    no_args_is_help=True,
    help="See how long work gets on, wait for it, stop it. Ended jobs are remembered for a day.",
    short_help="See, await and stop long work.",
)
_SHOWN: int = 50
_COLOURS = {"failed": "red", "cancelled": "yellow"}
Name = Annotated[str, typer.Argument(metavar="JOB", help="jobs/ID, or the ID alone.", hidden=True)]


@jobs.command("list")
def list_(
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Only these: queued, running, succeeded, failed or cancelled."),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = _SHOWN,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    run(_list(state, limit, where(mesh, data), as_json), as_json=as_json)


@jobs.command()
def show(job: Name, mesh: Mesh = None, data: Data = None, as_json: AsJson = False) -> None:
    """Show one job."""
    run(_show(job, where(mesh, data), as_json), as_json=as_json)


@jobs.command()
def wait(
    job: Name,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Wait at most so long. Unset: until it ends.")
    ] = None,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a job has ended. Exits with 0 if it ended well, else with 1."""
    run(_wait(job, timeout, where(mesh, data), as_json), as_json=as_json)


@jobs.command()
def cancel(job: Name, mesh: Mesh = None, data: Data = None, as_json: AsJson = False) -> None:
    """Ask a job to stop. What an ingest has taken in by then stays in."""
    run(_cancel(job, where(mesh, data), as_json), as_json=as_json)


async def _list(state: str | None, limit: int, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected
    from weft_cli.output import print_json, print_table, say

    found: list[weft.Job] = []
    async with connected(at) as client:
        async for job in client.jobs.list(state):
            found.append(job)
            if len(found) == limit:
                break
    if as_json:
        print_json({"jobs": found})
    elif found:
        rows = [(job.name, job.kind, job.state, how_far(job), _when(job.created_s)) for job in found]
        print_table(("job", "kind", "state", "done", "since"), rows)
    else:
        say("no jobs")


async def _show(job: str, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected

    async with connected(at) as client:
        print_job(await client.jobs.get(job), as_json=as_json)


async def _wait(job: str, timeout_s: float | None, at: Where, as_json: bool) -> int:
    from weft_cli.connecting import connected

    async with connected(at) as client:
        with progress_bar() as on_progress:
            found = await client.jobs.wait(job, timeout_s, on_progress=on_progress)
    print_job(found, as_json=as_json)
    return OK if found.state == "succeeded" else FAILED


async def _cancel(job: str, at: Where, as_json: bool) -> None:
    from weft_cli.connecting import connected

    async with connected(at) as client:
        print_job(await client.jobs.cancel(job), as_json=as_json)


def print_job(job: weft.Job, *, as_json: bool) -> None:
    """One job, for a person or a program."""
    from weft_cli.output import print_json, say

    if as_json:
        print_json(job)
        return
    say(f"{job.name}  {job.kind}  {job.state}  {how_far(job)}", colour=_COLOURS.get(job.state))
    if job.error is not None:
        typer.secho(f"{job.error}", err=True, fg="red")
    if job.result is not None:
        from weft_cli.commands.ingest import print_failed, summary

        say(summary(job.result))
        print_failed(job.result)
    elif job.progress.message:
        say(job.progress.message, dim=True)


def how_far(job: weft.Job) -> str:
    """``3 of 12 documents``."""
    progress = job.progress
    if not progress.unit:
        return "-"
    total = f" of {progress.total}" if progress.total else ""
    return f"{progress.done}{total} {progress.unit}"


@contextmanager
def progress_bar() -> Iterator[Callable[[weft.Job], None] | None]:
    """A bar on stderr where a person watches it; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(job: weft.Job) -> None:
            how = job.progress
            progress.update(task, total=how.total or None, completed=how.done, description=how.message[-60:])

        yield show


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

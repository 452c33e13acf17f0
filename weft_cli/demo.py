"""The whole mesh, shown and checked: ``make demo``, or ``python -m weft_cli.demo`` in the project's directory.

It brings a mesh up in a temporary directory, ingests README.md and docs/, and asks four things as a person
would: one that the documents answer, a follow-up that means nothing without the session, one that needs a
tool, one that the documents can't answer. It shows the sources, the ledger and the trace, then takes
everything down.

Every step is checked. Exits with 0 if all of it was there, with 1 and the reason if anything was missing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from weft_cli import ports
from weft_cli.local import LOG_FILE
from weft_cli.lock import holder
from weft_cli.running import FAILED, INTERRUPTED, OK
from weft_cli.settings import Where, environ, quiet_grpc

if TYPE_CHECKING:
    import weft

DOCUMENTS: Final = ("README.md", "docs")
FROM_DOCUMENTS: Final = "What happens if the orchestrator dies?"
FOLLOW_UP: Final = "And does it run a tool twice?"
FOLLOW_UP_MEANS: Final = "No tool that changes something runs twice"
NEEDS_A_TOOL: Final = "What is 17 % of 2,340, and how many days are there from 2026-03-01 to 2026-12-24?"
UNANSWERABLE: Final = "Who won the football world cup in 1998?"
_ELSEWHERE: Final = ("WEFT_MESH", "WEFT_STORE", "WEFT_REGISTRY", "WEFT_TARGET", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICES: Final = {"cli", "orchestrator", "retriever", "generator"}


class Missing(Exception):
    """Something that the demonstration should have shown wasn't there."""


def main() -> int:
    """Run the demonstration; returns the exit code."""
    quiet_grpc()
    if not all(Path(path).exists() for path in DOCUMENTS):
        typer.secho("weft demo: README.md and docs/ are not here; run it in Weft's directory", err=True, fg="red")
        return FAILED
    from weft.errors import WeftError

    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weft-demo-") as folder:
        try:
            with _mesh(Path(folder)) as data_dir:
                asyncio.run(_show(data_dir))
        except (Missing, WeftError) as exc:
            typer.secho(f"weft demo: {exc}", err=True, fg="red")
            return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
    typer.secho(
        f"\nThe demonstration is complete: everything was there, in {time.monotonic() - begun_s:.0f} s.", bold=True
    )
    return OK


@contextmanager
def _mesh(data_dir: Path) -> Iterator[Path]:
    with ports.reserved("127.0.0.1", 9500) as port, _mesh_at(data_dir, f"127.0.0.1:{port}"):
        yield data_dir


@contextmanager
def _mesh_at(data_dir: Path, address: str) -> Iterator[None]:
    try:
        _weft("up", "--data", str(data_dir), "--mesh", address, "--detach")
        _weft("status", "--data", str(data_dir))
        yield
    except Exception:
        if holder(data_dir):  # otherwise `up` has told why
            lines = (data_dir / LOG_FILE).read_text(errors="replace").splitlines()
            typer.echo("\n".join(["the mesh's last log lines:", *lines[-20:]]), err=True)
        raise
    finally:
        if holder(data_dir):
            _weft("down", "--data", str(data_dir))


def _weft(*arguments: str) -> None:
    """Run a command as a user would, and show it."""
    typer.secho(f"\n$ weft {' '.join(arguments)}", bold=True)
    found = {name: value for name, value in environ().items() if name not in _ELSEWHERE}
    code = subprocess.run([sys.executable, "-m", "weft_cli.main", *arguments], env=found, check=False).returncode
    if code != OK:
        raise Missing(f"`weft {arguments[0]}` ended with {code}")


async def _show(data_dir: Path) -> None:
    from weft_cli.connecting import connected

    async with connected(Where(data_dir=data_dir)) as client:
        await _ingest(client)
        first = await _ask(client, FROM_DOCUMENTS, ledger=True)
        _check(bool(first.citations), "the answer from the documents cites none")
        _check(bool(first.ledger.entries), "the answer came without its ledger")
        second = await _ask(client, FOLLOW_UP, session=first.session)
        _check(second.session == first.session, "the follow-up was answered in another session")
        _check(second.query != FOLLOW_UP, "the follow-up was searched without what the session knows")
        _check(
            any(FOLLOW_UP_MEANS in citation.quote for citation in second.citations),
            f"the follow-up's answer cites nothing that says {FOLLOW_UP_MEANS!r}",
        )
        _check(first.text not in second.text, "the follow-up's answer repeats the first one")
        tools = await _ask(client, NEEDS_A_TOOL)
        _check("397.8" in tools.text and "298" in tools.text, "the tools' results are not in the answer")
        _check(all(result.error is None for result in tools.tools) and len(tools.tools) == 2, "a tool failed")
        none = await _ask(client, UNANSWERABLE)
        _check(none.abstained, "a question that the documents can't answer was answered")
        for answer in (first, second, tools, none):
            _check(not answer.degraded, f"an answer was degraded: {answer.degraded}")
    await _trace(data_dir, first.trace_id)


async def _ingest(client: weft.Client) -> None:
    from weft_cli.commands.ingest import progress_bar, summary
    from weft_cli.output import say

    say(f"\n$ weft ingest {' '.join(DOCUMENTS)}", bold=True)
    with progress_bar() as on_progress:
        result = await client.ingest(list(DOCUMENTS), on_progress=on_progress)
    say(summary(result))
    _check(not result.failed, f"not every document was taken in: {[str(failed.error) for failed in result.failed]}")


async def _ask(client: weft.Client, question: str, *, session: str | None = None, ledger: bool = False) -> weft.Answer:
    from weft_cli.commands.ask import show
    from weft_cli.output import print_answer_tail, say

    options = (f" --session {session.removeprefix('sessions/')}" if session else "") + (" --ledger" if ledger else "")
    say(f"\n$ weft ask{options} {question!r}", bold=True)
    answer = await show(client.stream(question, session=session))
    print_answer_tail(answer, ledger=ledger)
    return answer


async def _trace(data_dir: Path, trace_id: str) -> None:
    from weft_cli.commands.trace import settled
    from weft_cli.connecting import traces
    from weft_cli.output import say
    from weft_cli.waterfall import complete, print_waterfall

    say(f"\n$ weft trace {trace_id[:16]}", bold=True)
    async with traces(Where(data_dir=data_dir)) as stub:
        found = await settled(stub, trace_id)
    print_waterfall(found.trace_id, found.spans)
    _check(complete(found.spans), "the trace is not one tree")
    absent = _SERVICES - {span.service for span in found.spans}
    _check(not absent, f"the trace shows nothing of {', '.join(sorted(absent))}")


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise Missing(problem)


if __name__ == "__main__":
    raise SystemExit(main())

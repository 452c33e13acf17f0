"""How a command ends.

    0    done
    1    failed; the message says what and what to do
    2    wrong usage: an unknown option, a value that doesn't parse, a configuration that is refused
    3    no mesh there: nothing answers at the address, or nothing runs on the data directory
    130  interrupted with Ctrl-C (``weft up`` ends with 0: that is how it is stopped)
    141  nobody reads the output any more

Errors go to stderr as one line; with ``--json`` to stdout as ``{"error": {reason, code, message, metadata}}``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import typer

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_MESH: Final = 3
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


def run(work: Coroutine[Any, Any, int | None], *, as_json: bool = False) -> NoReturn:
    """Run a command to its end and exit with its code."""
    from weft.errors import Unavailable, WeftError
    from weft_cli.output import print_error

    try:
        code = asyncio.run(work) or OK
        sys.stdout.flush()
    except WeftError as exc:
        print_error(exc, as_json=as_json)
        nobody_there = isinstance(exc, Unavailable) and exc.metadata.keys() & {"mesh", "data_dir"}
        code = NO_MESH if nobody_there and "service" not in exc.metadata else FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out; give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    raise typer.Exit(code)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say why on stderr and exit."""
    typer.echo(f"weft: {message}", err=True)
    raise typer.Exit(code)

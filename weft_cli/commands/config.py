"""``weft config``: what the processes of a mesh would run with.

Each process knows its own settings, and the command line imports none of them: it asks them,
``python -m services.retriever config``, all at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from difflib import SequenceMatcher
from typing import Any, Final

import typer

from weft_cli.options import AsJson
from weft_cli.running import FAILED, OK, USAGE, run
from weft_cli.topology import MODULES

config = typer.Typer(
    no_args_is_help=True,
    help="Check or print the configuration that processes would start with.",
    short_help="Check or print the configuration.",
)
_TIMEOUT_S: Final = 60.0


@config.command()
def check(as_json: AsJson = False) -> None:
    """Check the environment: every WEFT_ name known, every value allowed. Exits with 2 if not."""
    run(_check(as_json), as_json=as_json)


@config.command("print")
def print_(as_json: AsJson = False) -> None:
    """Print every setting with its value, secrets masked."""
    run(_print(as_json), as_json=as_json)


async def _check(as_json: bool) -> int:
    from weft_cli.output import print_json, say

    results = await _ask_all("--check")
    problems = {name: text for name, (code, _, text) in results.items() if code != OK}
    if as_json:
        print_json({"valid": not problems, "problems": problems})
    elif problems:
        _print_problems(problems)
    else:
        say(f"the configuration is valid for {', '.join(results)}")
    return USAGE if problems else OK


async def _print(as_json: bool) -> int:
    from weft_cli.output import print_json

    results = await _ask_all("--json")
    problems = {name: text for name, (code, _, text) in results.items() if code != OK}
    if problems:
        if as_json:
            print_json({"valid": False, "problems": problems})
        else:
            _print_problems(problems)
        return USAGE
    settings = {name: json.loads(out) for name, (_, out, _) in results.items()}
    if as_json:
        print_json(settings)
    else:
        _print_settings(settings)
    return OK


def _print_problems(problems: dict[str, str]) -> None:
    for line in merge(problems):
        typer.secho(line, err=True, fg="red")


def merge(problems: dict[str, str]) -> list[str]:
    """What all the processes say, each problem once, behind it who has it unless all do.

    Each process knows its own names only, so for a misspelt one each suggests another: the nearest counts.
    """
    found: dict[str, dict[str, str]] = {}  # a problem -> who has it -> what it suggests
    for name, text in problems.items():
        head, *lines = text.removeprefix(f"weft {name}: ").splitlines()
        for line in lines if lines and head.endswith(":") else [text]:
            problem, _, hint = line.strip().partition("; ")
            found.setdefault(problem, {})[name] = hint
    merged = ["the configuration is invalid:"]
    for problem, hints in found.items():
        nearest = max(hints.values(), key=lambda hint: _nearness(problem, hint))
        who = "" if len(hints) == len(MODULES) else f" ({', '.join(hints)})"
        merged.append(f"  {problem}{f'; {nearest}' if nearest else ''}{who}")
    return merged


def _nearness(problem: str, hint: str) -> float:
    suggested = hint.removeprefix("did you mean ").removesuffix("?")
    if suggested == hint:
        return 0.0
    return SequenceMatcher(None, problem.partition(" ")[0], suggested).ratio()


def _print_settings(settings: dict[str, dict[str, Any]]) -> None:
    """What all share once, then each one's own."""
    from weft_cli.output import say

    flat = {name: dict(_flatten(values)) for name, values in settings.items()}
    shared = dict.fromkeys(
        variable
        for variable, value in next(iter(flat.values())).items()
        if all(other.get(variable) == value for other in flat.values())
    )
    say("# shared by every process", bold=True)
    first = next(iter(flat.values()))
    for variable in shared:
        say(f"{variable}={first[variable]}")
    for name, values in flat.items():
        say(f"\n# {name}", bold=True)
        for variable, value in values.items():
            if variable not in shared:
                say(f"{variable}={value}")


def _flatten(values: dict[str, Any], prefix: str = "WEFT_") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict) and prefix == "WEFT_":
            found += _flatten(value, f"WEFT_{name.upper()}__")
        elif name == "otlp_endpoint":
            found.append(("OTEL_EXPORTER_OTLP_ENDPOINT", str(value)))
        else:
            text = json.dumps(value) if isinstance(value, dict) else value
            found.append((f"{prefix}{name.upper()}", ",".join(text) if isinstance(text, list) else str(text)))
    return found


async def _ask_all(flag: str) -> dict[str, tuple[int, str, str]]:
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(_ask(module, flag)) for name, module in MODULES.items()}
    return {name: task.result() for name, task in tasks.items()}


async def _ask(module: str, flag: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one process's ``config``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "config", flag),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return FAILED, "", f"{module} config did not answer within {_TIMEOUT_S:g} s"
    return process.returncode or OK, out.decode(), err.decode(errors="replace").strip()

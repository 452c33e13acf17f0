"""``weft models``: which models answer, which lie on this machine, whether they are whole, and fetching them ahead.

What runs is asked of each generator of the mesh. What lies here is known to the services alone: they are asked as
processes, ``python -m services.retriever.files list``, with the environment that they would start with.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import FAILED, OK, fail, run
from weft_cli.settings import Where
from weft_cli.topology import MODULES

models = typer.Typer(
    no_args_is_help=True,
    help="Look at models, and fetch what is needed ahead of the start.",
    short_help="Show, check and fetch models.",
)
_SERVICES: Final = ("retriever", "generator")
_TIMEOUT_S: Final = 900.0  # checksums of large models
_MIB: Final = 1024 * 1024


@models.command("list")
def list_(mesh: Mesh = None, data: Data = None, as_json: AsJson = False) -> None:
    """List the models that the running generators answer with, and the models on this machine with their sizes."""
    run(_list(where(mesh, data), as_json), as_json=as_json)


@models.command()
def verify(as_json: AsJson = False) -> None:
    """Check the models on this machine: files, safetensors headers, checksums. Exits with 1 if one is not whole."""
    run(_verify(as_json), as_json=as_json)


@models.command()
def pull() -> None:
    """Fetch and build the embedding model, so that no start has to wait for it. Done at once where it is there.

    Directories that vllm:///… names are yours to fill; it says which of them are not there.
    """
    run(_pull())


async def _list(at: Where, as_json: bool) -> int:
    from weft.errors import Unavailable
    from weft_cli.output import print_json, print_table, say

    found, _ = await _files("list")
    try:
        answers, problem = await _running(at), ""
    except Unavailable as exc:
        answers, problem = None, exc.message
    if as_json:
        print_json({"running": answers, "files": found})
        return OK
    if answers:
        print_table(("GENERATOR", "MODEL", "BACKEND", "CONTEXT", "CONTINUES", ""), map(_row, answers))
    else:
        say(f"no generator was asked: {problem}" if answers is None else "no generator runs")
    say()
    _print_files(found)
    return OK


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    if item["problem"]:
        return (item["instance"], "-", "-", "-", "-", item["problem"])
    context = f"{item['context_tokens']:,}" if item["context_tokens"] else "-"
    continues = "yes" if item["can_resume"] or item["can_repeat"] else "no"
    return (item["instance"], item["model"], item["backend"], context, continues, "default" if item["default"] else "")


async def _running(at: Where) -> list[dict[str, Any]]:
    """The models of every generator of the mesh."""
    from weft.mesh.v1 import status_pb2
    from weft_cli.connecting import control_plane

    async with control_plane(at) as control:
        instances = (await control.status()).instances
    alive = (status_pb2.HEALTH_SERVING, status_pb2.HEALTH_HELD)
    generators = [i.instance for i in instances if i.instance.service == "generator" and i.health in alive]
    found = await asyncio.gather(*(_models_of(item.id, f"{item.host}:{item.port}") for item in generators))
    return [model for models_of_one in found for model in models_of_one]


async def _models_of(instance: str, address: str) -> list[dict[str, Any]]:
    from grpc import aio

    from weft.channel import Dial, open_address
    from weft.generator.v1 import generator_pb2, generator_pb2_grpc
    from weft_cli.connecting import CALL_TIMEOUT_S

    shape = {"instance": instance, "address": address, "problem": ""}
    async with open_address((address,), Dial()) as channel:
        stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        try:
            reply = await stub.ListModels(generator_pb2.ListModelsRequest(), timeout=CALL_TIMEOUT_S)
        except aio.AioRpcError as exc:
            return [{**shape, "problem": f"doesn't answer: {exc.details()}"}]
    return [
        {
            **shape,
            "model": model.name,
            "backend": model.backend,
            "context_tokens": model.context_tokens,
            "can_resume": model.can_resume,
            "can_repeat": model.can_repeat,
            "default": model.default,
        }
        for model in reply.models
    ]


async def _verify(as_json: bool) -> int:
    from weft_cli.output import print_json

    found, code = await _files("verify")
    if as_json:
        print_json(found)
    else:
        _print_files(found)
    return code


async def _pull() -> int:
    command = [sys.executable, "-m", f"{MODULES['retriever']}.prepare"]  # its progress goes to this terminal
    code = await asyncio.to_thread(lambda: subprocess.run(command, check=False).returncode)
    if code != OK:
        return code
    found, _ = await _files("list", ("generator",))
    absent = [item for item in found if item["state"] == "absent"]
    for item in absent:
        typer.secho(f"weft: {item['model']}: {item['path']} is not there; put the model in it", err=True, fg="yellow")
    return FAILED if absent else OK


def _print_files(found: list[dict[str, Any]]) -> None:
    from weft_cli.output import print_table, say

    if not found:
        say("no models on this machine")
        return
    rows = [
        (i["service"], i["model"], i["state"], f"{i['size_bytes'] / _MIB:,.1f} MiB", i["path"] or "-", i["problem"])
        for i in found
    ]
    print_table(("SERVICE", "MODEL", "STATE", "SIZE", "PATH", ""), rows)


async def _files(what: str, services: Sequence[str] = _SERVICES) -> tuple[list[dict[str, Any]], int]:
    """What each service says of its files, and 1 if one lacks what it needs. Where a configuration is wrong, the
    command ends with 2."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(MODULES[service], what)) for service in services]
    found: list[dict[str, Any]] = []
    for code, out, err in [task.result() for task in tasks]:
        if code not in (OK, FAILED) or not out:
            fail(err.removeprefix("weft "), code)
        found += json.loads(out)
    return found, max(task.result()[0] for task in tasks)


async def _ask(module: str, what: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one service's look at its files."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{module}.files", what),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        return FAILED, "", f"{module}: did not answer within {_TIMEOUT_S:g} s"
    finally:  # Ctrl-C, too
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or OK, out.decode(), err.decode(errors="replace").strip()

"""A mesh on this machine, from its lock to the last child's end; what ``weft up`` runs.

In the foreground it shows the children's logs. Detached, the same command runs as a session of its own with its
output in ``DIR/up.log``, and the caller waits until ``mesh.json`` says that it is ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from weft_cli import ports, topology
from weft_cli.lock import DataLock, Held, holder
from weft_cli.logs import Logs
from weft_cli.running import FAILED, OK, USAGE
from weft_cli.settings import data_option, environ, mesh_file
from weft_cli.supervisor import StartFailed, Supervisor

LOG_FILE: Final = "up.log"
_MESH_FILE: Final = "mesh.json"
_READY_S: Final = 90.0
_FEW_LINES: Final = 12
_LAST_LINES: Final = 200
_EMBEDDER: Final = "WEFT_RETRIEVER__EMBEDDER"
_OTLP: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Options:
    """What ``weft up`` was told."""

    replicas: list[topology.Replicas]
    registry: str | None
    mesh: str
    data_dir: Path
    fresh: bool
    """Whether the data directory was made for this start. If it fails, it goes again."""


def prepare(options: Options) -> dict[str, str]:
    """The children's environment, with the embedding model fetched. Where it can't be had and nobody asked for it by
    name, new collections do without: search is lexical then, and says so."""
    found = environ()
    retrievers = sum(item.count for item in options.replicas if item.service == "retriever")
    if retrievers and not found.get(_EMBEDDER):
        code = subprocess.run([sys.executable, "-m", "services.retriever.prepare"], env=found, check=False).returncode
        if code == USAGE:  # the configuration is wrong, and has been told
            raise SystemExit(USAGE)
        if code != OK:
            typer.secho(
                f"weft: the embedding model can't be had (see above): new collections are made without embedder "
                f"and searched by their words alone. Set {_EMBEDDER} to choose another.",
                err=True,
                fg="yellow",
            )
            found[_EMBEDDER] = "none:"
    return found


async def foreground(options: Options) -> int:
    """Run the mesh until a signal, or until it can't go on."""
    lock = DataLock(options.data_dir)
    try:
        host, _, port = options.mesh.rpartition(":")
        if problem := ports.taken_by(host, int(port)):
            typer.secho(f"weft: {problem}; choose another with --mesh {host}:PORT", err=True, fg="red")
            return FAILED
        return await _run(options, prepare(options))
    finally:
        was_ready = (mesh_file(options.data_dir) or {}).get("ready")
        (options.data_dir / _MESH_FILE).unlink(missing_ok=True)
        lock.release()
        if not was_ready:
            _discard(options)


async def _run(options: Options, base: dict[str, str]) -> int:
    if base.get(_OTLP):  # traces go elsewhere
        return await _supervise(options, base, None)
    port = int(options.mesh.rpartition(":")[2])
    with ports.reserved("127.0.0.1", port + 1) as collector_port:
        return await _supervise(options, base, collector_port)


async def _supervise(options: Options, base: dict[str, str], collector_port: int | None) -> int:
    shared = topology.shared_environ(
        base,
        mesh=options.mesh,
        registry=options.registry,
        data_dir=options.data_dir,
        collector_port=collector_port,
    )
    infrastructure = topology.infrastructure(options.mesh, collector_port)
    services = topology.services(options.replicas)
    logs = Logs([spec.name for spec in (*infrastructure, *services)])
    supervisor = Supervisor(shared, logs)
    stop, hurry = _signals()
    found: dict[str, Any] = {
        "mesh": options.mesh,
        "otlp_endpoint": shared.get(_OTLP, ""),
        "trace": f"127.0.0.1:{collector_port}" if collector_port else "",
        "registry": shared.get("WEFT_REGISTRY", "builtin:"),
        "pid": os.getpid(),
        "ready": False,
    }
    code = OK
    try:
        async with asyncio.TaskGroup() as group:
            try:
                supervisor.start(infrastructure, group)
                await _until_ready(options.mesh, [], supervisor, stop)
                _write(options.data_dir, found)
                supervisor.start(services, group)
                shown = await _until_ready(options.mesh, [spec.instance_id for spec in services], supervisor, stop)
                supervisor.ready = True
                if not stop.is_set():
                    _write(options.data_dir, {**found, "ready": True})
                    _welcome(logs, options, found, shown)
                await _first(stop.wait(), supervisor.failure)
                if supervisor.failure.done():
                    raise supervisor.failure.result()
                logs.say("weft: draining; Ctrl-C again cuts it short")
            except StartFailed as exc:
                logs.say(f"weft: {exc}")
                code = FAILED
            finally:
                await supervisor.stop(hurry)
    finally:
        supervisor.kill()
        logs.close()
    return code


async def _until_ready(mesh: str, wanted: list[str], supervisor: Supervisor, stop: asyncio.Event) -> dict[str, Any]:
    """Wait for the mesh in a process of its own; what it shows, or nothing when we are told to stop meanwhile."""
    waiter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "weft_cli.ready", mesh, str(_READY_S), *wanted),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    waiting = asyncio.create_task(waiter.communicate())
    try:
        await _first(waiting, supervisor.failure, stop.wait())
        if supervisor.failure.done():
            raise supervisor.failure.result()
        if not waiting.done():
            return {}
        out, err = waiting.result()
        if waiter.returncode != OK:
            raise StartFailed(f"the mesh does not get ready: {err.decode(errors='replace').strip()}")
        shown: dict[str, Any] = json.loads(out)
        return shown
    finally:
        if waiter.returncode is None:
            waiter.kill()
        await asyncio.gather(waiting, return_exceptions=True)


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, given in zip(tasks, awaitables, strict=True):
            if task is not given:  # what was made here ends here; what was lent lives on
                task.cancel()


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """The first signal stops, the second one hurries."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told)
    return stop, hurry


def _write(data_dir: Path, found: dict[str, Any]) -> None:
    """Replaced whole: a reader never sees half of it."""
    partial = data_dir / f"{_MESH_FILE}.partial"
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    partial.replace(data_dir / _MESH_FILE)


def _welcome(logs: Logs, options: Options, found: dict[str, Any], shown: dict[str, Any]) -> None:
    rows = [(i["service"], i["version"], i["address"], i["id"]) for i in shown["instances"]]
    widths = [max(len(row[n]) for row in rows) if rows else 0 for n in range(4)]
    logs.say(f"\nmesh {options.mesh} is up · data {options.data_dir} · traces {found['otlp_endpoint']}")
    for row in rows:
        logs.say("  " + "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip())
    logs.say(f"{_hint(options)}\n")


def _hint(options: Options) -> str:
    data = data_option(options.data_dir)
    return f"try:  weft ingest README.md docs{data}\n      weft ask{data} 'What is this about?'"


def detached(options: Options, replicas: str | None) -> int:
    """Start the same in the background; its exit code if it doesn't get ready."""
    code = FAILED
    try:
        code = _detached(options, replicas)
    finally:
        if code != OK:
            _discard(options)
    return code


def _discard(options: Options) -> None:
    """Remove the directory of a mesh that was never ready, so that nobody can have stored anything, if it was made for
    it and no other mesh has taken it meanwhile."""
    if options.fresh and holder(options.data_dir) is None:
        shutil.rmtree(options.data_dir, ignore_errors=True)


def _detached(options: Options, replicas: str | None) -> int:
    data_dir = options.data_dir
    if (pid := holder(data_dir)) is not None:
        raise Held(pid)
    arguments = ["up", "--mesh", options.mesh, "--data", str(data_dir)]
    arguments += ["--replicas", replicas] if replicas else []
    arguments += ["--registry", options.registry] if options.registry else []
    log_path = data_dir / LOG_FILE
    found = prepare(options)  # here, where its progress can be seen; the other finds it done
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "weft_cli.main", *arguments],
            env=found, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        if _came_up(process, data_dir):
            typer.echo(
                f"mesh {options.mesh} is up, pid {process.pid} · logs {log_path} · weft down{data_option(data_dir)}\n"
                f"{_hint(options)}"
            )
            return OK
    except BaseException:  # Ctrl-C: a mesh that nobody waits for must not be left behind
        process.terminate()
        process.wait()
        raise
    if process.poll() is None:
        process.terminate()
    code = process.wait() or FAILED
    lines = log_path.read_text(errors="replace").splitlines()
    shown = lines[-_LAST_LINES if options.fresh else -_FEW_LINES :]  # a fresh directory takes its log with it
    said = "this is what it said" if options.fresh else f"all it said is in {log_path}"
    typer.secho("\n".join([*shown, f"weft: the mesh did not come up; {said}"]), err=True, fg="red")
    return code


def _came_up(process: subprocess.Popen[bytes], data_dir: Path) -> bool:
    until_s = time.monotonic() + 2 * _READY_S
    while time.monotonic() < until_s and process.poll() is None:
        written = mesh_file(data_dir)
        if written is not None and written.get("ready") and written.get("pid") == process.pid:
            return True
        time.sleep(0.1)
    return False

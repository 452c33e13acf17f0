"""Bad input: each a clear error, and nothing else harmed.

Good callers ask all the while, and none of them may notice anything. Every refusal has its canonical code, one
``ErrorInfo`` with its reason, and a short message that says what is wrong, with which value, and what would do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support import refusals
from tests.support.load import driving
from tests.support.mesh import ROOT, SERVICES, Mesh, Process, eventually, free_port, running_mesh
from tests.support.refusals import REFUSALS
from tests.support.sdk import in_child
from tests.support.wire_refusals import ON_THE_WIRE, chat, details, generate, route, search, tool
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc

pytestmark = pytest.mark.timeout(240)
LONGEST_MESSAGE_CHARS = 300
UNLIMITED = [("grpc.max_send_message_length", -1)]
ENVIRON = {"WEFT_RETRIEVER__EMBEDDER": "none:"}  # words are enough here
_LATE_TICK = "the event loop was blocked"  # the machine's fault, not the input's


@dataclass
class World:
    """The mesh under test and what the tests share."""

    mesh: Mesh
    folder: Path
    addresses: Mapping[str, str]
    pids: Mapping[str, int]

    def channel(self, service: str) -> grpc.Channel:
        return grpc.insecure_channel(self.addresses[service], options=UNLIMITED)

    def answers(self) -> None:
        """One good turn."""
        with self.channel("orchestrator") as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            *_, last = stub.Chat(orchestrator_pb2.ChatRequest(question=refusals.QUESTION), timeout=20)
        assert refusals.ANSWER in last.finished.text, last
        assert not last.finished.degraded, last


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("files")
    refusals.make_files(folder)
    with running_mesh(tmp_path_factory.mktemp("mesh"), dict.fromkeys(SERVICES, 1), environ=ENVIRON) as mesh:
        in_child(mesh, "ingest", str(folder / "fact.md"))
        addresses = {i.service: f"ipv4:{i.host}:{i.port}" for found in mesh.serving().values() for i in found}
        addresses |= {"controlplane": f"ipv4:{mesh.address}", "collector": f"ipv4:{mesh.collector_address}"}
        world = World(mesh, folder, addresses, {p.name: p.pid for p in mesh.processes})
        with driving(mesh, "ask", callers=3, pause_s=0.2, max_seconds=600) as load:
            yield world
        assert load.summary["failed"] == 0, load.summary
        assert load.summary["ok"] > 10, load.summary


@pytest.fixture(autouse=True)
def nothing_else_harmed(world: World) -> Iterator[None]:
    yield
    world.answers()
    assert {p.name: p.pid for p in world.mesh.processes if p.running} == world.pids, "a process was started again"


# -- the SDK ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provoked(world: World) -> dict[str, Any]:
    """Every row of the table, provoked in one process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.refusals", world.mesh.address, str(world.folder)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", REFUSALS)
def test_the_sdk_refuses(provoked: dict[str, Any], name: str) -> None:
    wanted, found = REFUSALS[name], provoked[name]
    assert "returned" not in found, found
    assert (found["code"], found["reason"], found["field"]) == (wanted.code, wanted.reason, wanted.field), found
    assert_clear(found["message"], wanted.says)
    assert not found["retryable"], found
    assert found["harmed"] == "", "the next good question was not answered"


def test_a_second_mesh_in_one_process_has_a_class_of_its_own(provoked: dict[str, Any], world: World) -> None:
    found = provoked["a second mesh in one process"]
    assert found["type"] == "MeshAlreadyBound"
    assert found["metadata"] == {"bound": world.mesh.address, "wanted": "127.0.0.1:1"}


def assert_clear(message: str, says: tuple[str, ...]) -> None:
    missing = [part for part in says if part not in message]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) <= LONGEST_MESSAGE_CHARS, f"{len(message)} characters: {message}"
    assert message.isprintable(), message


# -- the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_THE_WIRE)
def test_a_service_refuses(world: World, name: str) -> None:
    wanted = ON_THE_WIRE[name]
    with world.channel(wanted.service) as channel, pytest.raises(grpc.RpcError) as caught:
        wanted.call(channel)
    assert caught.value.code().name == wanted.code, caught.value
    assert_clear(caught.value.details(), wanted.says)
    info, field = details(caught.value)
    assert (info.domain, info.reason) == ("weft.dev", wanted.reason)
    assert field == wanted.field


def test_a_deadline_that_has_passed_is_told_as_such(world: World) -> None:
    for _ in range(20):  # whoever notices first, gRPC or we
        with world.channel("orchestrator") as channel, pytest.raises(grpc.RpcError) as caught:
            chat(0, question=refusals.QUESTION)(channel)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if caught.value.trailing_metadata():
            assert_clear(caught.value.details(), ("the deadline of", "passed", "give more time"))
            assert details(caught.value)[0].reason == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("service", ["orchestrator", "retriever", "generator", "tools", "controlplane"])
def test_a_message_over_4_mib_is_refused_by_grpc_itself(world: World, service: str) -> None:
    big = {
        "orchestrator": chat(question=refusals.OVER_4_MIB),
        "retriever": search(query=refusals.OVER_4_MIB),
        "generator": generate(refusals.OVER_4_MIB),
        "tools": tool("calculator", expression=refusals.OVER_4_MIB),
        "controlplane": route(**{refusals.OVER_4_MIB: 100}),
    }
    with world.channel(service) as channel, pytest.raises(grpc.RpcError) as caught:
        big[service](channel)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_a_division_by_zero_in_a_question_is_told_in_the_answer(world: World) -> None:
    with world.channel("orchestrator") as channel:
        events = chat(question="What is 1/0?")(channel)
    (result,) = [event.tool_result for event in events if event.HasField("tool_result")]
    assert result.error.reason == "TOOL_FAILED"
    assert "division by zero" in result.error.message
    assert "division by zero" in events[-1].finished.text


# -- the command line ---------------------------------------------------------------------------------------


def weft(world: World, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft_cli.main", *arguments],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
        env={**clean_environ(), "WEFT_MESH": world.mesh.address, **environ},
    )  # fmt: skip


def clean_environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "GRPC_XDS_", "OTEL_"))} | ENVIRON


ON_THE_COMMAND_LINE: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "an empty question": (("ask", ""), 1, ("question", "empty", "[INVALID_FIELD]")),
    "a question of 100 kB": (("ask", "x" * 100_000), 1, ("100000", "8192", "shorten")),
    "an unknown collection": (("search", "x", "-c", "nowhere"), 1, ("collections/nowhere", "ingesting")),
    "top_k 10⁶": (("ask", "x", "-k", "1000000"), 1, ("top_k", "1000000", "1 to 20")),
    "no time": (("search", "x", "--timeout", "0"), 1, ("timeout_s", "above 0")),
    "a file in a broken encoding": (("ingest", "{folder}/broken.txt"), 1, ("broken.txt", "UTF-8", "convert")),
    "an empty file": (("ingest", "{folder}/empty.md"), 1, ("empty.md", "no text")),
    "a folder without readable files": (("ingest", "{folder}/pictures"), 1, ("pictures", "no readable files", ".md")),
    "another mesh's address": (("ask", "x"), 3, ("no mesh answers at 127.0.0.1:1", "weft up", "WEFT_MESH")),
    "an address that is none": (("ask", "x"), 1, ("nonsense", "host:port")),
}
_SUMMARY = "weft: 1 of 1 document not taken in, for the reasons above; nothing is in"
_ELSEWHERE = {"another mesh's address": "127.0.0.1:1", "an address that is none": "nonsense"}


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_the_command_line_refuses(world: World, name: str) -> None:
    arguments, code, says = ON_THE_COMMAND_LINE[name]
    done = weft(
        world,
        *(argument.format(folder=world.folder) for argument in arguments),
        WEFT_MESH=_ELSEWHERE.get(name, world.mesh.address),
    )
    assert done.returncode == code, done
    line, *more = done.stderr.strip().splitlines()
    assert more == ([_SUMMARY] if line.startswith("not taken in: ") else [])
    assert_clear(line.replace(str(world.folder), ""), says)


def test_json_keeps_an_error_on_stdout(world: World) -> None:
    done = weft(world, "ask", "", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    failure = json.loads(done.stdout)["error"]
    assert (failure["reason"], failure["code"]) == ("INVALID_FIELD", "INVALID_ARGUMENT")
    assert re.fullmatch(r"[0-9a-f]{32}", failure["metadata"]["trace_id"])


# -- processes ----------------------------------------------------------------------------------------------


def starts_not(world: World, directory: Path, module: str, *says: str, **environ: str) -> None:
    """``python -m module`` ends with 1 and one error that says why."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
        env={**clean_environ(), "WEFT_MESH": world.mesh.address, "WEFT_STORE": f"sqlite:///{directory}",
             "WEFT_LOG_FORMAT": "json", **environ},
    )  # fmt: skip
    assert done.returncode == 1, done
    (error,) = [entry["event"] for entry in log_lines(done.stdout + done.stderr) if entry["level"] == "error"]
    assert_clear(error.replace(str(directory), "DIR"), says)


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("module", ["services.tools", "mesh.telemetry.collector"])
def test_a_port_that_is_taken_is_named(world: World, tmp_path: Path, module: str) -> None:
    port = world.addresses["tools"].rpartition(":")[2]
    starts_not(world, tmp_path, module, f"127.0.0.1:{port}", "taken", "WEFT_PORT", WEFT_PORT=port)


def test_a_metrics_port_that_is_taken_is_named(world: World, tmp_path: Path) -> None:
    port = world.addresses["tools"].rpartition(":")[2]
    says = (f"127.0.0.1:{port}", "already in use", "WEFT_METRICS_PORT")
    starts_not(world, tmp_path, "services.tools", *says, WEFT_METRICS_PORT=port)


def test_a_second_control_plane_on_the_same_address_is_refused(world: World, tmp_path: Path) -> None:
    starts_not(world, tmp_path, "mesh.controlplane", world.mesh.address, "taken", "WEFT_MESH")


def test_weft_up_names_the_port_that_is_taken_and_who_has_it(world: World, tmp_path: Path) -> None:
    done = weft(world, "up", "--mesh", world.mesh.address, "--data", str(tmp_path))
    assert done.returncode == 1
    port = world.mesh.address.rpartition(":")[2]
    pid = world.pids["controlplane"]
    assert_clear(done.stderr.strip(), (f"port {port}", "taken", f"pid {pid}", "--mesh"))


@pytest.mark.parametrize(
    ("module", "file"),
    [("mesh.controlplane", "mesh.db"), ("services.retriever", "log.db"), ("services.orchestrator", "sessions.db")],
)
def test_a_corrupt_data_directory_is_named_and_left_as_it_is(
    world: World, tmp_path: Path, module: str, file: str
) -> None:
    damaged = b"no database at all\n" * 1_000
    (tmp_path / file).write_bytes(damaged)
    elsewhere = f"127.0.0.1:{free_port()}"
    starts_not(world, tmp_path, module, f"DIR/{file}", "move it away", "[STORE_CORRUPT]", WEFT_MESH=elsewhere)
    assert (tmp_path / file).read_bytes() == damaged


@pytest.mark.parametrize("module", ["mesh.controlplane", "services.retriever", "services.orchestrator"])
def test_a_data_directory_that_is_a_file_is_named(world: World, tmp_path: Path, module: str) -> None:
    (tmp_path / "file").write_text("in the way")
    elsewhere = f"127.0.0.1:{free_port()}"
    starts_not(world, tmp_path / "file", module, "DIR", "File exists", WEFT_MESH=elsewhere)


def test_weft_up_on_a_corrupt_data_directory_ends_and_says_why(world: World, tmp_path: Path) -> None:
    (tmp_path / "mesh.db").write_bytes(b"no database at all\n" * 1_000)
    done = weft(world, "up", "--mesh", f"127.0.0.1:{free_port()}", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "controlplane does not run" in done.stdout
    assert f"{tmp_path}/mesh.db" in done.stdout
    assert "move it away" in done.stdout


def spawn_apart(world: World, directory: Path, name: str, module: str, **environ: str) -> Process:
    settings = {"WEFT_STORE": f"sqlite:///{directory}", "WEFT_LOG_FORMAT": "json", **environ}
    return Process(
        name, [sys.executable, "-m", module], {**clean_environ(), **settings}, directory / f"{name}.log"
    ).start()


def test_a_dead_registry_is_named_waited_for_and_joined(world: World, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    early = spawn_apart(world, tmp_path, "tools", "services.tools", WEFT_MESH=address)
    late: Process | None = None
    try:
        eventually(lambda: f"control plane {address} (WEFT_MESH) can't be reached" in early.tail(), within_s=30,
                   what="a warning that names the address")  # fmt: skip
        assert early.running
        late = spawn_apart(world, tmp_path, "controlplane", "mesh.controlplane", WEFT_MESH=address)
        eventually(lambda: "the registry is back" in early.tail(), within_s=30, what="registered")
    finally:
        for process in (early, late):
            if process is not None:
                assert process.terminate() == 0, process.tail()


def test_a_dead_consul_is_named_and_the_control_plane_says_that_it_is_away(world: World, tmp_path: Path) -> None:
    address, consul = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environ = {"WEFT_MESH": address, "WEFT_REGISTRY": f"consul://{consul}"}
    processes = [
        spawn_apart(world, tmp_path, "controlplane", "mesh.controlplane", **environ),
        spawn_apart(world, tmp_path, "tools", "services.tools", **environ),
    ]
    try:
        for process in processes:
            eventually(lambda p=process: f"Consul at {consul}" in p.tail(), within_s=30, what=f"{process.name} says so")
            assert process.running
        done = weft(world, "status", WEFT_MESH=address)
        assert done.returncode == 1, done
        assert "not ready" in done.stderr
        assert f"consul://{consul}" in done.stdout
        assert "does not answer" in done.stdout
    finally:
        for process in processes:
            assert process.terminate() == 0, process.tail()


# -- and afterwards -----------------------------------------------------------------------------------------


def test_no_service_took_any_of_it_for_a_defect(world: World) -> None:
    for process in world.mesh.processes:
        entries = log_lines(process.log.read_text())
        errors = [e for e in entries if e["level"] in ("error", "critical") and _LATE_TICK not in e["event"]]
        assert not errors, f"{process.name}: {errors[:3]}"

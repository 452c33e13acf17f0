"""The command line with a whole mesh of its own: up, used, looked into, damaged, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.mesh import ROOT, eventually, free_port

ONE = "retriever=1,generator=0,tools=0,orchestrator=0"
LIBRARY = """# The library
The library of Alba opens at nine in the morning. It closes at six in the evening.

# The garden
The garden behind the library has seven apple trees. They were planted in 1987.
"""


@dataclass
class Weft:
    """The command ``weft`` on one data directory."""

    data: Path
    environ: dict[str, str]

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "weft_cli.main", *arguments, "--data", str(self.data)],
            input=stdin, capture_output=True, text=True, timeout=timeout_s, env=self.environ, cwd=ROOT, check=False,
        )  # fmt: skip

    def ok(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def instances(self) -> list[dict[str, Any]]:
        # its exit code says whether all that is needed is there, which is not what is asked here
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["instances"]
        return found

    @property
    def file(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "mesh.json").read_text())
        return found


def clean_environ(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "GRPC_XDS_", "OTEL_"))}
    # The words of the documents are enough here, and no model has to be fetched.
    return {**kept, "WEFT_RETRIEVER__EMBEDDER": "none:", **more}


@pytest.fixture(scope="module")
def weft_cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weft]:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "docs").mkdir()
    (folder / "docs" / "alba.md").write_text(LIBRARY)
    cli = Weft(folder / "data", clean_environ())
    address = f"127.0.0.1:{free_port()}"
    said = cli.ok("up", "--mesh", address, "--detach", "--replicas", "retriever=2,retriever@v2=1")
    assert f"mesh {address} is up" in said
    try:
        yield cli
    finally:
        done = cli.run("down")
        log = (cli.data / "up.log").read_text()
    assert done.returncode == 0, f"{done.stderr}\n{log[-3000:]}"
    assert "is down" in done.stdout
    assert not (cli.data / "mesh.json").exists()
    assert "does not end; killed" not in log
    assert cli.run("down").returncode == 3


def test_the_mesh_has_what_was_asked_for_and_all_of_it_serves(weft_cli: Weft) -> None:
    found = weft_cli.instances()
    assert sorted((i["service"], i["version"]) for i in found) == [
        ("generator", "v1"),
        ("orchestrator", "v1"),
        ("retriever", "v1"),
        ("retriever", "v1"),
        ("retriever", "v2"),
        ("tools", "v1"),
    ]
    assert {i["health"] for i in found} == {"serving"}
    loads = "the load of each"  # is told a moment after it serves
    eventually(lambda: all(i["load"] is not None for i in weft_cli.instances()), within_s=40, what=loads)
    table = weft_cli.ok("status")
    assert all(i["address"] in table for i in found)


def test_the_models_of_running_generators_are_listed_beside_the_files_here(weft_cli: Weft) -> None:
    found = weft_cli.json("models", "list")
    (model,) = found["running"]
    assert (model["model"], model["backend"], model["default"]) == ("extractive", "extractive", True)
    assert model["instance"].startswith("generator-1-")
    assert [item["url"] for item in found["files"]][:1] == ["minilm:"]


def test_a_second_up_on_the_same_directory_is_refused_with_the_pid(weft_cli: Weft) -> None:
    for extra in ((), ("--detach",)):
        done = weft_cli.run("up", "--mesh", f"127.0.0.1:{free_port()}", *extra)
        assert done.returncode == 1
        assert f"pid {weft_cli.file['pid']}" in done.stderr


def test_documents_go_in_and_are_found_and_answered_from(weft_cli: Weft) -> None:
    folder = str(weft_cli.data.parent / "docs")
    assert weft_cli.ok("ingest", folder).startswith("1 document in ")
    assert "1 of them unchanged" in weft_cli.ok("ingest", folder)
    weft_cli.ok("ingest", "-", "--collection", "notes", stdin="The tram to the harbour is red.")
    (first, *_) = weft_cli.json("search", "apple trees", "--explain")["hits"]
    assert first["parts"]["lexical"] > 0
    assert "seven apple trees" in first["text"]
    assert first["source"].endswith("docs/alba.md")
    answer = weft_cli.json("ask", "When does the library of Alba open?")
    assert "nine" in answer["text"]
    assert answer["citations"]
    follow_up = weft_cli.json("ask", "And when does it close?", "--session", answer["session"])
    assert "Alba" in follow_up["query"]
    assert follow_up["citations"]
    assert follow_up["session"] == answer["session"]
    shown = weft_cli.ok("ask", "What colour is the tram to the harbour?", "-c", "notes", "--ledger")
    assert "red" in shown
    assert "sources" in shown
    assert "retrieval" in shown
    assert weft_cli.json("ask", "Who wrote the opera Aida?")["finish_reason"] == "abstained"


def test_files_that_cannot_be_taken_in_are_named_and_the_good_one_is_in(weft_cli: Weft, tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "garbled.txt").write_bytes("Zoë, René, Chloé, Noël, Anaïs, André, Jörg".encode() + b" and Andr\xe9")
    (tmp_path / "good.md").write_text("The lighthouse of Brann is forty metres tall.")
    done = weft_cli.run("ingest", str(tmp_path), "-c", "mixed", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["documents"] == 1
    assert {Path(f["source"]).name: f["error"]["reason"] for f in result["failed"]} == {
        "empty.md": "DOCUMENT_EMPTY",
        "garbled.txt": "DOCUMENT_UNREADABLE",
    }
    assert weft_cli.json("search", "lighthouse", "-c", "mixed")["hits"]


def test_a_tool_is_called_where_the_question_needs_one(weft_cli: Weft) -> None:
    answer = weft_cli.json("ask", "What is 12 times 34?")
    assert "408" in answer["text"]
    assert [tool["tool"] for tool in answer["tools"]] == ["calculator"]


def test_a_trace_begins_at_the_command_line_and_can_be_drawn(weft_cli: Weft) -> None:
    trace_id = weft_cli.json("ask", "When does the library of Alba close?")["trace_id"]
    spans = weft_cli.json("trace", trace_id)["spans"]
    (root,) = [span for span in spans if not span["parent_span_id"]]
    assert (root["service"], root["name"]) == ("cli", "ask")
    assert {"cli", "orchestrator", "retriever", "generator"} <= {span["service"] for span in spans}
    drawn = weft_cli.ok("trace", trace_id[:12])
    assert drawn.startswith(f"trace {trace_id}")
    assert len(drawn.splitlines()) == len(spans) + 1
    listed = weft_cli.json("trace")
    assert trace_id in [item["trace_id"] for item in listed["traces"]]
    assert listed["total"] >= len(listed["traces"])
    newest = weft_cli.ok("trace", "--limit", "1")
    assert newest.splitlines()[-1].startswith("showing 1 of ")
    gone = weft_cli.run("trace", "ffff0000ffff0000")
    assert "the last 1,000" in gone.stderr
    assert "`weft trace` lists" in gone.stderr
    assert "(weft trace" not in gone.stderr


def test_a_route_is_set_in_parts_shown_and_cleared(weft_cli: Weft) -> None:
    weft_cli.ok("route", "retriever", "--weights", "v1=90,v2=10")
    weft_cli.ok("route", "retriever", "--header", "weft-route-canary=yes:v2")
    (policy,) = weft_cli.json("route", "--show")["policies"]
    assert policy["weights"] == {"v1": 90, "v2": 10}
    assert policy["headers"] == [{"header": "weft-route-canary", "value": "yes", "version": "v2"}]
    assert not policy["problem"]
    assert "retriever: v1 90 %, v2 10 %" in weft_cli.ok("status")
    weft_cli.ok("route", "retriever", "--weights", "v1=50,v2=50")
    (policy,) = weft_cli.json("route", "retriever", "--show")["policies"]
    assert policy["weights"] == {"v1": 50, "v2": 50}
    assert policy["headers"]
    weft_cli.ok("route", "retriever", "--clear")
    assert weft_cli.json("route", "--show")["policies"] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("search", "x", "-c", "nowhere"), "COLLECTION_NOT_FOUND"),
        (("ask", "bell \x07"), "INVALID_FIELD"),
        (("ask", "x", "-s", "0" * 32), "SESSION_NOT_FOUND"),
        (("trace", "ffff0000ffff0000"), "TRACE_NOT_FOUND"),
        (("ingest", "/nowhere/at/all"), "INVALID_FIELD"),
    ],
)
def test_what_cannot_be_done_is_told_by_its_reason(weft_cli: Weft, arguments: tuple[str, ...], reason: str) -> None:
    done = weft_cli.run(*arguments, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["reason"] == reason


def test_what_dies_is_started_again_under_its_own_id(weft_cli: Weft) -> None:
    victim = next(i for i in weft_cli.instances() if i["service"] == "tools")
    (process,) = [
        child
        for child in psutil.Process(weft_cli.file["pid"]).children()
        if "services.tools" in " ".join(child.cmdline())
    ]
    process.kill()

    def reborn() -> bool:
        now = [i for i in weft_cli.instances() if i["id"] == victim["id"]]
        return bool(now) and now[0]["address"] != victim["address"] and now[0]["load"] is not None

    eventually(reborn, within_s=30, what="the tools service serves again")
    assert "408" in weft_cli.json("ask", "What is 12 times 34?")["text"]


def test_in_the_foreground_ctrl_c_drains_and_ends_with_0(tmp_path: Path) -> None:
    environ = clean_environ(PYTHONUNBUFFERED="1")
    few = "retriever=1,generator=0,tools=0"
    arguments = ["up", "--mesh", f"127.0.0.1:{free_port()}", "--data", str(tmp_path), "--replicas", few]
    with subprocess.Popen(
        [sys.executable, "-m", "weft_cli.main", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "is up" in line:
                break
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 0, "".join(said) + rest
    assert any("controlplane │" in line or "controlplane   │" in line for line in said)
    assert "draining" in rest
    assert len(children) == 4
    assert not [child for child in children if child.is_running()]
    assert not (tmp_path / "mesh.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
def test_nothing_is_left_of_a_mesh_whose_supervisor_is_killed_and_it_can_come_up_again(tmp_path: Path) -> None:
    cli = Weft(tmp_path, clean_environ())
    up = ("up", "--mesh", f"127.0.0.1:{free_port()}", "--detach", "--replicas", ONE)
    cli.ok(*up)
    supervisor = psutil.Process(cli.file["pid"])
    children = supervisor.children()
    supervisor.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    cli.ok(*up)
    cli.ok("down")


def test_a_model_that_cannot_be_had_is_told_and_the_mesh_runs_on_words(tmp_path: Path) -> None:
    environ = clean_environ(
        WEFT_RETRIEVER__MODEL_SOURCES=str(tmp_path / "no-model"), WEFT_RETRIEVER__MODEL_CACHE=str(tmp_path / "cache")
    )
    del environ["WEFT_RETRIEVER__EMBEDDER"]
    cli = Weft(tmp_path / "data", environ)
    done = cli.run("up", "--mesh", f"127.0.0.1:{free_port()}", "--detach", "--replicas", ONE)
    try:
        assert done.returncode == 0, done.stderr
        assert "searched by their words alone" in done.stderr
        cli.ok("ingest", "-", stdin="The tram to the harbour is red.")
        assert cli.json("search", "harbour tram")["hits"]
    finally:
        cli.ok("down")


def test_a_configuration_that_is_refused_ends_the_start_with_its_words(tmp_path: Path) -> None:
    cli = Weft(tmp_path, clean_environ(WEFT_TOOLS__NO_SUCH_THING="1"))
    begun_s = time.monotonic()
    done = cli.run("up", "--mesh", f"127.0.0.1:{free_port()}", "--detach")
    assert done.returncode == 1
    assert "WEFT_TOOLS__NO_SUCH_THING is not a setting" in done.stderr
    assert time.monotonic() - begun_s < 60
    assert cli.run("down").returncode == 3


def test_config_prints_every_setting_with_secrets_masked_and_refuses_unknown_names() -> None:
    def config(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "weft_cli.main", "config", *arguments],
            capture_output=True, text=True, timeout=90, env=clean_environ(**more), cwd=ROOT, check=False,
        )  # fmt: skip

    registry = "consul://user:hush@127.0.0.1:8500"
    printed = config("print", "--json", WEFT_REGISTRY=registry)
    assert printed.returncode == 0, printed.stderr
    as_json = json.loads(printed.stdout)
    assert {"controlplane", "collector", "retriever", "generator", "tools", "orchestrator"} == as_json.keys()
    assert "hush" not in printed.stdout
    refused = config("check", WEFT_RETREIVER__INDEX="faiss:")
    assert refused.returncode == 2
    assert "WEFT_RETREIVER__INDEX is not a setting" in refused.stderr


def test_the_demonstration_shows_everything_and_leaves_nothing(tmp_path: Path) -> None:
    environ = clean_environ(TMPDIR=str(tmp_path))
    command = [sys.executable, "-m", "weft_cli.demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environ, cwd=ROOT, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for part in ("sources", "ledger:", "397.8", "hold no answer", "OrchestratorService/Chat", "is down", "complete"):
        assert part in done.stdout, f"{part} is missing\n{done.stdout}"
    assert not list(tmp_path.glob("weft-demo-*"))


def test_a_demonstration_without_documents_fails_and_says_why(tmp_path: Path) -> None:
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "weft_cli.demo"],
        capture_output=True, text=True, timeout=60, env=environ, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "README.md and docs/ are not here" in done.stderr


def test_ctrl_c_while_a_detached_mesh_comes_up_leaves_nothing_behind(tmp_path: Path) -> None:
    arguments = ["up", "--detach", "--mesh", f"127.0.0.1:{free_port()}", "--data", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "weft_cli.main", *arguments], env=clean_environ(), cwd=ROOT
    ) as process:
        (background,) = eventually(lambda: psutil.Process(process.pid).children(), within_s=40, what="a child")
        eventually(lambda: background.children(), within_s=40, what="the control plane")
        everyone = background.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    assert not [child for child in everyone if child.is_running()]
    assert Weft(tmp_path, clean_environ()).run("down").returncode == 3


def test_a_detached_ingest_is_a_job_to_be_listed_awaited_and_shown(weft_cli: Weft) -> None:
    folder = weft_cli.data.parent / "more"
    folder.mkdir()
    (folder / "owls.md").write_text("# Owls\n\nAn owl turns its head by 270 degrees.")
    job = weft_cli.json("ingest", str(folder), "-c", "birds", "--detach")["job"]
    done = weft_cli.json("jobs", "wait", job)
    assert (done["name"], done["kind"], done["state"], done["result"]["documents"]) == (job, "ingest", "succeeded", 1)
    assert weft_cli.json("jobs", "show", job) == done
    (line,) = [line for line in weft_cli.ok("jobs", "list", "--state", "succeeded").splitlines() if job in line]
    assert "1 of 1 documents" in line
    assert "270 degrees" in weft_cli.ok("search", "owl", "-c", "birds")
    unknown = weft_cli.run("jobs", "wait", "0" * 32)
    assert (unknown.returncode, "[JOB_NOT_FOUND]" in unknown.stderr) == (1, True)


def test_documents_and_collections_are_listed_and_deleted(weft_cli: Weft) -> None:
    weft_cli.ok("ingest", "-", "-c", "short-lived", stdin="A mayfly lives for a day.")
    (document,) = weft_cli.json("documents", "list", "-c", "short-lived")["documents"]
    weft_cli.ok("documents", "delete", document["name"])
    assert weft_cli.ok("documents", "list", "-c", "short-lived").strip() == "no documents"
    unwanted = weft_cli.run("collections", "delete", "short-lived")  # nobody there to say yes
    assert (unwanted.returncode, "--yes" in unwanted.stderr) == (2, True)
    weft_cli.ok("collections", "delete", "short-lived", "--yes")
    assert "short-lived" not in weft_cli.ok("collections", "list")


def test_a_collection_is_moved_to_another_embedder(weft_cli: Weft) -> None:
    weft_cli.ok("ingest", "-", "-c", "moving", stdin="An eel swims 6,000 kilometres.")
    moved = weft_cli.json("reindex", "moving", "--embedder", "none:")
    assert (moved["kind"], moved["state"]) == ("reindex", "succeeded")
    refused = weft_cli.run("reindex", "nobody", "--embedder", "none:")
    assert (refused.returncode, "[COLLECTION_NOT_FOUND]" in refused.stderr) == (1, True)

"""The commands as processes against a scripted server: text in a pipe, JSON, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import weft
from tests.support.scripted import HANG, Server, delta, finished, scripted_server, started
from weft.common.v1 import passage_pb2
from weft.errors import Reason, error
from weft.retriever.v1 import retriever_pb2
from weft_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "up",
    "down",
    "status",
    "ingest",
    "search",
    "ask",
    "trace",
    "route",
    "reindex",
    "collections",
    "documents",
    "jobs",
    "models",
    "config",
)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with scripted_server() as running:
        yield running


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def begin(
    server: Server | None, *arguments: str, more: Mapping[str, str] | None = None, **streams: Any
) -> asyncio.subprocess.Process:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "GRPC_"))}
    if server is not None:
        address = f"127.0.0.1:{server.port}"
        environ |= {"WEFT_MESH": address, "WEFT_TARGET": f"ipv4:{address}"}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "weft_cli.main", *arguments),
        env={**environ, **(more or {})},
        cwd=ROOT,
        **{**pipes, **streams},
    )


async def run(
    server: Server | None, *arguments: str, stdin: bytes = b"", more: Mapping[str, str] | None = None
) -> Done:
    process = await begin(server, *arguments, more=more)
    out, err = await asyncio.wait_for(process.communicate(stdin), 30)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def test_ask_prints_the_text_its_sources_and_the_session(server: Server) -> None:
    citation = passage_pb2.Citation(passage="c/1", start_char=0, end_char=4, quote="sky is blue", source="sky.md")
    server.chat.scripts = [
        [started(), delta(1, "It is "), delta(2, "blue."), finished(3, "It is blue.", citations=[citation])]
    ]
    done = await run(server, "ask", "Colour?", "--session", "talk", "--filter", "year = 2026", "--model", "tiny")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "It is blue.",
        "",
        "sources",
        "  [1] sky.md",
        "      “sky is blue”",
        "",
        "session s1 · trace abababababababab",
    ]
    asked = server.chat.requests[0]
    assert (asked.session, asked.filter, asked.model) == ("sessions/talk", "year = 2026", "tiny")
    assert "\x1b" not in done.out


async def test_an_answer_from_the_cache_says_so_and_a_new_one_can_be_asked_for(server: Server) -> None:
    server.chat.scripts = [[started(), finished(1, "Yes.", cached=cached)] for cached in (True, False)]
    kept = await run(server, "ask", "?")
    made = await run(server, "ask", "?", "--no-cache")
    assert [request.allow_cached for request in server.chat.requests] == [True, False]
    assert kept.out.splitlines()[-1].endswith(" · from the cache")
    assert "cache" not in made.out


async def test_an_answer_that_breaks_off_for_good_is_shown_as_far_as_it_came(server: Server) -> None:
    gone = error(Reason.ANSWER_INTERRUPTED, "its model went away", partial="true", emitted_chars=6)
    server.chat.scripts = [[started(), delta(1, "It is "), gone]] * 2
    shown, told = await asyncio.gather(run(server, "ask", "?"), run(server, "ask", "?", "--json"))
    assert (shown.code, shown.out.splitlines()) == (1, ["It is  …"])
    assert "its model went away [ANSWER_INTERRUPTED]" in shown.err
    assert (told.code, told.json["error"]["partial_text"]) == (1, "It is ")


async def test_json_is_the_shape_of_the_sdk(server: Server, tmp_path: Path) -> None:
    server.chat.scripts = [[started(), finished(1, "Yes.")]] * 2
    server.retriever.hits = [retriever_pb2.Hit(passage=passage_pb2.Passage(name="c/documents/d/chunks/1", text="t"))]
    (tmp_path / "a.md").write_text("# A")
    asked = await run(server, "ask", "?", "--json")
    searched = await run(server, "search", "?", "--json")
    ingested = await run(server, "ingest", str(tmp_path), "--json")
    status = await run(server, "status", "--json")
    async with server.client() as c:
        assert asked.json == json.loads(json.dumps(weft.as_dict(await c.ask("?"))))
        found = weft.as_dict(await c.search("?"))
        assert searched.json.keys() == found.keys()
        assert searched.json["hits"] == json.loads(json.dumps(found["hits"]))
    assert ingested.json["documents"] == 1
    assert ingested.json["failed"] == []
    assert [item["service"] for item in status.json["instances"]] == ["retriever", "generator", "tools", "orchestrator"]


async def test_ingest_reads_standard_input_under_the_name_of_its_content(server: Server) -> None:
    first = await run(server, "ingest", "-", "-c", "notes", stdin="Grüße".encode())
    assert first.out == "1 document in 2 passages\n"
    await run(server, "ingest", "-", stdin="Grüße".encode())
    await run(server, "ingest", "-", stdin=b"other")
    assert sorted(server.retriever.documents.values()) == ["Grüße".encode(), b"other"]
    assert server.retriever.collections[0] == "collections/notes"


async def test_a_document_that_was_not_taken_in_is_named_and_the_exit_code_says_so(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("# A")
    (tmp_path / "b.md").write_text("")
    (tmp_path / "c.csv").write_text("1,2")
    source = f"{tmp_path}/b.md"
    server.retriever.refused = {source: error(Reason.DOCUMENT_EMPTY, "holds no text", source=source)}
    done = await run(server, "ingest", str(tmp_path))
    assert done.code == 1
    assert done.out == "1 document in 2 passages\n"
    assert done.err.splitlines() == [
        f"not taken in: {source}: holds no text [DOCUMENT_EMPTY]",
        "weft: 1 of 2 documents not taken in, for the reasons above; the rest is in and can be searched",
        "weft: left out of folders, since files like these are not read: 1 .csv; name one to try it all the same",
    ]
    assert list(server.retriever.documents) == [f"{tmp_path}/a.md"]
    alone = await run(server, "ingest", source)
    assert alone.code == 1
    assert "1 of 1 document not taken in, for the reasons above; nothing is in" in alone.err


async def test_an_error_is_one_line_or_an_object_and_the_code_is_1(server: Server) -> None:
    server.retriever.failure = error(Reason.COLLECTION_NOT_FOUND, "there is no collection 'x'", collection="x")
    plain = await run(server, "search", "q", "-c", "x", "--filter", 'year = "2024"')
    assert server.retriever.searches[-1].filter == 'year = "2024"'
    assert (plain.code, plain.out) == (1, "")
    assert plain.err.startswith("weft: there is no collection 'x' [COLLECTION_NOT_FOUND]")
    as_json = await run(server, "search", "q", "-c", "x", "--json")
    assert (as_json.code, as_json.err) == (1, "")
    assert as_json.json["error"]["reason"] == "COLLECTION_NOT_FOUND"
    assert as_json.json["error"]["metadata"]["collection"] == "x"


@pytest.mark.parametrize("command", [("ask", "q"), ("search", "q"), ("status",), ("trace",), ("route", "--show")])
async def test_without_a_mesh_every_command_says_so_with_code_3(command: tuple[str, ...], tmp_path: Path) -> None:
    done = await run(None, *command, "--data", str(tmp_path))
    assert done.code == 3
    assert f"weft up --data {tmp_path}" in done.err
    assert (await run(None, "down", "--data", str(tmp_path))).code == 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("ask",), "Missing argument"),
        (("ask", "q", "--sesion", "s"), "No such option"),
        (("up", "--replicas", "retreiver=2"), "no service"),
        (("up", "--mesh", "nowhere"), "host:port"),
        (("status", "--mesh", "nowhere"), "host:port"),
        (("status", "--mesh", "http://127.0.0.1:9500"), "leave out what stands before the host"),
        (("status", "--mesh", "127.0.0.1:1", "--data", "x"), "either --mesh or --data"),
        (("route", "retriever", "--clear", "--show"), "say one of"),
        (("route", "retriever", "--unknown-service"), "--weights or --header"),
        (("route", "retriever", "--weights", "v1=90,v2=20"), "add up to 110"),
        (("route", "retriever", "--weights", "v1=x"), "0 to 100"),
        (("route", "retriever", "--header", "x=y"), "NAME=VALUE:VERSION"),
        (("route", "--weights", "v1=100"), "which service"),
    ],
)
async def test_wrong_usage_is_explained_with_code_2(arguments: tuple[str, ...], problem: str) -> None:
    done = await run(None, *arguments)
    assert done.code == 2
    assert problem in done.err


async def test_status_ends_with_0_only_when_every_service_has_a_healthy_instance(server: Server) -> None:
    ready = await run(server, "status")
    assert (ready.code, ready.err) == (0, "")
    server.status.missing = {"generator", "tools"}
    done = await run(server, "status")
    assert done.code == 1
    assert "orchestrator-1" in done.out  # what is there is shown all the same
    assert done.err == "weft: not ready; without a healthy instance: generator, tools\n"
    as_json = await run(server, "status", "--json")
    assert (as_json.code, as_json.err) == (1, "")
    assert (as_json.json["ready"], as_json.json["missing"]) == (False, ["generator", "tools"])


async def test_the_option_mesh_counts_more_than_the_environment(server: Server) -> None:
    nowhere = {"WEFT_MESH": "127.0.0.1:1"}
    assert (await run(server, "status", more=nowhere)).code == 3
    assert (await run(server, "status", "--mesh", f"127.0.0.1:{server.port}", more=nowhere)).code == 0


async def test_a_mesh_that_is_not_there_is_told_with_all_the_ways_to_name_another(tmp_path: Path) -> None:
    done = await run(None, "status", more={"WEFT_MESH": "127.0.0.1:1"})
    assert done.code == 3
    assert "no mesh answers at 127.0.0.1:1" in done.err
    assert all(way in done.err for way in ("weft up", "--mesh HOST:PORT", "--data DIR", "WEFT_MESH"))


async def test_a_route_without_options_is_shown(server: Server) -> None:
    assert (await run(server, "route", "retriever")).out == "route retriever: evenly over all instances\n"
    assert (await run(server, "route", "retriever", "--weights", "v1=90,v2=10")).code == 0
    for arguments in (("route", "retriever"), ("route",), ("route", "--show")):
        assert "route retriever: v1 90 %, v2 10 %" in (await run(server, *arguments)).out
    assert (await run(server, "route", "generator")).out == "route generator: evenly over all instances\n"


async def test_a_policy_for_a_service_that_nobody_knows_is_refused_unless_it_is_meant(server: Server) -> None:
    misspelt = await run(server, "route", "retreiver", "--weights", "v1=100")
    assert misspelt.code == 1
    assert "no service 'retreiver' (did you mean retriever?)" in misspelt.err
    assert "there are generator, orchestrator, retriever, tools" in misspelt.err
    assert not server.routing.policies
    assert (
        (await run(server, "route", "retreiver")).code == (await run(server, "route", "retreiver", "--clear")).code == 1
    )
    meant = await run(server, "route", "billing", "--weights", "v1=100", "--unknown-service")
    assert meant.code == 0, meant.err
    assert (await run(server, "route", "billing")).out.startswith("route billing: v1 100 %")  # it has a policy now
    assert (await run(server, "route", "billing", "--clear")).code == 0


@pytest.mark.parametrize("command", ["status", "ingest", "search", "ask", "trace", "route"])
def test_whatever_talks_to_a_mesh_can_be_told_which(command: str) -> None:
    options = {name for option in get_command(app).commands[command].params for name in option.opts}  # type: ignore[attr-defined]
    assert {"--mesh", "--data", "--json"} <= options


async def test_ctrl_c_ends_an_ask_with_130_and_the_turn_with_it(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "It "), HANG]]
    process = await begin(server, "ask", "?")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.read(3), 20) == b"It "
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    await asyncio.wait_for(server.chat.cancelled.wait(), 5)


async def test_output_that_nobody_reads_ends_the_command_quietly(server: Server) -> None:
    reading, writing = os.pipe()
    process = await begin(server, "status", stdout=writing)
    os.close(writing)
    os.close(reading)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err) == (141, b"")


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = await run(None, "up", "--mesh", f"127.0.0.1:{port}", "--data", str(tmp_path))
    assert done.code == 1
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()}" in done.err
    assert not (tmp_path / "mesh.json").exists()


@pytest.mark.parametrize("detach", [(), ("--detach",)])
async def test_a_start_that_fails_takes_the_directory_that_it_made_with_it(
    tmp_path: Path, detach: tuple[str, ...]
) -> None:
    (tmp_path / "mine").mkdir()
    no_model = {"WEFT_RETRIEVER__EMBEDDER": "none:"}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        for name in ("new", "mine"):
            folder = str(tmp_path / name)
            done = await run(None, "up", "--mesh", f"127.0.0.1:{port}", "--data", folder, *detach, more=no_model)
            assert done.code == 1
            assert f"port {port} on 127.0.0.1 is taken" in done.err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "mine").exists()  # it was there before


async def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    done = await run(None, "up", "--data", str(tmp_path / "data"), more={"WEFT_HOST": "0.0.0.0"})
    assert done.code == 1
    assert "weft: WEFT_HOST not used" in done.err
    assert f"{tmp_path}/data cannot be used" in done.err


def test_help_is_everywhere_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['weft', *sys.argv[1:], '--help'];"
        "from weft_cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'grpc', 'google', 'opentelemetry', 'psutil', 'mesh', 'services'}\n"
        "loaded = heavy & {m.partition('.')[0] for m in sys.modules}\n"
        "assert not loaded, loaded"
    )
    for command in ((), *((name,) for name in COMMANDS), ("config", "print"), ("config", "check")):
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"Usage: {' '.join(('weft', *command))} " in done.stdout
        assert not re.search(r"<(bool|int|str|list)", done.stdout), done.stdout
        assert "│" not in done.stdout

"""One trace from the caller through every hop and stream: exact edges, right parents, right ends.

The table below is the whole truth, for both registries: an edge too many, too few, or between the wrong spans fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.consul import ConsulAgent
from tests.support.mesh import ROOT, SERVICES, Mesh, running_mesh
from tests.support.traced import MODELS, QUESTION, SCENARIOS
from tests.support.traces import assert_edges, draw, label
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc

pytestmark = pytest.mark.timeout(180)

FACT = "# Ferrets\n\nA ferret sleeps eighteen hours a day. It wakes at dusk and hunts mice.\n"
ENVIRON = {"WEFT_RETRIEVER__EMBEDDER": "none:", "WEFT_GENERATOR__MODELS": json.dumps(MODELS)}
ARRIVE_WITHIN_S = 10.0

# -- the table ----------------------------------------------------------------------------------------------

_CHAT = "orchestrator:server:OrchestratorService/Chat"
_RETRIEVAL, _PLANNING = "orchestrator:internal:turn.retrieval", "orchestrator:internal:turn.planning"
_TOOLS, _GENERATION = "orchestrator:internal:turn.tools", "orchestrator:internal:turn.generation"
Edges = Counter[str]


def call(parent: str, service: str, method: str) -> list[str]:
    """A call as the two edges that it makes: into its client span and over the wire."""
    client = f"{parent.split(':')[0]}:client:{method}"
    return [f"{parent} -> {client}", f"{client} -> {service}:server:{method}"]


def asked(caller: str, parent: str | None = None) -> Edges:
    """From the caller to the orchestrator's handler, and the session."""
    ask = f"{caller}:internal:ask"
    chat = call(ask, "orchestrator", "OrchestratorService/Chat")
    root = [f"-> {parent}", f"{parent} -> {ask}"] if parent else [f"-> {ask}"]
    return Counter([*root, *chat, f"{_CHAT} -> orchestrator:internal:turn.session"])


RETRIEVAL = Counter([f"{_CHAT} -> {_RETRIEVAL}", *call(_RETRIEVAL, "retriever", "RetrieverService/Search")])
PLANNING = Counter([f"{_CHAT} -> {_PLANNING}"])
TOOLS = Counter([f"{_CHAT} -> {_TOOLS}"])
ONE_TOOL = Counter(call(_TOOLS, "tools", "ToolsService/CallTool"))
TOOL_SEARCHES = Counter(call("tools:server:ToolsService/CallTool", "retriever", "RetrieverService/Search"))
GENERATION = Counter([f"{_CHAT} -> {_GENERATION}"])
GENERATE = Counter(call(_GENERATION, "generator", "GeneratorService/Generate"))
WRITTEN = GENERATION + GENERATE
PLAIN = RETRIEVAL + PLANNING + WRITTEN

EXPECTED: dict[str, Edges] = {
    "ingest": Counter(
        [
            "-> app:internal:app",
            *call("app:internal:app", "retriever", "RetrieverService/IngestDocuments"),
            "retriever:server:RetrieverService/IngestDocuments -> retriever:internal:job.ingest",
        ]
    ),
    "search": Counter(["-> app:internal:app", *call("app:internal:app", "retriever", "RetrieverService/Search")]),
    "retrieval": asked("app") + PLAIN,
    "no tools allowed": asked("app") + RETRIEVAL + WRITTEN,
    "two tools": asked("app") + PLAIN + TOOLS + ONE_TOOL + ONE_TOOL,
    "a tool that searches": asked("app") + PLAIN + TOOLS + ONE_TOOL + TOOL_SEARCHES,
    "a tool that fails": asked("app") + PLAIN + TOOLS + ONE_TOOL,
    "within the application's span": asked("app", "app:internal:app") + PLAIN,
    # The collection is looked for while the tools are planned: whether planning began is a matter of luck.
    "the request's fault": asked("app") + RETRIEVAL,
    # A stream that broke behind its first token, and whose model can't go on, isn't asked for again.
    "the model's fault": asked("app") + RETRIEVAL + PLANNING + GENERATION + GENERATE,
    "left by closing": asked("app") + PLAIN,
    "left by cancelling": asked("app") + PLAIN,
}
MAY_LACK = {"the request's fault": PLANNING}

# What ends other than well: status, code and error type of each such span. All others are "unset", OK.
Ending = tuple[str, str, str]
_BAD_REQUEST: Ending = ("unset", "NOT_FOUND", "NOT_FOUND")  # for a server, the caller's fault is no error of its own
_BROKEN: Ending = ("error", "UNAVAILABLE", "UNAVAILABLE")
_LEFT: Ending = ("error", "CANCELLED", "CANCELLED")
_SERVED_LEFT: Ending = ("unset", "CANCELLED", "")
_INTERNAL_ERROR: Ending = ("error", "", "")
_FINE: Ending = ("unset", "OK", "")
_FINE_INTERNAL: Ending = ("unset", "", "")
_ASK, _CLIENT_CHAT = "app:internal:ask", "app:client:OrchestratorService/Chat"
_SEARCH, _GENERATE = "orchestrator:client:RetrieverService/Search", "orchestrator:client:GeneratorService/Generate"
_LEFT_TURN: dict[str, Ending] = {
    _CLIENT_CHAT: _LEFT,
    _CHAT: _SERVED_LEFT,
    _GENERATION: ("unset", "", "CANCELLED"),
    _GENERATE: _LEFT,
    "generator:server:GeneratorService/Generate": _SERVED_LEFT,
}
ENDINGS: dict[str, dict[str, Ending]] = {
    "a tool that fails": {
        "orchestrator:client:ToolsService/CallTool": ("error", "FAILED_PRECONDITION", "FAILED_PRECONDITION"),
        "tools:server:ToolsService/CallTool": ("unset", "FAILED_PRECONDITION", "FAILED_PRECONDITION"),
    },
    "the request's fault": {
        _ASK: _INTERNAL_ERROR,
        _CLIENT_CHAT: ("error", "NOT_FOUND", "NOT_FOUND"),
        _CHAT: _BAD_REQUEST,
        _RETRIEVAL: _INTERNAL_ERROR,
        _SEARCH: ("error", "NOT_FOUND", "NOT_FOUND"),
        "retriever:server:RetrieverService/Search": _BAD_REQUEST,
    },
    "the model's fault": {
        _ASK: _INTERNAL_ERROR,
        _CLIENT_CHAT: _BROKEN,
        _CHAT: _BROKEN,
        _GENERATION: _INTERNAL_ERROR,
        _GENERATE: _BROKEN,
        "generator:server:GeneratorService/Generate": _BROKEN,
    },
    "left by closing": _LEFT_TURN,
    "left by cancelling": _LEFT_TURN,
}

# -- the mesh and its collector -----------------------------------------------------------------------------


@dataclass
class World:
    """A mesh, and the traces that the application's scenarios left in its collector."""

    mesh: Mesh
    folder: Path
    made: dict[str, Any]

    def spans(self, trace_id: str, at_least: int) -> list[trace_pb2.Span]:
        """A trace, once it has so many spans, or what there is when it should have them."""
        until_s = time.monotonic() + ARRIVE_WITHIN_S
        with grpc.insecure_channel(self.mesh.collector_address) as channel:
            stub = trace_pb2_grpc.TraceServiceStub(channel)
            while True:
                found = list(stub.GetTrace(trace_pb2.GetTraceRequest(trace_id=trace_id), timeout=5).spans)
                if len(found) >= at_least or time.monotonic() > until_s:
                    return found
                time.sleep(0.1)


@pytest.fixture(scope="module", params=["builtin", pytest.param("consul", marks=pytest.mark.consul)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, directory = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("mesh")
    (folder / "ferrets.md").write_text(FACT)
    agent = ConsulAgent(directory).start() if request.param == "consul" else None
    registry = agent.url if agent else "builtin:"
    try:
        with running_mesh(directory, dict.fromkeys(SERVICES, 1), registry=registry, environ=ENVIRON) as mesh:
            yield World(mesh, folder, scenarios(mesh, folder))
    finally:
        if agent:
            agent.kill()


def scenarios(mesh: Mesh, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.traced", mesh.address, mesh.collector_address, str(folder)],
        capture_output=True, text=True, timeout=90, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_trace_has_exactly_the_expected_edges(world: World, name: str) -> None:
    expected = EXPECTED[name]
    spans = world.spans(world.made[name]["trace_id"], expected.total())
    optional = MAY_LACK.get(name, Edges())
    present = Counter(edge for edge in optional if any(edge.endswith(f"-> {label(span)}") for span in spans))
    assert_edges(spans, expected + present)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_span_ends_as_its_work_did(world: World, name: str) -> None:
    spans = world.spans(world.made[name]["trace_id"], EXPECTED[name].total())
    for span in spans:
        fine = _FINE_INTERNAL if span.kind == "internal" else _FINE
        expected = ENDINGS.get(name, {}).get(label(span), fine)
        attributes = dict(span.attributes)
        ending = (span.status, attributes.get("rpc.response.status_code", ""), attributes.get("error.type", ""))
        assert ending == expected, f"{label(span)}\n{draw(spans)}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_span_holds_the_words_of_a_question_or_a_document(world: World, name: str) -> None:
    spans = world.spans(world.made[name]["trace_id"], EXPECTED[name].total())
    told = str(spans)
    assert QUESTION not in told
    assert "eighteen" not in told


def test_an_error_names_its_reason_on_every_hop_that_saw_it(world: World) -> None:
    spans = world.spans(world.made["the request's fault"]["trace_id"], EXPECTED["the request's fault"].total())
    reasons = {label(s): dict(s.attributes).get("weft.error.reason") for s in spans if s.kind == "server"}
    assert reasons == dict.fromkeys((_CHAT, "retriever:server:RetrieverService/Search"), "COLLECTION_NOT_FOUND")


def test_a_turns_span_tells_who_asked_and_where_it_is_kept(world: World) -> None:
    spans = world.spans(world.made["retrieval"]["trace_id"], EXPECTED["retrieval"].total())
    (chat,) = [dict(span.attributes) for span in spans if label(span) == _CHAT]
    assert chat["weft.tenant"] == "default"
    assert chat["weft.session"]
    assert chat["weft.turn"] == 1
    ids = {dict(span.attributes)["weft.request_id"] for span in spans if span.kind == "server"}
    assert len(ids) == 1, "the request's id travels along the whole chain"


def test_the_command_lines_trace_is_the_same_from_its_own_root(world: World) -> None:
    fresh_list_of_tools(world)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("WEFT_", "GRPC_XDS_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "weft_cli.main", "ask", QUESTION, "--json"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
        env={**environ, "WEFT_MESH": world.mesh.address},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = asked("cli") + PLAIN
    assert_edges(world.spans(json.loads(done.stdout)["trace_id"], expected.total()), expected)


def fresh_list_of_tools(world: World) -> None:
    """A turn on a plain channel: what it has to refresh, the next one needn't."""
    (instance,) = world.mesh.serving()["orchestrator"]
    with grpc.insecure_channel(f"ipv4:{instance.host}:{instance.port}") as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        list(stub.Chat(orchestrator_pb2.ChatRequest(question=QUESTION), timeout=20))

"""The tool service through its real server, and document search through a real retriever."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from opentelemetry.sdk.trace import TracerProvider

from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter
from mesh.server import MeshServer
from mesh.settings import LoadWeights, load
from mesh.telemetry import Metrics
from services.orchestrator.peers.tools import ToolsPeer
from services.retriever import wiring as retriever_wiring
from services.retriever.settings import RetrieverOptions
from services.retriever.settings import Settings as RetrieverSettings
from services.tools.documents import RetrieverDocuments
from services.tools.settings import Settings
from services.tools.toolbox import Tool
from services.tools.types import Context, Output, ToolSpec
from services.tools.wiring import open_builtin
from tests.support.tools import Shelf, builtin_tools, planner_spec, tools_house
from weft import names
from weft.errors import Reason, WeftError, error, from_rpc_error
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.tools.v1 import tools_pb2, tools_pb2_grpc
from weft.tracing import traced

LISTED = ["calculator", "calendar_dates", "document_search", "units"]


def request(name: str, arguments: dict[str, Any], **fields: Any) -> tools_pb2.CallToolRequest:
    struct = Struct()
    struct.update(arguments)
    return tools_pb2.CallToolRequest(name=name, arguments=struct, **fields)


async def called(stub: tools_pb2_grpc.ToolsServiceStub, wanted: tools_pb2.CallToolRequest, **call: Any) -> Any:
    return await stub.CallTool(wanted, timeout=5, **call)


async def refused(stub: tools_pb2_grpc.ToolsServiceStub, wanted: tools_pb2.CallToolRequest, **call: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await called(stub, wanted, **call)
    return from_rpc_error(caught.value)


async def test_a_call_answers_with_data_a_sentence_and_its_duration() -> None:
    async with tools_house(builtin_tools()) as house:
        answer = await called(house.stub, request("calculator", {"expression": "12 * 7"}))

    assert answer.text == "12 × 7 = 84"
    assert json_format.MessageToDict(answer.result)["value"] == 84
    assert 0 < answer.duration.ToNanoseconds() < 1e9


async def test_every_tool_is_listed_by_name_with_what_a_planner_needs() -> None:
    tools = builtin_tools()
    async with tools_house(tools) as house:
        listed = (await house.stub.ListTools(tools_pb2.ListToolsRequest(), timeout=5)).tools

    assert [tool.name for tool in listed] == LISTED
    for tool in listed:
        assert tool.description
        assert tool.patterns
        assert tool.read_only
        assert tool.timeout.ToMilliseconds() > 0
        assert json_format.MessageToDict(tool.input_schema)["type"] == "object"


async def test_the_orchestrators_peer_reads_the_very_specs_that_the_tools_declare() -> None:
    tools = builtin_tools()
    async with tools_house(tools) as house:
        specs = await ToolsPeer(house.channel).specs()

    declared = {tool.spec.name: planner_spec(tool.spec) for tool in tools}
    assert {spec.name: spec.patterns for spec in specs} == {name: spec.patterns for name, spec in declared.items()}
    for spec in specs:
        assert spec.input_schema == json.loads(json.dumps(declared[spec.name].input_schema))


async def test_a_list_comes_in_pages() -> None:
    async with tools_house(builtin_tools()) as house:
        first = await house.stub.ListTools(tools_pb2.ListToolsRequest(page_size=3), timeout=5)
        following = tools_pb2.ListToolsRequest(page_size=3, page_token=first.next_page_token)
        last = await house.stub.ListTools(following, timeout=5)

    assert [tool.name for tool in (*first.tools, *last.tools)] == LISTED
    assert (len(first.tools), last.next_page_token) == (3, "")


async def test_today_is_what_the_caller_says_or_else_the_utc_day() -> None:
    async with tools_house(builtin_tools()) as house:
        said = await called(house.stub, request("calendar_dates", {"operation": "today"}, today="2031-05-06"))
        unsaid = await called(house.stub, request("calendar_dates", {"operation": "today"}))

    assert said.result["date"] == "2031-05-06"
    today = datetime.datetime.now(datetime.UTC).date()
    assert unsaid.result["date"] in (today.isoformat(), (today - datetime.timedelta(days=1)).isoformat())


@pytest.mark.parametrize(
    ("wanted", "reason", "code", "message"),
    [
        (request("juggler", {}), Reason.TOOL_NOT_FOUND, "NOT_FOUND", "there are: calculator, calendar_dates,"),
        (request("calculator", {}), Reason.TOOL_ARGUMENTS_INVALID, "INVALID_ARGUMENT", "arguments.expression is miss"),
        (
            request("units", {"value": "ten", "from": "km", "to": "mi"}),
            Reason.TOOL_ARGUMENTS_INVALID,
            "INVALID_ARGUMENT",
            "arguments.value is 'ten'; expected type number",
        ),
        (
            request("units", {"value": math.nan, "from": "km", "to": "mi"}),
            Reason.TOOL_ARGUMENTS_INVALID,
            "INVALID_ARGUMENT",
            "arguments.value is not a finite number",
        ),
        (request("calculator", {"expression": "1/0"}), Reason.TOOL_FAILED, "FAILED_PRECONDITION", "division by zero"),
        (request("", {}), Reason.INVALID_FIELD, "INVALID_ARGUMENT", "name: is empty"),
        (request("calculator", {}, call_id="x" * 129), Reason.INVALID_FIELD, "INVALID_ARGUMENT", "call_id: has 129"),
        (request("calculator", {}, call_id="\x00"), Reason.INVALID_FIELD, "INVALID_ARGUMENT", "U+0000"),
        (request("calculator", {}, today="31.12.2026"), Reason.INVALID_FIELD, "INVALID_ARGUMENT", "YYYY-MM-DD"),
        (
            request("calculator", {"expression": "1" * 300_000}),
            Reason.INVALID_FIELD,
            "INVALID_ARGUMENT",
            "at most 262144 are allowed",
        ),
    ],
)
async def test_a_bad_call_is_refused_clearly_and_harms_no_other(
    wanted: tools_pb2.CallToolRequest, reason: Reason, code: str, message: str
) -> None:
    async with tools_house(builtin_tools()) as house:
        err = await refused(house.stub, wanted)
        after = await called(house.stub, request("calculator", {"expression": "1 + 1"}))

    assert (err.reason, err.code.name) == (reason, code)
    assert message in err.message
    assert after.text == "1 + 1 = 2"


async def test_invalid_arguments_name_path_value_and_what_is_allowed_in_the_details() -> None:
    async with tools_house(builtin_tools()) as house:
        err = await refused(house.stub, request("document_search", {"query": "x", "top_k": 10**6}))

    assert err.field == "arguments.top_k"
    assert {key: err.metadata[key] for key in ("tool", "path", "value", "allowed")} == {
        "tool": "document_search",
        "path": "arguments.top_k",
        "value": "1000000",
        "allowed": "allowed is at most 20",
    }


async def test_a_result_with_infinity_in_it_never_leaves() -> None:
    async def run(arguments: dict[str, Any], context: Context, /) -> Output:
        return Output({"hits": [], "epoch": "", "degraded": [], "x": math.inf}, "endless")

    spec = next(tool.spec for tool in builtin_tools() if tool.spec.name == "document_search")
    async with tools_house([Tool(spec, run)]) as house:
        err = await refused(house.stub, request("document_search", {"query": "x"}))

    assert err.reason == Reason.TOOL_FAILED


async def test_the_span_tells_tool_and_call_but_no_arguments() -> None:
    async with tools_house(builtin_tools()) as house:
        await called(house.stub, request("calculator", {"expression": "123456 + 1"}, call_id="call-7"))
        span = next(s for s in house.spans.get_finished_spans() if s.kind.name == "SERVER")

    attributes = dict(span.attributes or {})
    assert attributes[names.GENAI_OPERATION] == "execute_tool"
    assert attributes[names.GENAI_TOOL_NAME] == "calculator"
    assert attributes[names.GENAI_TOOL_CALL_ID] == "call-7"
    assert "123456" not in str(attributes)


async def test_a_caller_that_goes_away_cancels_the_tool() -> None:
    shelf = Shelf(delay_s=30)
    async with tools_house(builtin_tools(shelf)) as house:
        call = house.stub.CallTool(request("document_search", {"query": "x"}), timeout=20)
        await asyncio.sleep(0.2)
        call.cancel()
        for _ in range(100):
            if shelf.cancelled:
                break
            await asyncio.sleep(0.02)

    assert shelf.cancelled == 1


async def test_the_callers_deadline_comes_before_the_tools_timeout() -> None:
    async with tools_house(builtin_tools(Shelf(delay_s=30))) as house:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.stub.CallTool(request("document_search", {"query": "x"}), timeout=0.3)

    assert from_rpc_error(caught.value).reason == Reason.DEADLINE_EXCEEDED


# -- with a real retriever -----------------------------------------------------------------------------


@asynccontextmanager
async def retriever(place: Path) -> AsyncIterator[int]:
    """A retriever's server over a store in ``place``; yields its port."""
    settings = RetrieverSettings(store=f"sqlite:///{place}", retriever=RetrieverOptions(embedder="none:"))
    metrics = Metrics(service="retriever", instance_id="retriever-1", version="v1")
    tracer = TracerProvider().get_tracer("test")
    server = MeshServer(tracer=tracer, metrics=metrics, load=LoadMeter(LoadWeights()))
    runtime = SimpleNamespace(
        instance_id="retriever-1", tracer=tracer, registry=metrics.registry, stopping=asyncio.Event(), fail=print
    )
    async with retriever_wiring.build(settings, runtime) as bindings:  # type: ignore[arg-type]
        port = await server.start("127.0.0.1", 0, bindings)
        try:
            yield port
        finally:
            await server.stop(0)


def documents(*texts: str, collection: str = "") -> Iterable[retriever_pb2.IngestDocumentsRequest]:
    start = retriever_pb2.IngestStart(request_id=f"ingest {collection}", collection=collection)
    yield retriever_pb2.IngestDocumentsRequest(start=start)
    for index, text in enumerate(texts):
        header = retriever_pb2.DocumentHeader(source=f"notes/{index}.md", title=f"Note {index}")
        yield retriever_pb2.IngestDocumentsRequest(document=header)
        yield retriever_pb2.IngestDocumentsRequest(data=text.encode())


async def test_document_search_asks_a_real_retriever_within_the_callers_tenant(tmp_path: Path) -> None:
    tenant = ((names.METADATA_TENANT, "acme"),)
    other = ((names.METADATA_TENANT, "rival"),)
    tracer = TracerProvider().get_tracer("test")
    async with retriever(tmp_path) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ingest = retriever_pb2_grpc.RetrieverServiceStub(channel).IngestDocuments(
                documents("The retry budget is a tenth of all calls.", "Leases run out after five seconds."),
                metadata=tenant,
                timeout=20,
            )
            events = [event async for event in ingest]
            assert events[-1].finished.documents == 2
        async with traced(grpc.aio.insecure_channel(f"127.0.0.1:{port}"), tracer, prepare) as channel:
            tools = open_builtin(["document_search"], RetrieverDocuments(channel))
            async with tools_house(tools) as house:
                wanted = request("document_search", {"query": "retry budget"})
                answer = await called(house.stub, wanted, metadata=tenant)
                err = await refused(house.stub, wanted, metadata=other)

    hits = json_format.MessageToDict(answer.result)["hits"]
    assert hits[0]["text"] == "The retry budget is a tenth of all calls."
    assert hits[0]["source"] == "notes/0.md"
    assert "the best, in Note 0: “The retry budget" in answer.text
    assert err.reason == Reason.COLLECTION_NOT_FOUND


async def test_a_call_sees_only_what_it_is_held_to(tmp_path: Path) -> None:
    scope = tools_pb2.DocumentScope(collection="collections/notes", filter='source = "notes/1.md"')
    async with (
        retriever(tmp_path) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        tools_house(open_builtin(["document_search"], RetrieverDocuments(channel))) as house,
    ):
        stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        for collection, texts in {
            "notes": ("A lease is secret.", "A lease is public."),
            "default": ("A lease.",),
        }.items():
            ingest = stub.IngestDocuments(documents(*texts, collection=f"collections/{collection}"), timeout=20)
            scope.min_epoch.CopyFrom([event async for event in ingest][-1].finished.epoch)
        for arguments in ({"query": "lease"}, {"query": "lease", "collection": "collections/default"}):
            answer = await called(house.stub, request("document_search", arguments, scope=scope))
            assert [hit["text"] for hit in json_format.MessageToDict(answer.result)["hits"]] == ["A lease is public."]
        scope.min_epoch.sequence += 1
        waiting = house.stub.CallTool(request("document_search", {"query": "lease"}, scope=scope), timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting


@pytest.mark.parametrize(
    ("field", "scope"),
    [
        ("scope.collection", {"collection": "notes"}),
        ("scope.filter", {"filter": "x" * 2_049}),
        ("scope.min_epoch.log_id", {"min_epoch": {"log_id": "x"}}),
    ],
)
async def test_a_scope_that_is_none_is_refused(field: str, scope: dict[str, Any]) -> None:
    async with tools_house(builtin_tools()) as house:
        err = await refused(house.stub, request("document_search", {"query": "x"}, scope=scope))
    assert (err.reason, err.field) == (Reason.INVALID_FIELD, field)


async def test_without_a_retriever_the_search_says_so_and_the_other_tools_work() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        tools = open_builtin(["calculator", "document_search"], RetrieverDocuments(channel))
        async with tools_house(tools) as house:
            err = await refused(house.stub, request("document_search", {"query": "x"}))
            answer = await called(house.stub, request("calculator", {"expression": "1 + 1"}))

    assert err.reason == Reason.DEPENDENCY_UNAVAILABLE
    assert answer.text == "1 + 1 = 2"


# -- settings ------------------------------------------------------------------------------------------


def test_all_builtin_tools_are_offered_unless_the_setting_lists_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Settings, {}).tools.names == LISTED
    monkeypatch.setenv("WEFT_TOOLS__BUILTIN", "units, calculator")
    assert load(Settings).tools.names == ["calculator", "units"]


def test_an_unknown_builtin_tool_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_TOOLS__BUILTIN", "calculator,juggler")
    with pytest.raises(WeftError, match="'juggler' is no built-in tool; there are: all, calculator"):
        load(Settings)


RETRYING = {
    "methodConfig": [
        {
            "name": [{"service": "weft.tools.v1.ToolsService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize("read_only", [True, False])
async def test_what_the_mesh_sends_again_is_run_again_only_where_it_changes_nothing(read_only: bool) -> None:
    runs = 0

    async def run(arguments: dict[str, Any], context: Context) -> Output:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise error(Reason.SHUTTING_DOWN, "the replica goes away")
        return Output({"done": True}, "done")

    spec = ToolSpec("post", "Posts a letter", input_schema={"type": "object"}, output_schema={}, read_only=read_only)
    async with (
        tools_house([Tool(spec, run)]) as house,
        grpc.aio.insecure_channel(house.target, [("grpc.service_config", json.dumps(RETRYING))]) as channel,
    ):
        stub = tools_pb2_grpc.ToolsServiceStub(channel)
        if read_only:
            assert (await called(stub, request("post", {}))).text == "done"
            assert runs == 2
        else:
            assert (await refused(stub, request("post", {}))).reason == Reason.TOOL_OUTCOME_UNKNOWN
            assert runs == 1
        begun = runs
        for attempt in ("1", "2"):  # as Envoy tells them
            metadata = (("x-envoy-attempt-count", attempt),)
            if read_only or attempt == "1":
                await called(stub, request("post", {}), metadata=metadata)
            else:
                again = await refused(stub, request("post", {}), metadata=metadata)
                assert again.reason == Reason.TOOL_OUTCOME_UNKNOWN
        assert runs == begun + 1 + read_only

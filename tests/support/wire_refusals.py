"""What services must refuse on the wire: one table of calls on plain channels, and what must come of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.support import refusals
from weft.generator.v1 import generator_pb2, generator_pb2_grpc
from weft.mesh.v1 import routing_pb2, routing_pb2_grpc, trace_pb2, trace_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.tools.v1 import tools_pb2, tools_pb2_grpc


@dataclass(frozen=True)
class WireRefusal:
    """A call on a plain channel, and what must come of it."""

    service: str
    call: Callable[[grpc.Channel], Any]
    code: str
    reason: str
    says: tuple[str, ...]
    field: str = ""


def tool(name: str, **arguments: Any) -> Callable[[grpc.Channel], Any]:
    request = tools_pb2.CallToolRequest(name=name, arguments=json_format.ParseDict(arguments, struct_pb2.Struct()))
    return lambda channel: tools_pb2_grpc.ToolsServiceStub(channel).CallTool(request, timeout=10)


def chat(timeout_s: float = 10, metadata: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
    request = orchestrator_pb2.ChatRequest(**fields)
    return lambda channel: list(
        orchestrator_pb2_grpc.OrchestratorServiceStub(channel).Chat(request, timeout=timeout_s, metadata=metadata)
    )


def search(**fields: Any) -> Callable[[grpc.Channel], Any]:
    request = retriever_pb2.SearchRequest(**fields)
    return lambda channel: retriever_pb2_grpc.RetrieverServiceStub(channel).Search(request, timeout=10)


def generate(content: str) -> Callable[[grpc.Channel], Any]:
    message = generator_pb2.Message(role=generator_pb2.ROLE_USER, content=content)
    request = generator_pb2.GenerateRequest(messages=[message])
    return lambda channel: list(generator_pb2_grpc.GeneratorServiceStub(channel).Generate(request, timeout=10))


def route(**weights: int) -> Callable[[grpc.Channel], Any]:
    policy = routing_pb2.RoutePolicy(service="retriever")
    for version, weight in weights.items():
        policy.weights.add(version=version, weight=weight)
    request = routing_pb2.SetRoutePolicyRequest(policy=policy)
    return lambda channel: routing_pb2_grpc.RoutingServiceStub(channel).SetRoutePolicy(request, timeout=10)


def raw(method: str, data: bytes) -> Callable[[grpc.Channel], Any]:
    """Bytes that no generated stub would send."""
    return lambda channel: list(channel.stream_stream(method)(iter([data]), timeout=10))


def trace(trace_id: str) -> Callable[[grpc.Channel], Any]:
    request = trace_pb2.GetTraceRequest(trace_id=trace_id)
    return lambda channel: trace_pb2_grpc.TraceServiceStub(channel).GetTrace(request, timeout=10)


_CHAT = "/weft.orchestrator.v1.OrchestratorService/Chat"
_INGEST = "/weft.retriever.v1.RetrieverService/IngestDocuments"
ON_THE_WIRE = {
    "an unknown tool": WireRefusal(
        "tools", tool("hammer"), "NOT_FOUND", "TOOL_NOT_FOUND", ("hammer", "there are: calculator")
    ),
    "a tool without its argument": WireRefusal(
        "tools", tool("calculator"), "INVALID_ARGUMENT", "TOOL_ARGUMENTS_INVALID",
        ("calculator", "arguments.expression is missing", "add it"), "arguments.expression",
    ),
    "an argument of the wrong type": WireRefusal(
        "tools", tool("calculator", expression=5), "INVALID_ARGUMENT", "TOOL_ARGUMENTS_INVALID",
        ("arguments.expression is 5", "expected type string"), "arguments.expression",
    ),
    "an argument that the schema doesn't know": WireRefusal(
        "tools", tool("calculator", expression="1", speed=9), "INVALID_ARGUMENT", "TOOL_ARGUMENTS_INVALID",
        ("arguments.speed is not an argument", "allowed are: expression"), "arguments.speed",
    ),
    "arguments of 400 kB": WireRefusal(
        "tools", tool("calculator", expression="1+" * 200_000), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("arguments", "400024", "262144"), "arguments",
    ),
    "1/0": WireRefusal(
        "tools", tool("calculator", expression="1/0"), "FAILED_PRECONDITION", "TOOL_FAILED",
        ("1/0", "division by zero", "divisor other than 0"),
    ),
    "9**9**9": WireRefusal(
        "tools", tool("calculator", expression="9**9**9"), "FAILED_PRECONDITION", "TOOL_FAILED", ("9**9**9", "large")
    ),
    "a prompt with an escape": WireRefusal(
        "generator", generate("\x1b[31m"), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("messages[0].content", "U+001B", "remove"), "messages[0].content",
    ),
    "a prompt of 1 MB": WireRefusal(
        "generator", generate(refusals.ONE_MB), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("messages[0].content", "1000000", "at most 131072"), "messages[0].content",
    ),
    "a tenant that is no name": WireRefusal(
        "orchestrator", chat(question="x", metadata=(("weft-tenant", "Big One"),)), "INVALID_ARGUMENT",
        "TENANT_INVALID", ("Big One", "allowed are"),
    ),
    "a bucket of 500": WireRefusal(
        "orchestrator", chat(question="x", metadata=(("weft-bucket", "500"),)), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("weft-bucket", "500", "0 to 99"), "weft-bucket",
    ),
    "an unknown session": WireRefusal(
        "orchestrator", chat(question="x", session="sessions/" + "0" * 32), "NOT_FOUND", "SESSION_NOT_FOUND",
        ("no session", "Leave the session empty"),
    ),
    "top_k 10⁶": WireRefusal(
        "retriever", search(query="x", top_k=10**6), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("top_k", "1000000", "1 to 100"), "top_k",
    ),
    "a question that isn't UTF-8": WireRefusal(
        "orchestrator", raw(_CHAT, b"\x1a\x03a\xffb"), "INVALID_ARGUMENT", "INVALID_FIELD",
        ("ChatRequest", "UTF-8"),
    ),
    "bytes that are no message": WireRefusal(
        "orchestrator", raw(_CHAT, b"\xff" * 9), "INVALID_ARGUMENT", "INVALID_FIELD", ("ChatRequest", "contract")
    ),
    "bytes that are no message, in a stream": WireRefusal(
        "retriever", raw(_INGEST, b"\xff" * 9), "INVALID_ARGUMENT", "INVALID_FIELD", ("IngestDocumentsRequest",)
    ),
    "an upload that begins in the middle": WireRefusal(
        "retriever", raw(_INGEST, retriever_pb2.IngestDocumentsRequest(data=b"x").SerializeToString()),
        "INVALID_ARGUMENT", "INVALID_FIELD", ("start", "missing", "first message"), "start",
    ),
    "weights that don't add up": WireRefusal(
        "controlplane", route(v1=50, v2=30), "INVALID_ARGUMENT", "POLICY_INVALID", ("v1=50, v2=30", "80", "100"),
        "policy.weights",
    ),
    "a trace that nobody kept": WireRefusal(
        "collector", trace("0123456789abcdef"), "NOT_FOUND", "TRACE_NOT_FOUND", ("0123456789abcdef", "make room")
    ),
}  # fmt: skip


def details(failed: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, str]:
    """The one ErrorInfo of a failed call, and the field that its BadRequest names."""
    (packed,) = [value for key, value in failed.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (failed.code().value[0], failed.details())
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    for detail in status.details:
        detail.Unpack(bad)
    return info, bad.field_violations[0].field if bad.field_violations else ""

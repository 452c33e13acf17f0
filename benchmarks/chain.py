"""The two baselines of benchmarks/turns.py: the same hops without what Weft adds.

    python -m benchmarks.chain bare   ROLE PORT PEERS RECORDING   bare gRPC, answers played from a recording
    python -m benchmarks.chain domain ROLE PORT PEERS             the services' own domain, without mesh/

PEERS is a JSON object, role -> address. ``bare`` costs what the wire costs: it takes the question, makes
the same calls in the same order with messages of the recorded sizes, and sends the recorded events.
``domain`` calls the very servicers of Weft on a plain ``grpc.aio`` server: no interceptor, no xDS, no
registry, no spans, no metrics, no deadlines that count.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from mesh import deadline
from mesh.load import LoadMeter
from mesh.settings import load
from weft.generator.v1 import generator_pb2, generator_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.tools.v1 import tools_pb2, tools_pb2_grpc

OPTIONS = [("grpc.so_reuseport", 0)]


class Recording:
    """One real turn per question, as serialised messages.

    Keys: ``chat`` (list of ChatResponse), ``search`` (request, response), ``calls`` (list of CallTool
    request and response), ``generate`` (request, list of responses).
    """

    def __init__(self, path: str) -> None:
        self.by_question: dict[str, dict[str, Any]] = pickle.loads(Path(path).read_bytes())


class BareRetriever(retriever_pb2_grpc.RetrieverServiceServicer):
    def __init__(self, recording: Recording) -> None:
        self._answers = {
            retriever_pb2.SearchRequest.FromString(turn["search"][0]).query: retriever_pb2.SearchResponse.FromString(
                turn["search"][1]
            )
            for turn in recording.by_question.values()
        }

    async def Search(self, request: Any, _context: Any) -> Any:
        return self._answers[request.query]


class BareTools(tools_pb2_grpc.ToolsServiceServicer):
    def __init__(self, recording: Recording) -> None:
        self._answers = {
            call[0]: tools_pb2.CallToolResponse.FromString(call[1])
            for turn in recording.by_question.values()
            for call in turn["calls"]
        }

    async def CallTool(self, request: Any, _context: Any) -> Any:
        return self._answers[request.SerializeToString()]


class BareGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    def __init__(self, recording: Recording) -> None:
        self._answers = {
            generator_pb2.GenerateRequest.FromString(turn["generate"][0]).messages[-1].content: [
                generator_pb2.GenerateResponse.FromString(message) for message in turn["generate"][1]
            ]
            for turn in recording.by_question.values()
        }

    async def Generate(self, request: Any, context: Any) -> None:
        for message in self._answers[request.messages[-1].content]:
            await context.write(message)


class BareOrchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    def __init__(self, recording: Recording, channels: dict[str, grpc.aio.Channel]) -> None:
        self._retriever = retriever_pb2_grpc.RetrieverServiceStub(channels["retriever"])
        self._tools = tools_pb2_grpc.ToolsServiceStub(channels["tools"])
        self._generator = generator_pb2_grpc.GeneratorServiceStub(channels["generator"])
        self._turns = {
            question: SimpleNamespace(
                search=retriever_pb2.SearchRequest.FromString(turn["search"][0]),
                calls=[tools_pb2.CallToolRequest.FromString(call[0]) for call in turn["calls"]],
                generate=generator_pb2.GenerateRequest.FromString(turn["generate"][0]),
                chat=[orchestrator_pb2.ChatResponse.FromString(message) for message in turn["chat"]],
            )
            for question, turn in recording.by_question.items()
        }

    async def Chat(self, request: Any, context: Any) -> None:
        turn = self._turns[request.question]
        await asyncio.gather(self._retriever.Search(turn.search), *(self._tools.CallTool(call) for call in turn.calls))
        before = [m for m in turn.chat if not m.HasField("text_delta") and not m.HasField("finished")]
        deltas = [m for m in turn.chat if m.HasField("text_delta")]
        for message in before:
            await context.write(message)
        call = self._generator.Generate(turn.generate)
        while (received := await call.read()) is not grpc.aio.EOF:
            if received.HasField("delta") and deltas:
                await context.write(deltas.pop(0))
        for message in (*deltas, turn.chat[-1]):
            await context.write(message)


async def bare(role: str, port: int, peers: dict[str, str], recording: Recording) -> None:
    server = grpc.aio.server(options=OPTIONS)
    if role == "retriever":
        retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(BareRetriever(recording), server)
    elif role == "tools":
        tools_pb2_grpc.add_ToolsServiceServicer_to_server(BareTools(recording), server)
    elif role == "generator":
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(BareGenerator(recording), server)
    else:
        channels = {name: grpc.aio.insecure_channel(address) for name, address in peers.items()}
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(BareOrchestrator(recording, channels), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


@asynccontextmanager
async def without_mesh(service: str, settings: Any, peers: dict[str, str]) -> AsyncIterator[Any]:
    """What a service's ``build`` asks of its runtime, with nothing behind it."""
    channels = {name: grpc.aio.insecure_channel(address) for name, address in peers.items()}
    yield SimpleNamespace(
        service=service,
        settings=settings,
        instance_id=f"{service}-bench",
        version="v1",
        tracer=NoOpTracer(),
        registry=CollectorRegistry(),
        load=LoadMeter(settings.load),
        stopping=asyncio.Event(),
        channel=channels.__getitem__,
        fail=lambda failure: sys.exit(str(failure)),
    )
    for channel in channels.values():
        await channel.close()


async def domain(role: str, port: int, peers: dict[str, str]) -> None:
    settings = load(importlib.import_module(f"services.{role}.settings").Settings)
    build = importlib.import_module(f"services.{role}.wiring").build
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(without_mesh(role, settings, peers))
        bindings = await stack.enter_async_context(build(settings, runtime))
        server = grpc.aio.server(options=OPTIONS)
        for binding in bindings:
            binding.add(binding.servicer, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        # The domain asks for a deadline; handlers inherit the one that is bound when the server starts.
        with deadline.bind(deadline.Deadline.after(3_600)):
            await server.start()
        print("ready", flush=True)
        await server.wait_for_termination()


def main() -> None:
    kind, role, port, peers, *rest = sys.argv[1:]
    if kind == "bare":
        asyncio.run(bare(role, int(port), json.loads(peers), Recording(rest[0])))
    else:
        asyncio.run(domain(role, int(port), json.loads(peers)))


if __name__ == "__main__":
    main()

"""Records one real turn per question, for the bare baseline of benchmarks/turns.py.

python -m benchmarks.record HOST:PORT QUESTIONS.json OUT.pickle
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from pathlib import Path
from typing import Any

from weft.channel import Dial, open_service
from weft.generator.v1 import generator_pb2, generator_pb2_grpc
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from weft.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from weft.tools.v1 import tools_pb2, tools_pb2_grpc


class Recorder:
    """Asks the mesh, then asks its services what the orchestrator asked them."""

    def __init__(self, mesh: str) -> None:
        dial = Dial(mesh=(mesh,))
        self.chat = orchestrator_pb2_grpc.OrchestratorServiceStub(open_service("orchestrator", dial))
        self._retriever = retriever_pb2_grpc.RetrieverServiceStub(open_service("retriever", dial))
        self._tools = tools_pb2_grpc.ToolsServiceStub(open_service("tools", dial))
        self._generator = generator_pb2_grpc.GeneratorServiceStub(open_service("generator", dial))

    async def turn(self, question: str) -> dict[str, Any]:
        """The messages of one turn, serialised."""
        chat = [m async for m in self.chat.Chat(orchestrator_pb2.ChatRequest(question=question), timeout=30)]
        return {"chat": [m.SerializeToString() for m in chat], **await self.replay(question, chat)}

    async def replay(self, question: str, chat: list[Any]) -> dict[str, Any]:
        """Make a turn's calls again, one after the other, and return their messages."""
        retrieved = next(m.retrieved for m in chat if m.HasField("retrieved"))
        search = retriever_pb2.SearchRequest(query=retrieved.query, top_k=5)
        found = await self._retriever.Search(search, timeout=10)
        calls, messages = [], [generator_pb2.Message(role=generator_pb2.ROLE_USER, content=question)]
        for started in (m.tool_call for m in chat if m.HasField("tool_call")):
            call = tools_pb2.CallToolRequest(name=started.tool, arguments=started.arguments, call_id=started.call_id)
            answer = await self._tools.CallTool(call, timeout=10)
            calls.append((call.SerializeToString(), answer.SerializeToString()))
            messages.insert(
                0,
                generator_pb2.Message(
                    role=generator_pb2.ROLE_TOOL, content=answer.text, name=started.tool, tool_call_id=started.call_id
                ),
            )
        generate = generator_pb2.GenerateRequest(messages=messages, passages=[hit.passage for hit in found.hits])
        answers = [m async for m in self._generator.Generate(generate, timeout=20)]
        return {
            "search": (search.SerializeToString(), found.SerializeToString()),
            "calls": calls,
            "generate": (generate.SerializeToString(), [m.SerializeToString() for m in answers]),
        }


async def record(mesh: str, questions: list[str]) -> dict[str, Any]:
    recorder = Recorder(mesh)
    return {question: await recorder.turn(question) for question in questions}


def main() -> None:
    mesh, questions, out = sys.argv[1:]
    found = asyncio.run(record(mesh, json.loads(Path(questions).read_text(encoding="utf-8"))))
    Path(out).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()

"""OrchestratorService: protobuf in, domain, protobuf out."""

from __future__ import annotations

from contextlib import aclosing

from grpc import aio
from opentelemetry import trace
from opentelemetry.trace import Span

from mesh import context as companions
from mesh.validation import check_page
from services.orchestrator import requests, responses
from services.orchestrator.agent import Agent
from services.orchestrator.ports import Sessions
from services.orchestrator.records import Entry
from services.orchestrator.types import Finished, Started
from weft import names
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Serves one Agent and its sessions."""

    def __init__(self, agent: Agent, sessions: Sessions) -> None:
        self._agent = agent
        self._sessions = sessions

    async def Chat(
        self,
        request: orchestrator_pb2.ChatRequest,
        context: aio.ServicerContext[orchestrator_pb2.ChatRequest, orchestrator_pb2.ChatResponse],
    ) -> None:
        """Stream one turn."""
        wanted = requests.turn_request(request, companions.current().tenant)
        span = trace.get_current_span()
        async with aclosing(self._agent.chat(wanted)) as entries:
            async for entry in entries:
                _record(span, entry)
                await context.write(responses.chat_response(entry))

    async def GetSession(
        self, request: orchestrator_pb2.GetSessionRequest, context: object
    ) -> orchestrator_pb2.GetSessionResponse:
        """Return a session's record."""
        name = requests.session_name("name", request.name)
        session = await self._sessions.get(companions.current().tenant, name)
        return orchestrator_pb2.GetSessionResponse(session=responses.session(session))

    async def ListTurns(
        self, request: orchestrator_pb2.ListTurnsRequest, context: object
    ) -> orchestrator_pb2.ListTurnsResponse:
        """Return one page of a session's turns."""
        name = requests.session_name("session", request.session)
        size, token = check_page(request.page_size, request.page_token)
        after = requests.turn_token(token)
        turns = await self._sessions.turns(companions.current().tenant, name, after_turn=after, limit=size)
        return orchestrator_pb2.ListTurnsResponse(
            turns=map(responses.turn, turns),
            next_page_token=str(turns[-1].number) if len(turns) == size else "",
        )

    async def DeleteSession(
        self, request: orchestrator_pb2.DeleteSessionRequest, context: object
    ) -> orchestrator_pb2.DeleteSessionResponse:
        """Forget a session."""
        name = requests.session_name("name", request.name)
        await self._sessions.delete(companions.current().tenant, name)
        return orchestrator_pb2.DeleteSessionResponse()


def _record(span: Span, entry: Entry) -> None:
    """Put on the call's span what tells the turn; never its words."""
    match entry.event:
        case Started() as started:
            span.set_attribute(names.SESSION, started.session)
            span.set_attribute(names.TURN, started.turn)
            span.set_attribute(names.REPLAYED, started.replayed)
        case Finished() as finished:
            if finished.degraded:
                span.set_attribute(names.DEGRADED, [item.stage for item in finished.degraded])

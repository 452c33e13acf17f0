"""Puts an orchestrator together: session store, peers, planner, agent, servicer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from mesh import plugins
from mesh.app import Runtime
from mesh.plugins import Url
from mesh.server import Binding
from services.orchestrator.agent import Agent
from services.orchestrator.catalogue import Catalogue
from services.orchestrator.peers.generator import GeneratorPeer
from services.orchestrator.peers.retriever import RetrieverPeer
from services.orchestrator.peers.tools import ToolsPeer
from services.orchestrator.ports import Sessions
from services.orchestrator.records import Limits
from services.orchestrator.servicer import OrchestratorServicer
from services.orchestrator.settings import PLANNERS, SESSIONS, Settings
from services.orchestrator.turn import Options, Peers
from weft.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc


@asynccontextmanager
async def build(settings: Settings, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
    """Open the store and the channels, run the agent, close all in reverse."""
    options = settings.orchestrator
    limits = Limits(
        ttl_s=options.session_ttl_s,
        lease_s=options.lease_s,
        max_turns=options.session_max_turns,
        max_bytes=options.session_max_bytes,
        history_turns=options.history_turns,
    )
    planner_url, sessions_url = Url.parse(options.planner), settings.sessions_url
    async with AsyncExitStack() as stack:
        sessions: Sessions = await plugins.load(SESSIONS, sessions_url).open(sessions_url, limits)
        stack.push_async_callback(sessions.close)
        tools = ToolsPeer(runtime.channel("tools"))
        peers = Peers(
            retriever=RetrieverPeer(runtime.channel("retriever")),
            generator=GeneratorPeer(runtime.channel("generator")),
            tools=tools,
            catalogue=Catalogue(tools),
            planner=plugins.load(PLANNERS, planner_url).open(planner_url),
        )
        agent = await stack.enter_async_context(
            Agent(
                sessions,
                peers,
                Options(
                    overall_s=settings.default_deadline_s,
                    stage_s=options.stage_timeout_s,
                    fan_out=options.tool_fan_out,
                ),
                owner=runtime.instance_id,
                versions={runtime.service: runtime.version},
                tracer=runtime.tracer,
                mesh_up=runtime.mesh_up,
            )
        )
        yield [
            Binding(
                orchestrator_pb2.DESCRIPTOR.services_by_name["OrchestratorService"],
                orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server,
                OrchestratorServicer(agent, sessions),
            )
        ]

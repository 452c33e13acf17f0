"""Scripted peers for the orchestrator's domain, and an agent over them with a real session store.

A script is a list of steps: an event is yielded, an exception raised, a number slept for, an
``asyncio.Event`` waited for. A generator's scripts are used up one per call; the last one stays.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry import trace

from mesh import deadline as deadlines
from mesh.deadline import Deadline
from services.orchestrator.agent import Agent
from services.orchestrator.catalogue import Catalogue
from services.orchestrator.ports import Sessions
from services.orchestrator.records import Entry, Limits, Opening, Taken
from services.orchestrator.sessions.sqlite import SqliteSessions
from services.orchestrator.turn import Options, Peers
from services.orchestrator.types import (
    DocumentScope,
    Exchange,
    Finished,
    Found,
    Generation,
    GenerationDelta,
    GenerationFinished,
    GenerationStarted,
    PlannedCall,
    Prompt,
    SearchQuery,
    TextDelta,
    ToolAnswer,
    ToolSpec,
    TurnRequest,
)
from weft.errors import Reason, WeftError, error
from weft.values import Epoch, FinishReason, Passage, Usage

PASSAGE = Passage("collections/default/documents/d/chunks/0", "Threads are woven.", "Weaving", "Basics", source="w.md")
FOUND = Found((PASSAGE,), Epoch("ab" * 16, 3))
STARTED = GenerationStarted("m", "scripted", can_repeat=True)
END = GenerationFinished(FinishReason.STOP, Usage(5, 2))
Step = Generation | BaseException | float | asyncio.Event


def says(*texts: str, end: GenerationFinished = END) -> list[Step]:
    """A script that answers in these pieces."""
    return [STARTED, *map(GenerationDelta, texts), end]


class ScriptedRetriever:
    """Finds what it was told to, or fails so."""

    def __init__(self, outcome: Found | BaseException = FOUND, delay_s: float = 0.0) -> None:
        self.outcome, self.delay_s = outcome, delay_s
        self.queries: list[SearchQuery] = []

    async def search(self, query: SearchQuery) -> Found:
        self.queries.append(query)
        await asyncio.sleep(self.delay_s)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class ScriptedGenerator:
    """Writes by its scripts; counts what is being written."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self.scripts = list(scripts) or [says("It is ", "woven.")]
        self.prompts: list[Prompt] = []
        self.active = 0

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        self.prompts.append(prompt)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.active += 1
        try:
            for step in script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.active -= 1


@dataclass
class ScriptedTools:
    """Tools that answer as told, and say how many ran at once."""

    answers: dict[str, ToolAnswer | BaseException] = field(default_factory=dict)
    listing: BaseException | None = None
    delay_s: float = 0.0
    calls: list[tuple[str, Mapping[str, Any], str]] = field(default_factory=list)
    scopes: list[DocumentScope] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    listed: int = 0
    read_only: bool = True

    async def specs(self) -> tuple[ToolSpec, ...]:
        self.listed += 1
        if self.listing is not None:
            raise self.listing
        return tuple(ToolSpec(name, read_only=self.read_only) for name in self.answers)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str,
        today: datetime.date | None,
        scope: DocumentScope,
    ) -> ToolAnswer:
        self.calls.append((tool, arguments, call_id))
        self.scopes.append(scope)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.at_once -= 1
        answer = self.answers[tool]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@dataclass
class ScriptedPlanner:
    """Plans what it was told to."""

    calls: list[PlannedCall] = field(default_factory=list)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def plan(
        self, question: str, tools: Sequence[ToolSpec], today: datetime.date, history: Sequence[Exchange]
    ) -> list[PlannedCall]:
        self.asked.append((question, [tool.name for tool in tools]))
        if self.hold is not None:
            await self.hold.wait()
        return list(self.calls)


@dataclass
class Replica:
    """One orchestrator's domain over scripted peers."""

    agent: Agent
    sessions: Sessions
    peers: Peers
    retriever: ScriptedRetriever
    generator: ScriptedGenerator
    tools: ScriptedTools
    planner: ScriptedPlanner

    async def ask(self, question: str = "What is it?", *, timeout_s: float = 10.0, **fields: Any) -> list[Entry]:
        """All events of one turn."""
        return [entry async for entry in self.stream(question, timeout_s=timeout_s, **fields)]

    async def stream(
        self, question: str = "What is it?", *, timeout_s: float = 10.0, **fields: Any
    ) -> AsyncGenerator[Entry, None]:
        """Events of one turn as they come."""
        request = TurnRequest(**{"tenant": "acme", "session": "s", "request_id": "", "question": question, **fields})
        with deadlines.bind(Deadline.after(timeout_s)):
            stream = self.agent.chat(request)
            # chat reads the deadline at its first step
            first = await anext(stream, None)
        async with aclosing(stream):
            if first is not None:
                yield first
                async for entry in stream:
                    yield entry


@asynccontextmanager
async def replica(
    place: Path,
    *,
    retriever: ScriptedRetriever | None = None,
    generator: ScriptedGenerator | None = None,
    tools: ScriptedTools | None = None,
    plan: Sequence[PlannedCall] = (),
    options: Options | None = None,
    limits: Limits | None = None,
    wrap: Callable[[SqliteSessions], Any] = lambda sessions: sessions,
    owner: str = "orchestrator-1",
) -> AsyncIterator[Replica]:
    """A replica over the session store in ``place``."""
    store = SqliteSessions(place / "sessions.db", limits or Limits())
    await store.check()
    sessions: Sessions = wrap(store)
    retriever, generator = retriever or ScriptedRetriever(), generator or ScriptedGenerator()
    tools, planner = tools or ScriptedTools(), ScriptedPlanner(list(plan))
    peers = Peers(retriever, generator, tools, Catalogue(tools), planner)
    tracer = trace.NoOpTracer()
    try:
        async with Agent(
            sessions,
            peers,
            options or Options(),
            owner=owner,
            versions={"orchestrator": "v1"},
            tracer=tracer,
            mesh_up=_here,
        ) as agent:
            yield Replica(agent, sessions, peers, retriever, generator, tools, planner)
    finally:
        await store.close()


async def _here() -> None:
    """The peers are in this process."""


def text_of(entries: Sequence[Entry]) -> str:
    """The pieces of text, joined."""
    return "".join(entry.event.text for entry in entries if isinstance(entry.event, TextDelta))


def kinds(entries: Sequence[Entry]) -> list[str]:
    """Names of the events."""
    return [type(entry.event).__name__ for entry in entries]


def end_of(entries: Sequence[Entry]) -> Finished:
    """The last event, which must be the end."""
    finished = entries[-1].event
    assert isinstance(finished, Finished), finished
    return finished


async def eventually(true: Callable[[], bool | Awaitable[bool]], within_s: float = 8.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(within_s):
        while True:
            outcome = true()
            if outcome if isinstance(outcome, bool) else await outcome:
                return
            await asyncio.sleep(0.005)


QUICK = Limits(lease_s=0.25)
SUM = ToolAnswer({"value": 42}, "6 * 7 = 42", 0.001)
PLAN = [PlannedCall("calculator", {"expression": str(number)}) for number in range(3)]


class Mortal:
    """A session store as one replica sees it, until that replica dies at its ``after``-th write: with the
    write done (``done``) or not. From then on nothing reaches the store, the lease's return included."""

    def __init__(self, sessions: Sessions, after: int, done: bool) -> None:
        self._sessions, self._left, self._done = sessions, after, done
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sessions, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise error(Reason.DEPENDENCY_UNAVAILABLE, "dead")
            if name in ("append", "finish"):
                self._left -= 1
                if self._left == 0:
                    self.dead = True
                    if self._done:
                        await method(*args, **kwargs)
                    raise error(Reason.DEPENDENCY_UNAVAILABLE, "killed")
            return await method(*args, **kwargs)

        return call


async def lease_of(r: Replica, request_id: str, session: str = "s", question: str = "What is it?") -> Taken:
    outcome = await r.sessions.begin(Opening("acme", session, True, request_id, question, "somebody", "0" * 32))
    assert isinstance(outcome, Taken), outcome
    return outcome


class Reader:
    """Reads a turn in a task of its own; what it has so far can be seen."""

    def __init__(self, r: Replica, **fields: Any) -> None:
        self.had: list[Entry] = []
        self.task = asyncio.create_task(self._read(r, fields))

    async def _read(self, r: Replica, fields: dict[str, Any]) -> list[Entry]:
        async with aclosing(r.stream(**fields)) as stream:
            async for entry in stream:
                self.had.append(entry)
        return self.had

    async def has_text(self) -> None:
        await eventually(lambda: text_of(self.had) != "")


async def until_it_breaks(r: Replica, **fields: Any) -> list[Entry]:
    """What a caller has when its replica dies."""
    had: list[Entry] = []
    try:
        async for entry in r.stream(**fields):
            had.append(entry)
    except WeftError as err:
        assert err.message in ("dead", "killed")
    return had

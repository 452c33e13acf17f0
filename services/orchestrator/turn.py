"""One turn, from the question to the stored answer, by the replica that holds the session's lease.

    complete the question ─┬─ retrieval ────────────────────────┬─ generation, streamed ─ finished
                           └─ planning ── tools (≤ 10 at once) ─┘

``stages.py`` gives each stage its budget, ``ladder.py`` says which failures are survived.

A turn can be taken up again by any replica at any point, because of the order in which things are stored
(``outbox.py``: nothing is shown that is not stored). The plan is stored before a tool runs; the passages
and each tool's result before they are shown; what was settled without them (``Prepared``) with the first
piece of text or before; each piece of text before it is shown. The next owner reads the log
(``recovery.py``) and does only what is missing; ``writing.py`` tells how the text goes on.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from opentelemetry.trace import Span

from mesh import deadline as deadlines
from services.orchestrator import ladder
from services.orchestrator.catalogue import Catalogue
from services.orchestrator.followup import completed
from services.orchestrator.outbox import Outbox
from services.orchestrator.ports import Generator, Planner, Retriever, Tools
from services.orchestrator.records import Lease, Prepared
from services.orchestrator.recovery import Recovered
from services.orchestrator.stages import Stages
from services.orchestrator.types import (
    DocumentScope,
    Exchange,
    Failure,
    Finished,
    GenerationFinished,
    PlannedCall,
    Prompt,
    Retrieved,
    SearchQuery,
    TextDelta,
    ToolCallStarted,
    ToolResult,
    ToolSpec,
    TurnRequest,
)
from services.orchestrator.writing import Writing
from weft import names
from weft.errors import DeadlineExceeded, Reason, Unavailable, WeftError, error
from weft.values import Degradation, LedgerEntry, Passage


@dataclass(frozen=True, slots=True)
class Peers:
    """Who answers what."""

    retriever: Retriever
    generator: Generator
    tools: Tools
    catalogue: Catalogue
    planner: Planner


@dataclass(frozen=True, slots=True)
class Options:
    """How a turn is run."""

    overall_s: float = 30.0
    """Time for a turn whose caller names no deadline, in seconds."""
    stage_s: float = 25.0
    """Time for one stage at the most, in seconds."""
    fan_out: int = 10
    """Tool calls under way at once."""
    delta_interval_s: float = 0.025
    """Least time between two pieces of text, in seconds; the first comes at once."""


class TurnRun:
    """The work on one turn under one lease."""

    def __init__(
        self,
        peers: Peers,
        options: Options,
        request: TurnRequest,
        history: tuple[Exchange, ...],
        recovered: Recovered,
        lease: Lease,
        outbox: Outbox,
        stages: Stages,
    ) -> None:
        self._peers = peers
        self._options = options
        self._request = request
        self._history = history
        self._recovered = recovered
        self._outbox = outbox
        self._stages = stages
        self._writing = Writing(peers.generator, outbox, recovered)
        self._query = recovered.retrieved.query if recovered.retrieved else completed(request.question, history)
        # A tool takes the same id for the same call; "1" alone would be every turn's first.
        self._call_prefix = hashlib.sha256(f"{lease.tenant}\n{lease.session}\n{lease.turn}".encode()).hexdigest()[:24]
        self._degraded: list[Degradation] = []
        self._passages: tuple[Passage, ...] = ()
        self._results: dict[str, ToolResult] = dict(recovered.results)

    async def run(self) -> None:
        """Do what is missing of the turn, and finish it."""
        recovered = self._recovered
        if recovered.retrieved is not None:
            self._passages = recovered.retrieved.passages
        if recovered.prepared is not None:
            self._degraded += recovered.prepared.degraded
        else:
            if recovered.retrieved is not None:
                self._degraded += recovered.retrieved.degraded
            async with asyncio.TaskGroup() as tasks:
                if recovered.retrieved is None:
                    tasks.create_task(self._retrieve())
                    await asyncio.sleep(0)  # the search leaves before the planner takes the processor
                await self._use_tools()
            self._outbox.gather(Prepared(tuple(self._degraded)))
        finished = await self._answer()
        await self._outbox.finish(replace(finished, ledger=self._stages.spent(self._writes())), self._query)

    # -- retrieval ------------------------------------------------------------------------------------

    async def _retrieve(self) -> None:
        request = self._request
        query = SearchQuery(
            query=self._query,
            collection=request.collection,
            top_k=request.top_k,
            filter=request.filter,
            min_epoch=request.min_epoch,
            allow_cached=request.allow_cached,
        )
        try:
            async with self._stages.timed("retrieval") as span:
                found = await self._peers.retriever.search(query)
                span.set_attribute(names.HITS, len(found.passages))
        except WeftError as err:
            notice = ladder.without_retrieval(err, request.collection)
            if notice is None:
                raise
            self._degraded.append(notice)
            return
        self._passages = found.passages
        self._degraded += found.degraded
        await self._outbox.put(Retrieved(found.passages, found.epoch, self._query, found.degraded))

    # -- tools ----------------------------------------------------------------------------------------

    async def _use_tools(self) -> None:
        calls = self._recovered.calls
        if not calls:
            calls = [
                ToolCallStarted(str(number), call.tool, call.arguments)
                for number, call in enumerate(await self._plan(), start=1)
            ]
            for call in calls:
                await self._outbox.put(call)
        missing = [call for call in calls if call.call_id not in self._results]
        if self._recovered.calls and missing:
            missing = await self._repeatable(missing)
        if not missing:
            return
        await self._outbox.leave()
        with self._stages.open("tools") as (_, budget_s):
            at_once = asyncio.Semaphore(self._options.fan_out)
            async with asyncio.TaskGroup() as tasks:
                for call in missing:
                    tasks.create_task(self._call(call, at_once, budget_s))

    async def _repeatable(self, calls: Sequence[ToolCallStarted]) -> list[ToolCallStarted]:
        """Of a former owner's calls, those that change nothing. The others may have been made: they end as errors."""
        try:
            specs = {spec.name: spec for spec in await self._peers.catalogue.specs()}
        except WeftError as err:
            self._degraded.append(ladder.without_tools(err))
            specs = {}
        repeatable = []
        for call in calls:
            spec = specs.get(call.tool)
            if spec is not None and spec.read_only:
                repeatable.append(call)
                continue
            failure = error(
                Reason.TOOL_OUTCOME_UNKNOWN,
                f"{call.tool} may have run when this turn was interrupted, and is not run again; look whether it did",
                tool=call.tool,
            )
            self._results[call.call_id] = ToolResult(call.call_id, call.tool, None, "", Failure.of(failure), 0.0)
            self._outbox.gather(self._results[call.call_id])
        await self._outbox.leave()
        return repeatable

    async def _plan(self) -> list[PlannedCall]:
        request = self._request
        if request.tools is not None and not request.tools:
            return []
        try:
            async with self._stages.timed("planning"):
                specs = await self._peers.catalogue.specs()
                usable = specs if request.tools is None else [spec for spec in specs if spec.name in request.tools]
                plan = await self._peers.planner.plan(request.question, usable, self._today(), self._history)
        except WeftError as err:
            self._degraded.append(ladder.without_tools(err))
            return []
        if request.tools is not None:
            _check_known(request.tools, specs)
        return plan

    async def _call(self, call: ToolCallStarted, at_once: asyncio.Semaphore, budget_s: float) -> None:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(budget_s), at_once:
                answer = await self._peers.tools.call(
                    call.tool,
                    call.arguments,
                    call_id=f"{self._call_prefix}-{call.call_id}",
                    today=self._request.today,
                    scope=DocumentScope(self._request.collection, self._request.filter, self._request.min_epoch),
                )
            result = ToolResult(call.call_id, call.tool, answer.result, answer.text, None, answer.duration_s)
        except (WeftError, TimeoutError) as exc:
            err = exc if isinstance(exc, WeftError) else deadlines.exceeded(f"calling {call.tool}", budget_s)
            if isinstance(err, Unavailable) and err.reason not in {item.reason for item in self._degraded}:
                self._degraded.append(ladder.without_tools(err))
            result = ToolResult(
                call.call_id, call.tool, None, "", Failure.of(err), duration_s=time.monotonic() - started_s
            )
        self._results[call.call_id] = result
        self._outbox.gather(result)
        await self._outbox.leave()  # at once: until it is stored, the next owner would run the tool again

    def _today(self) -> datetime.date:
        return self._request.today or datetime.datetime.now(datetime.UTC).date()

    # -- generation -----------------------------------------------------------------------------------

    async def _answer(self) -> Finished:
        """The end of the turn, with all text in the outbox."""
        prompt = Prompt(
            question=self._request.question,
            query=self._query,
            history=self._history,
            tool_results=tuple(self._results[call_id] for call_id in sorted(self._results, key=int)),
            passages=self._passages,
            model=self._request.model,
            sampling=self._request.sampling,
            allow_cached=self._request.allow_cached,
        )
        try:
            with self._stages.open("generation") as (span, budget_s):
                end = await self._writing.write(prompt, budget_s)
                _describe(span, end)
        except WeftError as err:
            return await self._without_model(err)
        return Finished(
            text=self._writing.text,
            reason=end.reason,
            citations=end.citations,
            usage=end.usage,
            degraded=(*self._degraded, *end.degraded),
            cached=end.cached,
        )

    async def _without_model(self, err: WeftError) -> Finished:
        if not self._writing.text:
            if not ladder.is_environmental(err):
                raise err
            finished = ladder.passages_only(err, self._passages, list(self._results.values()), self._degraded)
            # With the end in one write: a part of it alone could not be gone on with.
            self._outbox.gather(TextDelta(finished.text))
            return finished
        if isinstance(err, DeadlineExceeded):
            return ladder.partial_answer(err, self._writing.text, self._degraded)
        err.metadata |= {"partial": "true", "emitted_chars": str(len(self._writing.text))}
        raise err

    def _writes(self) -> LedgerEntry | None:
        """All writes of the log together but the last one, which carries the ledger itself."""
        if self._outbox.first_write_s is None:
            return None
        start_ms = self._stages.elapsed_ms() - (time.monotonic() - self._outbox.first_write_s) * 1_000
        return LedgerEntry("append", max(0.0, start_ms), self._outbox.writing_s * 1_000, 0.0, "OK")


def _check_known(wanted: frozenset[str], specs: Sequence[ToolSpec]) -> None:
    known = {spec.name for spec in specs}
    for name in sorted(wanted - known):
        raise error(
            Reason.TOOL_NOT_FOUND,
            f"tools: there is no tool {name!r}; there are: {', '.join(sorted(known)) or 'none'}",
            field="tools",
            tool=name,
        )


def _describe(span: Span, end: GenerationFinished) -> None:
    span.set_attribute(names.GENAI_FINISH_REASONS, [end.reason.value])
    span.set_attribute(names.GENAI_INPUT_TOKENS, end.usage.input_tokens)
    span.set_attribute(names.GENAI_OUTPUT_TOKENS, end.usage.output_tokens)

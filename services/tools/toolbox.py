"""The toolbox: finds a tool, checks what goes in and comes out, and bounds its time and its calls.

    lookup -> arguments fit the schema -> a free slot -> run, within the tool's timeout -> result fits

Each tool has ``max_concurrency`` slots. When all are taken, calls wait in order of arrival, at most
``WAITING_PER_SLOT`` for each slot and at most the tool's timeout; beyond that the answer is OVERLOADED
with a time to come back. Cancelling a call cancels the tool and frees its slot.

A call that the mesh sends again, since the replica before us went away, is run again only where the tool is read-only.

Errors: TOOL_NOT_FOUND, TOOL_ARGUMENTS_INVALID, OVERLOADED, TOOL_TIMEOUT, TOOL_FAILED, TOOL_OUTCOME_UNKNOWN; a tool's
own ``WeftError`` (a search whose collection is missing) passes as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from services.tools.ports import ToolFunction
from services.tools.schemas import Problem, Schema, quote
from services.tools.types import Answer, BadArgument, Call, Context, Output, ToolFailed, ToolSpec
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
WAITING_PER_SLOT: Final = 8
_RETRY_AFTER_S: Final = 0.5
_MAX_NAMES_LISTED: Final = 50


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool ready to run."""

    spec: ToolSpec
    run: ToolFunction


class _Bench:
    """A tool with its compiled schemas and its slots."""

    def __init__(self, tool: Tool) -> None:
        self.spec, self.run = tool.spec, tool.run
        self.input, self.output = Schema(tool.spec.input_schema), Schema(tool.spec.output_schema)
        self._slots = asyncio.Semaphore(tool.spec.max_concurrency)
        self._waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one slot; wait for it within bounds."""
        limit = self.spec.max_concurrency * WAITING_PER_SLOT
        if self._slots.locked() and self._waiting >= limit:
            raise self._overloaded(f"{limit} calls wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise self._overloaded(f"no slot came free within {self.spec.timeout_s:g} s") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _overloaded(self, why: str) -> WeftError:
        return error(
            Reason.OVERLOADED,
            f"tool {self.spec.name} runs {self.spec.max_concurrency} calls at once here and {why}; try again",
            retry_after_s=_RETRY_AFTER_S,
            tool=self.spec.name,
            limit=self.spec.max_concurrency,
        )


class Toolbox:
    """Runs tools by name.

    Raises:
        ValueError: a tool's schema is wrong, or two tools share a name.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._benches = {tool.spec.name: _Bench(tool) for tool in sorted(tools, key=lambda tool: tool.spec.name)}
        if len(self._benches) != len(tools):
            raise ValueError(f"two tools share a name: {sorted(tool.spec.name for tool in tools)}")

    def specs(self) -> list[ToolSpec]:
        """Every tool, by name."""
        return [bench.spec for bench in self._benches.values()]

    async def call(self, call: Call) -> Answer:
        """Run one call to its end.

        Raises:
            WeftError: see the module.
        """
        bench = self._find(call.name)
        problem = bench.input.problem(call.arguments)
        if problem is not None:
            raise _bad_arguments(call.name, problem)
        if call.tried and not bench.spec.read_only:
            raise _unknown_outcome(call.name)
        async with bench.slot():
            started_s = time.perf_counter()
            output = await self._run(bench, call)
            duration_s = time.perf_counter() - started_s
        wrong = bench.output.problem(output.result)
        if wrong is not None:
            _log.error("tool %s broke its own output schema: %s", call.name, wrong)
            raise _failed(call.name, "its result does not fit its own output schema; this is a defect of the tool")
        return Answer(output, duration_s)

    def _find(self, name: str) -> _Bench:
        bench = self._benches.get(name)
        if bench is None:
            there = ", ".join(list(self._benches)[:_MAX_NAMES_LISTED]) or "none"
            raise error(
                Reason.TOOL_NOT_FOUND,
                f"there is no tool {quote(name)}; there are: {there}",
                tool=name[:64],
                available=there,
            )
        return bench

    async def _run(self, bench: _Bench, call: Call) -> Output:
        name, timeout_s = call.name, bench.spec.timeout_s
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                return await bench.run(dict(call.arguments), Context(call.today, call.scope))
        except BadArgument as exc:
            problem = Problem(f"arguments.{exc.path}", quote(exc.value), exc.allowed)
            raise _bad_arguments(name, problem) from exc
        except ToolFailed as exc:
            raise _failed(name, str(exc)) from exc
        except WeftError:
            raise
        except TimeoutError as exc:
            if not scope.expired():
                raise _failed(name, "something it waits for took too long") from exc
            raise error(
                Reason.TOOL_TIMEOUT,
                f"tool {name} did not finish within its {timeout_s:g} s; ask for less, or try later",
                tool=name,
                timeout_s=f"{timeout_s:g}",
            ) from exc
        except Exception as exc:
            _log.exception("tool %s failed unexpectedly", name)
            raise _failed(name, f"unexpected {type(exc).__name__}; the log of this instance tells more") from exc


def _bad_arguments(tool: str, problem: Problem) -> WeftError:
    return error(
        Reason.TOOL_ARGUMENTS_INVALID,
        f"tool {tool}: {problem}",
        field=problem.path,
        tool=tool,
        path=problem.path,
        value=problem.value,
        allowed=problem.allowed,
    )


def _unknown_outcome(tool: str) -> WeftError:
    return error(
        Reason.TOOL_OUTCOME_UNKNOWN,
        f"{tool} may have run when a replica of the tools went away, and is not run again; look whether it did",
        tool=tool,
    )


def _failed(tool: str, why: str) -> WeftError:
    return error(Reason.TOOL_FAILED, f"tool {tool} has no result: {why}", tool=tool, why=why)

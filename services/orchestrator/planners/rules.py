"""``rules:`` plans by the patterns that tools declare, without a model.

    question -> every pattern's matches -> arguments extracted -> overlaps resolved -> calls

A match counts when all its arguments come out. Where two matches share text the longer one wins, then
the one whose pattern stands first; what is left goes in the order of the question, nothing twice, ten
at most. The same question, tools and day give the same plan: a turn that is resumed plans no other.

Only the first 1,000 characters are looked at, white space collapsed. Patterns come from the tools
service over the wire: one that does not compile or is absurdly large is left out and logged, and each
tool's patterns are compiled once, until the tool declares others.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from mesh.plugins import Url
from services.orchestrator.planners._days import day
from services.orchestrator.planners._expressions import expression
from services.orchestrator.planners._numbers import number
from services.orchestrator.types import ArgumentExtractor, Exchange, ExtractorKind, PlannedCall, ToolPattern, ToolSpec

_log = logging.getLogger(__name__)
MAX_CALLS: Final = 10
MAX_QUESTION_CHARS: Final = 1_000
MAX_KEPT_PLANS: Final = 1_024
_MAX_PATTERNS: Final = 100  # per tool
_MAX_REGEX_CHARS: Final = 16_000
_MAX_MATCHES: Final = 50  # per pattern, fruitless ones included
_SPACE: Final = re.compile(r"\s+")


def open(url: Url) -> RulePlanner:
    """The planner; ``rules:`` takes no options."""
    return RulePlanner()


@dataclass(frozen=True, slots=True)
class _Rules:
    """A tool's patterns, compiled, and what a question must hold for them to be searched."""

    source: ToolSpec
    hint: re.Pattern[str] | None
    rules: tuple[_Rule, ...]


@dataclass(frozen=True, slots=True)
class _Rule:
    """A compiled pattern of a tool."""

    tool: str
    regex: re.Pattern[str]
    arguments: tuple[ArgumentExtractor, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """A request found in the question at ``[start, end)``."""

    start: int
    end: int
    call: PlannedCall


_Key: TypeAlias = tuple[str, datetime.date, tuple[str, ...]]


class RulePlanner:
    """Interprets patterns. Keeps what it has compiled, and the plans of the last ``MAX_KEPT_PLANS`` questions."""

    def __init__(self) -> None:
        self._compiled: dict[str, _Rules] = {}
        self._plans: OrderedDict[_Key, list[PlannedCall]] = OrderedDict()

    async def plan(
        self, question: str, tools: Sequence[ToolSpec], today: datetime.date, history: Sequence[Exchange]
    ) -> list[PlannedCall]:
        """See ``ports.Planner``. The history plays no part: patterns need the whole request in the question."""
        text = _SPACE.sub(" ", question[:MAX_QUESTION_CHARS]).strip()
        rules = [await self._rules(tool) for tool in tools]  # drops all plans where one has changed
        key = (text, today, tuple(tool.name for tool in tools))
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return list(plan)
        plan = _plan(rules, text, today)
        if all(self._compiled[known.source.name] is known for known in rules):  # not one that changed meanwhile
            self._plans[key] = plan
            if len(self._plans) > MAX_KEPT_PLANS:
                self._plans.popitem(last=False)
        return list(plan)

    async def _rules(self, tool: ToolSpec) -> _Rules:
        known = self._compiled.get(tool.name)
        if known is not None and known.source is tool:
            return known
        if known is not None and (known.source.patterns, known.source.hint) == (tool.patterns, tool.hint):
            # The list was fetched again: remember this one, or every question compares all patterns anew.
            known = self._compiled[tool.name] = replace(known, source=tool)
        else:
            rules: list[_Rule] = []
            for pattern in tool.patterns[:_MAX_PATTERNS]:
                rule = _compile(tool.name, pattern)
                if rule is not None:
                    rules.append(rule)
                await asyncio.sleep(0)  # a large pattern takes milliseconds to compile: let others run
            hint = _compile(tool.name, ToolPattern(tool.hint)) if tool.hint else None
            known = self._compiled[tool.name] = _Rules(tool, hint.regex if hint else None, tuple(rules))
            self._plans.clear()
        return known


def _plan(rules: Sequence[_Rules], text: str, today: datetime.date) -> list[PlannedCall]:
    found: list[_Match] = []
    for tool in rules:
        if tool.hint is None or tool.hint.search(text):
            for rule in tool.rules:
                found += _matches(rule, text, today)
    calls: list[PlannedCall] = []
    for match in sorted(_apart(found), key=lambda match: match.start):
        if match.call not in calls:
            calls.append(match.call)
    return calls[:MAX_CALLS]


def _compile(tool: str, pattern: ToolPattern) -> _Rule | None:
    try:
        if len(pattern.regex) > _MAX_REGEX_CHARS:
            raise ValueError(f"it has {len(pattern.regex)} characters, at most {_MAX_REGEX_CHARS} are taken")
        regex = re.compile(pattern.regex, re.IGNORECASE)
        missing = {a.group for a in pattern.arguments if a.group} - regex.groupindex.keys()
        if missing:
            raise ValueError(f"it has no group {', '.join(sorted(missing))}")
    except (re.error, ValueError, OverflowError, RecursionError) as exc:
        _log.warning("a pattern of tool %s is left out: %s", tool, exc)
        return None
    return _Rule(tool, regex, pattern.arguments)


def _matches(rule: _Rule, text: str, today: datetime.date) -> list[_Match]:
    found: list[_Match] = []
    position = 0
    for _ in range(_MAX_MATCHES):
        match = rule.regex.search(text, position)
        if match is None:
            break
        arguments = _extract(rule.arguments, match, today)
        if arguments is not None:
            found.append(_Match(match.start(), match.end(), PlannedCall(rule.tool, arguments)))
        # A match that gave nothing may hide one that begins within it.
        position = match.end() if arguments is not None and match.end() > position else match.start() + 1
    return found


def _extract(
    extractors: tuple[ArgumentExtractor, ...], match: re.Match[str], today: datetime.date
) -> dict[str, Any] | None:
    """The arguments of a call; None when one of them does not come out."""
    arguments: dict[str, Any] = {}
    for extractor in extractors:
        if extractor.kind is ExtractorKind.CONSTANT:
            arguments[extractor.argument] = extractor.constant
            continue
        group = match.group(extractor.group)
        if group is None and extractor.optional:
            continue
        value = None if group is None else _value(extractor.kind, group, today)
        if value is None:
            return None
        arguments[extractor.argument] = value
    return arguments


def _value(kind: ExtractorKind, text: str, today: datetime.date) -> Any:
    match kind:
        case ExtractorKind.NUMBER:
            return number(text)
        case ExtractorKind.EXPRESSION:
            return expression(text)
        case ExtractorKind.DATE:
            return day(text, today)
        case ExtractorKind.PAST_DATE:
            return day(text, today, past=True)
        case _:
            return text.strip() or None


def _apart(found: list[_Match]) -> list[_Match]:
    """Matches that share no text, longer ones first come."""
    chosen: list[_Match] = []
    for match in sorted(found, key=lambda match: match.start - match.end):  # stable: equal ones in order
        if all(match.end <= other.start or match.start >= other.end for other in chosen):
            chosen.append(match)
    return chosen

"""From the wire's messages to the SDK's dataclasses, one function a type, no decisions."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format, struct_pb2

from weft import answers
from weft.common.v1 import accounting_pb2, epoch_pb2, passage_pb2
from weft.errors import from_proto
from weft.generator.v1 import generator_pb2
from weft.orchestrator.v1 import orchestrator_pb2
from weft.retriever.v1 import retriever_pb2


def epoch(message: epoch_pb2.Epoch) -> answers.Epoch | None:
    return answers.Epoch(message.log_id, message.sequence) if message.log_id else None


def epoch_to_wire(value: answers.Epoch) -> epoch_pb2.Epoch:
    return epoch_pb2.Epoch(log_id=value.log_id, sequence=value.sequence)


def struct(message: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a dict. It knows doubles only, so whole numbers come back as int."""
    value: dict[str, Any] = _whole(json_format.MessageToDict(message))
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def degraded(messages: Any) -> tuple[answers.Degradation, ...]:
    return tuple(answers.Degradation(m.stage, m.reason, m.fallback, m.detail) for m in messages)


def ledger(message: accounting_pb2.Ledger) -> answers.Ledger:
    entries = tuple(
        answers.LedgerEntry(e.stage, e.start_ms, e.duration_ms, e.budget_ms, e.status) for e in message.entries
    )
    return answers.Ledger(message.deadline_ms, message.elapsed_ms, entries)


def usage(message: accounting_pb2.Usage) -> answers.Usage:
    return answers.Usage(message.input_tokens, message.output_tokens, message.cached_tokens, message.cost_micros)


def passage(message: passage_pb2.Passage) -> answers.Passage:
    return answers.Passage(
        name=message.name,
        text=message.text,
        title=message.title,
        section=message.section,
        page=message.page,
        source=message.source,
        metadata=struct(message.metadata),
        start_char=message.start_char,
        end_char=message.end_char,
    )


def citation(message: passage_pb2.Citation) -> answers.Citation:
    return answers.Citation(
        passage=message.passage,
        start_char=message.start_char,
        end_char=message.end_char,
        quote=message.quote,
        title=message.title,
        section=message.section,
        page=message.page,
        source=message.source,
    )


def hit(message: retriever_pb2.Hit) -> answers.Hit:
    found = passage(message.passage)
    return answers.Hit(
        text=found.text,
        score=message.score,
        document=found.document,
        metadata=found.metadata,
        passage=found.name,
        title=found.title,
        section=found.section,
        page=found.page,
        source=found.source,
        highlights=tuple((span.start_char, span.end_char) for span in message.highlights),
    )


def search_result(message: retriever_pb2.SearchResponse) -> answers.SearchResult:
    return answers.SearchResult(
        hits=tuple(hit(m) for m in message.hits),
        epoch=epoch(message.epoch),
        degraded=degraded(message.degraded),
        cached=message.cached,
    )


def started(message: orchestrator_pb2.Started) -> answers.Started:
    return answers.Started(message.session, message.turn, message.trace_id, dict(message.versions), message.replayed)


def retrieved(message: orchestrator_pb2.Retrieved) -> answers.Retrieved:
    return answers.Retrieved(tuple(passage(m) for m in message.passages), epoch(message.epoch), message.query)


def tool_call(message: orchestrator_pb2.ToolCallStarted) -> answers.ToolCall:
    return answers.ToolCall(message.call_id, message.tool, struct(message.arguments))


def tool_result(message: orchestrator_pb2.ToolResult) -> answers.ToolResult:
    failed = message.HasField("error")
    return answers.ToolResult(
        call_id=message.call_id,
        tool=message.tool,
        result=None if failed else struct(message.result),
        text=message.text,
        error=from_proto(message.error) if failed else None,
        duration_s=message.duration.ToNanoseconds() / 1e9,
    )


def finish_reason(value: int) -> str:
    return generator_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_").lower()

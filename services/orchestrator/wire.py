"""Between protobuf and the domain, for the messages that servicer and peers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from services.orchestrator.types import Citation, Degradation, Epoch, Failure, FinishReason, Ledger, Passage, Usage
from weft.common.v1 import accounting_pb2, epoch_pb2, error_pb2, passage_pb2
from weft.generator.v1 import generator_pb2

_WHOLE_BELOW: Final = 2.0**53

REASONS: Final[Mapping[FinishReason, generator_pb2.FinishReason]] = {
    FinishReason.STOP: generator_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generator_pb2.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: generator_pb2.FINISH_REASON_TOOL_CALLS,
    FinishReason.ABSTAINED: generator_pb2.FINISH_REASON_ABSTAINED,
}
REASON_OF: Final = {number: reason for reason, number in REASONS.items()}


def from_struct(message: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a dict. It knows doubles only, so whole numbers come back as int."""
    return {key: from_value(value) for key, value in message.fields.items()}


def from_value(value: struct_pb2.Value) -> Any:
    """A Value as what it stands for."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < _WHOLE_BELOW else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [from_value(item) for item in value.list_value.values]
    return None


def to_struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """A mapping as a Struct."""
    message = struct_pb2.Struct()
    message.update(value)
    return message


def passage(message: passage_pb2.Passage) -> Passage:
    """A passage as it came."""
    return Passage(
        name=message.name,
        text=message.text,
        title=message.title,
        section=message.section,
        page=message.page,
        source=message.source,
        metadata=from_struct(message.metadata),
        start_char=message.start_char,
        end_char=message.end_char,
    )


def to_passages(passages: Iterable[Passage]) -> list[passage_pb2.Passage]:
    """Passages as they go."""
    return [
        passage_pb2.Passage(
            name=p.name,
            text=p.text,
            title=p.title,
            section=p.section,
            page=p.page,
            source=p.source,
            metadata=to_struct(p.metadata) if p.metadata else None,
            start_char=p.start_char,
            end_char=p.end_char,
        )
        for p in passages
    ]


def citations(messages: Iterable[passage_pb2.Citation]) -> tuple[Citation, ...]:
    """Citations as they came."""
    return tuple(
        Citation(m.passage, m.start_char, m.end_char, m.quote, m.title, m.section, m.page, m.source) for m in messages
    )


def to_citations(values: Iterable[Citation]) -> list[passage_pb2.Citation]:
    """Citations as they go."""
    return [
        passage_pb2.Citation(
            passage=c.passage,
            start_char=c.start_char,
            end_char=c.end_char,
            quote=c.quote,
            title=c.title,
            section=c.section,
            page=c.page,
            source=c.source,
        )
        for c in values
    ]


def epoch(message: epoch_pb2.Epoch) -> Epoch | None:
    """An epoch as it came; None where there is none."""
    return Epoch(message.log_id, message.sequence) if message.log_id else None


def to_epoch(value: Epoch | None) -> epoch_pb2.Epoch | None:
    """An epoch as it goes."""
    return None if value is None else epoch_pb2.Epoch(log_id=value.log_id, sequence=value.sequence)


def degraded(messages: Iterable[accounting_pb2.Degradation]) -> tuple[Degradation, ...]:
    """What was left out, as it came."""
    return tuple(Degradation(m.stage, m.reason, m.fallback, m.detail) for m in messages)


def to_degraded(values: Iterable[Degradation]) -> list[accounting_pb2.Degradation]:
    """What was left out, as it goes."""
    return [
        accounting_pb2.Degradation(stage=d.stage, reason=d.reason, fallback=d.fallback, detail=d.detail) for d in values
    ]


def usage(message: accounting_pb2.Usage) -> Usage:
    """The cost as it came."""
    return Usage(message.input_tokens, message.output_tokens, message.cached_tokens, message.cost_micros)


def to_usage(value: Usage) -> accounting_pb2.Usage:
    """The cost as it goes."""
    return accounting_pb2.Usage(
        input_tokens=value.input_tokens,
        output_tokens=value.output_tokens,
        cached_tokens=value.cached_tokens,
        cost_micros=value.cost_micros,
    )


def to_ledger(value: Ledger) -> accounting_pb2.Ledger:
    """The ledger as it goes."""
    return accounting_pb2.Ledger(
        deadline_ms=value.deadline_ms,
        elapsed_ms=value.elapsed_ms,
        entries=[
            accounting_pb2.LedgerEntry(
                stage=line.stage,
                start_ms=line.start_ms,
                duration_ms=line.duration_ms,
                budget_ms=line.budget_ms,
                status=line.status,
            )
            for line in value.lines
        ],
    )


def to_error(value: Failure) -> error_pb2.Error:
    """A failure within a reply, as it goes."""
    return error_pb2.Error(reason=value.reason, code=value.code, message=value.message, metadata=value.metadata)

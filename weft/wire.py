"""Between ``weft.values`` and the messages of ``weft.common.v1``, for the SDK and the services. No checks here.

What comes in is made from its message. What goes out is written into the message that it is a part of
(``put_…(reply.passages, values)``): a message that is made apart and then handed to its parent's constructor gets
there by being serialized and parsed once more.

A Struct knows doubles only. Whole numbers come back as int, as far as a double holds each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import struct_pb2

from weft.common.v1 import accounting_pb2, epoch_pb2, passage_pb2
from weft.generator.v1 import generator_pb2
from weft.values import Citation, Degradation, Epoch, FinishReason, Ledger, LedgerEntry, Passage, Usage

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as Repeated

_WHOLE_BELOW: Final = 2.0**53
_NUMBERS: Final[Mapping[FinishReason, generator_pb2.FinishReason]] = {
    FinishReason.STOP: generator_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generator_pb2.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: generator_pb2.FINISH_REASON_TOOL_CALLS,
    FinishReason.ABSTAINED: generator_pb2.FINISH_REASON_ABSTAINED,
}
_REASONS: Final[Mapping[int, FinishReason]] = {number: reason for reason, number in _NUMBERS.items()}


# -- in -----------------------------------------------------------------------------------------------


def from_struct(message: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a dict."""
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


def epoch(message: epoch_pb2.Epoch) -> Epoch | None:
    """An epoch; None where there is none."""
    return Epoch(message.log_id, message.sequence) if message.log_id else None


def passage(message: passage_pb2.Passage) -> Passage:
    """A passage with its metadata."""
    return Passage(
        name=message.name,
        text=message.text,
        title=message.title,
        section=message.section,
        page=message.page,
        source=message.source,
        metadata=from_struct(message.metadata) if message.HasField("metadata") else {},
        start_char=message.start_char,
        end_char=message.end_char,
    )


def citations(messages: Iterable[passage_pb2.Citation]) -> tuple[Citation, ...]:
    """Citations in the order in which they came."""
    return tuple(
        Citation(m.passage, m.start_char, m.end_char, m.quote, m.title, m.section, m.page, m.source) for m in messages
    )


def usage(message: accounting_pb2.Usage) -> Usage:
    """What a model read and wrote."""
    m = message
    return Usage(m.input_tokens, m.output_tokens, m.cached_tokens, m.cost_micros, m.currency)


def degraded(messages: Iterable[accounting_pb2.Degradation]) -> tuple[Degradation, ...]:
    """What was left out."""
    return tuple(Degradation(m.stage, m.reason, m.fallback, m.detail) for m in messages)


def ledger(message: accounting_pb2.Ledger) -> Ledger:
    """How a turn spent its deadline."""
    entries = tuple(LedgerEntry(e.stage, e.start_ms, e.duration_ms, e.budget_ms, e.status) for e in message.entries)
    return Ledger(message.deadline_ms, message.elapsed_ms, entries)


def finish_reason(number: int) -> FinishReason:
    """Why an answer ended; STOP for a reason that this release doesn't know."""
    return _REASONS.get(number, FinishReason.STOP)


# -- out ----------------------------------------------------------------------------------------------


def put_struct(into: struct_pb2.Struct, value: Mapping[str, Any]) -> None:
    """Write a mapping; an empty one is there nevertheless."""
    into.SetInParent()
    into.update(value)


def put_epoch(into: epoch_pb2.Epoch, value: Epoch | None) -> None:
    """Write an epoch, if there is one."""
    if value is not None:
        into.log_id = value.log_id
        into.sequence = value.sequence


def put_passages(into: Repeated[passage_pb2.Passage], values: Iterable[Passage]) -> None:
    """Append passages."""
    for p in values:
        message = into.add(
            name=p.name,
            text=p.text,
            title=p.title,
            section=p.section,
            page=p.page,
            source=p.source,
            start_char=p.start_char,
            end_char=p.end_char,
        )
        if p.metadata:
            message.metadata.update(p.metadata)


def put_citations(into: Repeated[passage_pb2.Citation], values: Iterable[Citation]) -> None:
    """Append citations."""
    for c in values:
        into.add(
            passage=c.passage,
            start_char=c.start_char,
            end_char=c.end_char,
            quote=c.quote,
            title=c.title,
            section=c.section,
            page=c.page,
            source=c.source,
        )


def put_usage(into: accounting_pb2.Usage, value: Usage) -> None:
    """Write what a model read and wrote."""
    into.input_tokens = value.input_tokens
    into.output_tokens = value.output_tokens
    into.cached_tokens = value.cached_tokens
    into.cost_micros = value.cost_micros
    into.currency = value.currency


def put_degraded(into: Repeated[accounting_pb2.Degradation], values: Iterable[Degradation]) -> None:
    """Append what was left out."""
    for d in values:
        into.add(stage=d.stage, reason=d.reason, fallback=d.fallback, detail=d.detail)


def put_ledger(into: accounting_pb2.Ledger, value: Ledger) -> None:
    """Write how a turn spent its deadline."""
    into.deadline_ms = value.deadline_ms
    into.elapsed_ms = value.elapsed_ms
    for e in value.entries:
        into.entries.add(
            stage=e.stage,
            start_ms=e.start_ms,
            duration_ms=e.duration_ms,
            budget_ms=e.budget_ms,
            status=e.status,
        )


def finish_reason_number(reason: FinishReason) -> generator_pb2.FinishReason:
    """A reason as it goes."""
    return _NUMBERS[reason]

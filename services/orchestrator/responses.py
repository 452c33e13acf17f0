"""What goes out: the domain's events and records as protobuf."""

from __future__ import annotations

from services.orchestrator.records import Entry, Session, Turn, TurnState
from services.orchestrator.types import (
    Failure,
    Finished,
    Retrieved,
    Started,
    TextDelta,
    ToolCallStarted,
    ToolResult,
)
from weft import wire
from weft.common.v1 import error_pb2
from weft.orchestrator.v1 import orchestrator_pb2 as pb

_STATES = {
    TurnState.RUNNING: pb.TURN_STATE_RUNNING,
    TurnState.FINISHED: pb.TURN_STATE_FINISHED,
    TurnState.FAILED: pb.TURN_STATE_FAILED,
}


def chat_response(entry: Entry) -> pb.ChatResponse:
    """One event of a turn."""
    message, event = pb.ChatResponse(sequence=entry.sequence), entry.event
    match event:
        case TextDelta():
            message.text_delta.text = event.text
        case Started():
            _put_started(message.started, event)
        case Retrieved():
            _put_retrieved(message.retrieved, event)
        case ToolCallStarted():
            _put_tool_call(message.tool_call, event)
        case ToolResult():
            _put_tool_result(message.tool_result, event)
        case Finished():
            _put_finished(message.finished, event)
        case _:
            raise TypeError(f"{type(event).__name__} is a note of the log and not for readers")
    return message


def session(record: Session) -> pb.Session:
    """A session's record."""
    message = pb.Session(name=f"sessions/{record.name}", turn_count=record.turn_count)
    message.create_time.FromMilliseconds(round(record.created_s * 1_000))
    message.expire_time.FromMilliseconds(round(record.expires_s * 1_000))
    wire.put_struct(message.variables, record.variables)
    return message


def turn(record: Turn) -> pb.Turn:
    """A turn's record."""
    message = pb.Turn(
        name=turn_name(record.session, record.number),
        state=_STATES[record.state],
        question=record.question,
        trace_id=record.trace_id,
    )
    message.create_time.FromMilliseconds(round(record.created_s * 1_000))
    if record.finished:
        _put_finished(message.finished, record.finished)
    if record.failure:
        _put_error(message.error, record.failure)
    return message


def turn_name(session_name: str, number: int) -> str:
    """The resource name of a turn."""
    return f"sessions/{session_name}/turns/{number}"


def _put_started(into: pb.Started, event: Started) -> None:
    into.session = f"sessions/{event.session}"
    into.turn = turn_name(event.session, event.turn)
    into.trace_id = event.trace_id
    into.versions.update(event.versions)
    into.replayed = event.replayed
    into.request_id = event.request_id


def _put_retrieved(into: pb.Retrieved, event: Retrieved) -> None:
    into.query = event.query
    wire.put_passages(into.passages, event.passages)
    wire.put_epoch(into.epoch, event.epoch)


def _put_tool_call(into: pb.ToolCallStarted, event: ToolCallStarted) -> None:
    into.call_id = event.call_id
    into.tool = event.tool
    wire.put_struct(into.arguments, event.arguments)


def _put_tool_result(into: pb.ToolResult, event: ToolResult) -> None:
    into.call_id = event.call_id
    into.tool = event.tool
    into.text = event.text
    into.duration.FromNanoseconds(round(event.duration_s * 1e9))
    if event.result is not None:
        wire.put_struct(into.result, event.result)
    if event.error:
        _put_error(into.error, event.error)


def _put_error(into: error_pb2.Error, failure: Failure) -> None:
    into.reason = failure.reason
    into.code = failure.code
    into.message = failure.message
    into.metadata.update(failure.metadata)


def _put_finished(into: pb.Finished, event: Finished) -> None:
    into.text = event.text
    into.reason = wire.finish_reason_number(event.reason)
    wire.put_citations(into.citations, event.citations)
    wire.put_usage(into.usage, event.usage)
    wire.put_ledger(into.ledger, event.ledger)
    wire.put_degraded(into.degraded, event.degraded)
    into.cached = event.cached

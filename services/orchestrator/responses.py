"""What goes out: the domain's events and records as protobuf."""

from __future__ import annotations

from google.protobuf import duration_pb2, timestamp_pb2

from services.orchestrator import wire
from services.orchestrator.records import Entry, Session, Turn, TurnState
from services.orchestrator.types import (
    Finished,
    Retrieved,
    Started,
    TextDelta,
    ToolCallStarted,
    ToolResult,
)
from weft.orchestrator.v1 import orchestrator_pb2 as pb

_STATES = {
    TurnState.RUNNING: pb.TURN_STATE_RUNNING,
    TurnState.FINISHED: pb.TURN_STATE_FINISHED,
    TurnState.FAILED: pb.TURN_STATE_FAILED,
}


def chat_response(entry: Entry) -> pb.ChatResponse:
    """One event of a turn."""
    sequence, event = entry.sequence, entry.event
    match event:
        case TextDelta():
            return pb.ChatResponse(sequence=sequence, text_delta=pb.TextDelta(text=event.text))
        case Started():
            return pb.ChatResponse(sequence=sequence, started=_started(event))
        case Retrieved():
            return pb.ChatResponse(sequence=sequence, retrieved=_retrieved(event))
        case ToolCallStarted():
            return pb.ChatResponse(sequence=sequence, tool_call=_tool_call(event))
        case ToolResult():
            return pb.ChatResponse(sequence=sequence, tool_result=_tool_result(event))
        case Finished():
            return pb.ChatResponse(sequence=sequence, finished=finished(event))
    raise TypeError(f"{type(event).__name__} is a note of the log and not for readers")


def session(record: Session) -> pb.Session:
    """A session's record."""
    return pb.Session(
        name=f"sessions/{record.name}",
        create_time=_timestamp(record.created_s),
        expire_time=_timestamp(record.expires_s),
        turn_count=record.turn_count,
        variables=wire.to_struct(record.variables),
    )


def turn(record: Turn) -> pb.Turn:
    """A turn's record."""
    return pb.Turn(
        name=turn_name(record.session, record.number),
        state=_STATES[record.state],
        question=record.question,
        finished=finished(record.finished) if record.finished else None,
        create_time=_timestamp(record.created_s),
        trace_id=record.trace_id,
    )


def turn_name(session_name: str, number: int) -> str:
    """The resource name of a turn."""
    return f"sessions/{session_name}/turns/{number}"


def finished(event: Finished) -> pb.Finished:
    """The end of a turn."""
    return pb.Finished(
        text=event.text,
        reason=wire.REASONS[event.reason],
        citations=wire.to_citations(event.citations),
        usage=wire.to_usage(event.usage),
        ledger=wire.to_ledger(event.ledger),
        degraded=wire.to_degraded(event.degraded),
        cached=event.cached,
    )


def _started(event: Started) -> pb.Started:
    return pb.Started(
        session=f"sessions/{event.session}",
        turn=turn_name(event.session, event.turn),
        trace_id=event.trace_id,
        versions=event.versions,
        replayed=event.replayed,
        request_id=event.request_id,
    )


def _retrieved(event: Retrieved) -> pb.Retrieved:
    return pb.Retrieved(passages=wire.to_passages(event.passages), epoch=wire.to_epoch(event.epoch), query=event.query)


def _tool_call(event: ToolCallStarted) -> pb.ToolCallStarted:
    return pb.ToolCallStarted(call_id=event.call_id, tool=event.tool, arguments=wire.to_struct(event.arguments))


def _tool_result(event: ToolResult) -> pb.ToolResult:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(event.duration_s * 1e9))
    return pb.ToolResult(
        call_id=event.call_id,
        tool=event.tool,
        result=wire.to_struct(event.result) if event.result is not None else None,
        text=event.text,
        error=wire.to_error(event.error) if event.error else None,
        duration=duration,
    )


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMilliseconds(round(seconds * 1_000))
    return stamp

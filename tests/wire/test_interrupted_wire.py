"""An answer that nobody can go on with, as callers see it: the status, the stored turn, the session afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc

from tests.support.orchestrator import house
from weft.errors import Reason, WeftError, from_rpc_error
from weft.orchestrator.v1 import orchestrator_pb2 as pb


async def read(call: Any) -> tuple[list[Any], WeftError]:
    """What came, and the error behind it."""
    had = []
    try:
        async for message in call:
            had.append(message)
    except grpc.aio.AioRpcError as exc:
        return had, from_rpc_error(exc)
    raise AssertionError(f"no error came behind {had}")


def text_of(messages: list[Any]) -> str:
    return "".join(message.text_delta.text for message in messages)


async def test_an_interrupted_answer_is_unavailable_partial_and_kept_as_failed(tmp_path: Path) -> None:
    async with house(tmp_path, replicas=2) as h:
        h.peer.can_repeat = False
        h.peer.pieces = ["It is ", 0.05, "half ", grpc.StatusCode.UNAVAILABLE]
        had, err = await asyncio.wait_for(read(h.first.chat("Whole?", request_id="r1")), 5)
        assert (err.code, err.reason, err.retryable) == (
            grpc.StatusCode.UNAVAILABLE,
            Reason.ANSWER_INTERRUPTED,
            False,
        )
        assert text_of(had) == "It is half "
        assert (err.metadata["partial"], err.metadata["emitted_chars"]) == ("true", str(len("It is half ")))

        again, same = await read(h.replicas[1].chat("Whole?", request_id="r1"))
        assert (text_of(again), same.reason, same.metadata["partial"]) == ("It is half ", err.reason, "true")
        assert sum(hasattr(request, "messages") for request in h.peer.requests) == 1  # Generate

        h.peer.pieces = ["It ", "is whole."]
        next_turn = await h.replicas[1].ask("And now?")
        assert next_turn[-1].finished.text == "It is whole."
        generate = next(request for request in reversed(h.peer.requests) if hasattr(request, "messages"))
        assert [message.content for message in generate.messages] == ["And now?"]  # no half answer is remembered

        listed = (await h.first.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"), timeout=5)).turns
    assert [turn.state for turn in listed] == [pb.TURN_STATE_FAILED, pb.TURN_STATE_FINISHED]
    failed, finished = listed
    assert (failed.error.reason, failed.error.code) == ("ANSWER_INTERRUPTED", "UNAVAILABLE")
    assert dict(failed.error.metadata)["partial"] == "true"
    assert not failed.HasField("finished")
    assert not finished.HasField("error")

"""ask and stream: what comes back, and what happens when the stream breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import weft
from tests.support.scripted import HANG, Server, delta, event, finished, scripted_server, started
from weft import names, turns
from weft.common.v1 import accounting_pb2, epoch_pb2, error_pb2, passage_pb2
from weft.connection import new_session, session_bucket
from weft.errors import Reason, WeftError, error
from weft.orchestrator.v1 import orchestrator_pb2 as chat_pb2


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with scripted_server() as running:
        yield running


def busy_now() -> WeftError:
    return error(Reason.SESSION_BUSY, "another turn runs", retry_after_s=1.5, session="sessions/s1")


async def test_an_answer_holds_all_that_the_turn_has_told(server: Server) -> None:
    passage = passage_pb2.Passage(name="collections/default/documents/d/chunks/3", text="Blue.", source="sky.md")
    passage.metadata.update({"year": 2024, "tags": ["a"]})
    failure = error_pb2.Error(reason="TOOL_TIMEOUT", code="DEADLINE_EXCEEDED", message="too slow")
    result = chat_pb2.ToolResult(call_id="1", tool="calculator", text="2 + 2 = 4")
    result.result.update({"value": 4})
    result.duration.FromMilliseconds(12)
    server.chat.scripts = [
        [
            started(),
            event(1, retrieved=chat_pb2.Retrieved(passages=[passage], epoch=epoch_pb2.Epoch(log_id="l", sequence=9))),
            event(2, tool_call=chat_pb2.ToolCallStarted(call_id="1", tool="calculator")),
            event(3, tool_result=result),
            event(4, tool_result=chat_pb2.ToolResult(call_id="2", tool="clock", error=failure)),
            delta(5, "Blue "),
            delta(6, "it is."),
            finished(
                7,
                "Blue it is.",
                citations=[passage_pb2.Citation(passage=passage.name, start_char=0, end_char=4, source="sky.md")],
                usage=accounting_pb2.Usage(input_tokens=7, output_tokens=3),
                ledger=accounting_pb2.Ledger(
                    deadline_ms=10_000,
                    elapsed_ms=20,
                    entries=[accounting_pb2.LedgerEntry(stage="retrieval", duration_ms=5, status="OK")],
                ),
                degraded=[accounting_pb2.Degradation(stage="tools", reason="TOOL_TIMEOUT", fallback="without_tools")],
                cached=True,
            ),
        ]
    ]
    async with server.client() as c:
        answer = await c.ask("What colour is the sky?")
    assert answer.text == "Blue it is."
    assert (answer.session, answer.turn, answer.trace_id) == ("sessions/s1", "sessions/s1/turns/1", "ab" * 16)
    assert answer.citations == (weft.Citation(passage.name, 0, 4, source="sky.md"),)
    assert answer.text[answer.citations[0].start_char : answer.citations[0].end_char] == "Blue"
    assert answer.passages[0].metadata == {"year": 2024, "tags": ["a"]}
    assert answer.passages[0].document == "collections/default/documents/d"
    assert answer.epoch == weft.Epoch("l", 9)
    calculator, clock = answer.tools
    assert (calculator.result, calculator.text, calculator.duration_s) == ({"value": 4}, "2 + 2 = 4", 0.012)
    assert clock.result is None
    assert isinstance(clock.error, weft.DeadlineExceeded)
    assert answer.usage == weft.Usage(input_tokens=7, output_tokens=3)
    assert answer.ledger.entries == (weft.LedgerEntry("retrieval", 0, 5, 0, "OK"),)
    assert answer.degraded == (weft.Degradation("tools", "TOOL_TIMEOUT", "without_tools"),)
    assert answer.cached
    assert not answer.abstained
    assert weft.as_dict(answer)["tools"][1]["error"]["reason"] == "TOOL_TIMEOUT"


async def test_events_come_typed_and_in_order(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "Yes"), finished(2, "Yes")]]
    async with server.client() as c:
        stream = c.stream("Is it?")
        events = [item async for item in stream]
    assert [type(item) for item in events] == [weft.Started, weft.TextDelta, weft.Finished]
    assert stream.answer is not None
    assert stream.answer.text == "Yes"


async def test_the_question_and_its_companions_arrive(server: Server) -> None:
    server.chat.scripts = [[started(), finished(1, "")]] * 2
    async with server.client(tenant="acme", headers={"weft-route-canary": "yes"}, timeout_s=5) as c:
        await c.ask("Why?", session="talk", collection="books", top_k=7, tools=["calculator"], today="2026-01-02")
        await c.ask("Why?", tools=[])
    first, second = server.chat.requests
    assert (first.session, first.collection, first.top_k) == ("sessions/talk", "collections/books", 7)
    assert (list(first.tools), first.today, list(second.tools)) == (["calculator"], "2026-01-02", ["-"])
    metadata = server.chat.metadata[0]
    assert metadata[names.METADATA_TENANT] == "acme"
    assert metadata["weft-route-canary"] == "yes"
    assert metadata[names.METADATA_REQUEST_ID] == first.request_id != second.request_id
    assert metadata[names.METADATA_BUCKET] == str(session_bucket("sessions/talk"))


async def test_a_broken_stream_goes_on_where_it_stopped(server: Server) -> None:
    server.chat.scripts = [
        [started(), delta(1, "one "), delta(2, "two "), grpc.StatusCode.UNAVAILABLE],
        [delta(3, "three "), grpc.StatusCode.CANCELLED],
        [delta(4, "four"), finished(5, "one two three four")],
    ]
    async with server.client() as c:
        stream = c.stream("Count!")
        texts = [item.text async for item in stream if isinstance(item, weft.TextDelta)]
    assert texts == ["one ", "two ", "three ", "four"]
    first, second, third = server.chat.requests
    assert not first.HasField("resume")
    assert (second.resume.turn, second.resume.after_sequence) == ("sessions/s1/turns/1", 2)
    assert (third.resume.turn, third.resume.after_sequence) == ("sessions/s1/turns/1", 3)
    assert first.request_id == second.request_id == third.request_id


async def test_a_server_that_is_killed_in_the_middle_costs_nothing(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "a"), HANG], [delta(2, "b"), finished(3, "ab")]]
    async with server.client() as c:
        text = ""
        async for item in c.stream("Spell!"):
            if isinstance(item, weft.TextDelta):
                text += item.text
                if text == "a":
                    await server.stop()
                    await server.start()
    assert text == "ab"


async def test_a_stream_that_breaks_before_its_first_event_is_sent_again_as_it_was(server: Server) -> None:
    server.chat.scripts = [[grpc.StatusCode.UNAVAILABLE], [started(), finished(1, "ok")]]
    async with server.client() as c:
        assert (await c.ask("?")).text == "ok"
    first, second = server.chat.requests
    assert first == second


async def test_events_that_come_again_are_passed_over(server: Server) -> None:
    server.chat.scripts = [
        [started(), delta(1, "x"), grpc.StatusCode.UNAVAILABLE],
        [started(), delta(1, "x"), delta(2, "y"), finished(3, "xy")],
    ]
    async with server.client() as c:
        events = [item async for item in c.stream("?")]
    assert [type(item).__name__ for item in events] == ["Started", "TextDelta", "TextDelta", "Finished"]


async def test_an_event_that_is_missing_is_an_error_and_no_silent_hole(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "x"), delta(3, "z")]]
    async with server.client() as c:
        with pytest.raises(weft.Internal, match="event 2"):
            await c.ask("?")


async def test_a_stream_that_ends_without_an_answer_is_asked_for_the_rest(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "x")], [finished(2, "x")]]
    async with server.client() as c:
        assert (await c.ask("?")).text == "x"


async def test_an_instance_that_is_stopping_is_left_for_another(server: Server) -> None:
    server.chat.scripts = [[error(Reason.SHUTTING_DOWN, "stopping")], [started(), finished(1, "ok")]]
    async with server.client() as c:
        assert (await c.ask("?")).text == "ok"


async def test_an_error_that_a_handler_raised_ends_the_stream_at_once_and_typed(server: Server) -> None:
    server.chat.scripts = [[busy_now()]]
    async with server.client() as c:
        with pytest.raises(weft.Aborted) as failure:
            await c.ask("?", session="s1")
    assert failure.value.reason == "SESSION_BUSY"
    assert failure.value.retry_after_s == 1.5
    assert failure.value.metadata["session"] == "sessions/s1"


async def test_an_answer_that_cannot_be_gone_on_with_ends_the_stream_and_leaves_what_had_come(server: Server) -> None:
    gone = error(Reason.ANSWER_INTERRUPTED, "its model went away", partial="true", emitted_chars=8)
    broken = [started(), delta(1, "one "), grpc.StatusCode.UNAVAILABLE]
    server.chat.scripts = [broken, [delta(2, "two "), gone], [started(), delta(1, "one"), HANG], [busy_now()]]
    async with server.client() as c:
        with pytest.raises(weft.Unavailable) as failure:
            await c.ask("Count!")
        assert failure.value.reason == "ANSWER_INTERRUPTED"
        assert failure.value.metadata["emitted_chars"] == "8"
        assert failure.value.partial_text == "one two "
        with pytest.raises(weft.DeadlineExceeded) as late:
            await c.ask("Count!", timeout_s=0.5)
        assert late.value.partial_text == "one"
        with pytest.raises(weft.Aborted) as refused:
            await c.ask("Count!")
        assert refused.value.partial_text == ""


async def test_the_deadline_ends_a_turn_that_hangs(server: Server) -> None:
    server.chat.scripts = [[started(), HANG]]
    async with server.client() as c:
        begun_s = time.monotonic()
        with pytest.raises(weft.DeadlineExceeded, match=r"0\.3 s"):
            await c.ask("?", timeout_s=0.3)
    assert time.monotonic() - begun_s < 8


async def test_a_mesh_that_stays_away_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GIVE_UP_AFTER_S", 0.5)
    async with server.client() as c:
        await server.stop()
        begun_s = time.monotonic()
        with pytest.raises(weft.Unavailable, match="orchestrator"):
            await c.ask("?", timeout_s=20)
    assert time.monotonic() - begun_s < 12


async def test_a_defect_that_stays_is_not_asked_for_ever(server: Server) -> None:
    server.chat.scripts = [[grpc.StatusCode.INTERNAL]] * 3
    async with server.client() as c:
        with pytest.raises(weft.Internal):
            await c.ask("?")


async def test_leaving_the_loop_stops_the_turn_at_the_server(server: Server) -> None:
    server.chat.scripts = [[started(), delta(1, "a"), HANG]]
    async with server.client() as c:
        async for item in c.stream("?"):
            if isinstance(item, weft.TextDelta):
                break
        await asyncio.wait_for(server.chat.cancelled.wait(), 10)


async def test_cancelling_the_caller_stops_the_turn_at_the_server(server: Server) -> None:
    server.chat.scripts = [[started(), HANG]]
    async with server.client() as c:
        asking = asyncio.create_task(c.ask("?"))
        await asyncio.sleep(0.2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(server.chat.cancelled.wait(), 10)


async def test_closing_the_client_ends_its_turns_with_an_error(server: Server) -> None:
    server.chat.scripts = [[started(), HANG]]
    async with server.client() as c:
        asking = asyncio.create_task(c.ask("?"))
        await asyncio.sleep(0.2)
    with pytest.raises(weft.Cancelled, match="closed"):
        await asking


async def test_all_streams_of_a_turn_are_in_one_trace_and_end_with_their_status(server: Server) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server.chat.scripts = [[started(), grpc.StatusCode.UNAVAILABLE], [delta(1, "x"), finished(2, "x")]]
    async with server.client(tracer_provider=provider) as c:
        async for item in c.stream("?"):
            if isinstance(item, weft.Finished):
                break  # nobody waits for the end of the stream, and yet it went well
    spans = {span.name.rpartition("/")[2]: span for span in exporter.get_finished_spans()}
    calls = [s for s in exporter.get_finished_spans() if s.name.endswith("/Chat")]
    assert [(s.attributes or {})[names.RPC_STATUS] for s in calls] == ["UNAVAILABLE", "OK"]
    root = spans["ask"].get_span_context()
    assert {s.parent.span_id for s in calls if s.parent} == {root.span_id}
    assert len({s.get_span_context().trace_id for s in exporter.get_finished_spans()}) == 1
    assert server.chat.completed == 1
    provider.shutdown()


async def test_a_new_session_stays_on_its_version_from_its_first_turn_on(server: Server) -> None:
    server.chat.scripts = [[started(), finished(1, "")]]
    async with server.client(tenant="acme") as c:
        await c.ask("?")
    session = new_session("acme", server.chat.requests[0].request_id)
    assert server.chat.metadata[0][names.METADATA_BUCKET] == str(session_bucket(session))

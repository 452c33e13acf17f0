"""OrchestratorService on a real wire, over peers on real servers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.orchestration import eventually
from tests.support.orchestrator import PASSAGE, House, house
from weft.common.v1 import epoch_pb2
from weft.connection import session_bucket
from weft.errors import Reason, WeftError, error, from_rpc_error
from weft.generator.v1 import generator_pb2
from weft.orchestrator.v1 import orchestrator_pb2 as pb

Messages = list[pb.ChatResponse]


def kinds(messages: Messages) -> list[str | None]:
    return [message.WhichOneof("event") for message in messages]


def text_of(messages: Messages) -> str:
    return "".join(message.text_delta.text for message in messages)


async def failure(awaitable: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return from_rpc_error(caught.value)


async def test_a_turn_streams_started_retrieved_text_and_one_finished(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        messages = await h.first.ask(request_id="r1", collection="collections/c", top_k=3)
        spans = {span.name: span for span in h.spans.get_finished_spans()}
    assert kinds(messages) == ["started", "retrieved", "text_delta", "text_delta", "finished"]
    assert [message.sequence for message in messages] == list(range(5))
    started, retrieved, finished = messages[0].started, messages[1].retrieved, messages[-1].finished
    assert (started.session, started.turn) == ("sessions/s", "sessions/s/turns/1")
    assert (started.request_id, dict(started.versions)) == ("r1", {"orchestrator": "v7"})
    server = spans["weft.orchestrator.v1.OrchestratorService/Chat"]
    assert started.trace_id == f"{server.context.trace_id:032x}"
    assert list(retrieved.passages) == [PASSAGE]
    assert retrieved.epoch == epoch_pb2.Epoch(log_id="ab" * 16, sequence=3)
    assert text_of(messages) == finished.text == "It is woven."
    assert finished.reason == generator_pb2.FINISH_REASON_STOP
    assert finished.citations[0].passage == PASSAGE.name
    assert {entry.stage for entry in finished.ledger.entries} >= {"session", "retrieval", "planning", "generation"}
    assert finished.ledger.deadline_ms == pytest.approx(10_000, rel=0.05)
    assert (h.peer.requests[0].collection, h.peer.requests[0].top_k) == ("collections/c", 3)


@pytest.mark.parametrize(("asked", "allowed"), [({}, True), ({"allow_cached": False}, False)])
async def test_whether_a_cache_may_answer_is_the_callers_choice_all_the_way(
    tmp_path: Path, asked: dict[str, bool], allowed: bool
) -> None:
    async with house(tmp_path) as h:
        await h.first.ask(**asked)
        assert [request.allow_cached for request in h.peer.requests] == [allowed, allowed]  # search, generate


async def test_all_of_a_turn_is_one_trace_with_the_stages_in_it(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.first.ask("What is 6 * 7?")
        spans = [span for span in h.spans.get_finished_spans() if not span.name.endswith("ListTools")]
    chat = next(s for s in spans if s.name.endswith("/Chat") and s.kind.name == "SERVER")
    parents = {span.context.span_id: span for span in spans}
    edges = {(parents[s.parent.span_id].name.split("/")[-1], s.name.split("/")[-1]) for s in spans if s.parent}
    assert edges == {
        ("Chat", "Chat"),
        ("Chat", "turn.session"),
        ("Chat", "turn.retrieval"),
        ("turn.retrieval", "Search"),
        ("Chat", "turn.planning"),
        ("Chat", "turn.tools"),
        ("turn.tools", "CallTool"),
        ("Chat", "turn.generation"),
        ("turn.generation", "Generate"),
    }
    assert {span.context.trace_id for span in spans} == {chat.context.trace_id}
    assert {s.name: s.status.status_code.name for s in spans if s.status.status_code.name == "ERROR"} == {}


async def test_a_question_that_needs_a_tool_has_it_called(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        messages = await h.first.ask("What is 6 * 7?", today="2026-11-21")
        generate = next(r for r in h.peer.requests if isinstance(r, generator_pb2.GenerateRequest))
        call = next(r for r in h.peer.requests if hasattr(r, "call_id"))
    assert sorted(filter(None, kinds(messages)))[-2:] == ["tool_call", "tool_result"]
    by_kind = {message.WhichOneof("event"): message for message in messages}
    assert by_kind["tool_call"].tool_call.arguments["expression"] == "6 * 7"
    result = by_kind["tool_result"].tool_result
    assert (result.tool, result.result["value"], result.text) == ("calculator", 42, "6 * 7 = 42")
    assert not result.HasField("error")
    assert (call.today, call.call_id != result.call_id) == ("2026-11-21", True)
    assert [generator_pb2.Role.Name(message.role) for message in generate.messages] == [
        "ROLE_USER",
        "ROLE_ASSISTANT",
        "ROLE_TOOL",
    ]
    assert generate.messages[2].content == "6 * 7 = 42"


async def test_tenant_request_id_and_bucket_travel_to_every_peer(tmp_path: Path) -> None:
    metadata = (("weft-tenant", "acme"), ("weft-request-id", "outer-1"), ("weft-route-canary", "yes"))
    async with house(tmp_path) as h:
        await h.first.ask("What is 6 * 7?", metadata=metadata)
        seen = h.peer.metadata
    assert len(seen) == 3
    for found in seen:
        assert found["weft-tenant"] == "acme"
        assert found["weft-request-id"] == "outer-1"
        assert found["weft-route-canary"] == "yes"
        assert found["weft-bucket"] == str(session_bucket("sessions/s"))


async def test_a_session_remembers_across_replicas(tmp_path: Path) -> None:
    async with house(tmp_path, replicas=2) as h:
        await h.replicas[0].ask("How does the loom work?")
        messages = await h.replicas[1].ask("And in Chinese?")
        generate = [r for r in h.peer.requests if isinstance(r, generator_pb2.GenerateRequest)][-1]
    assert messages[0].started.turn == "sessions/s/turns/2"
    assert messages[1].retrieved.query == "And in Chinese? (loom work)"
    assert [message.content for message in generate.messages] == [
        "How does the loom work?",
        "It is woven.",
        "And in Chinese?",
    ]
    assert generate.query == "And in Chinese? (loom work)"


async def test_a_finished_turn_is_replayed_by_any_replica(tmp_path: Path) -> None:
    async with house(tmp_path, replicas=2) as h:
        first = await h.replicas[0].ask(request_id="r1")
        again = await h.replicas[1].ask(request_id="r1")
    assert again[0].started.replayed
    assert again[1:] == first[1:]


async def test_another_turn_waits_and_at_its_deadline_is_told_when_to_come_back(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with house(tmp_path, replicas=2) as h:
        h.peer.pieces = ["It is ", hold, "woven."]
        first = asyncio.create_task(h.replicas[0].ask("first?"))
        await eventually(lambda: h.peer.active == 1)
        err = await failure(h.replicas[1].ask("second?", timeout=2))
        assert err.reason == Reason.SESSION_BUSY
        assert err.code is grpc.StatusCode.ABORTED
        assert err.retry_after_s
        waiting = asyncio.create_task(h.replicas[1].ask("third?"))
        await asyncio.sleep(0.1)
        hold.set()
        assert (await first)[0].started.turn == "sessions/s/turns/1"
        assert (await waiting)[0].started.turn == "sessions/s/turns/2"


async def test_a_caller_that_cancels_stops_the_generator_at_once(tmp_path: Path) -> None:
    took_s: list[float] = []
    async with house(tmp_path) as h:
        for number in range(5):
            h.peer.pieces = ["It is ", 30.0]
            call = h.first.chat(request_id="r1", session=f"sessions/s{number}")
            async for message in call:
                if message.HasField("text_delta"):
                    break
            began_s = time.monotonic()
            call.cancel()
            await eventually(lambda number=number: h.peer.cancelled == number + 1)  # type: ignore[misc]
            took_s.append(time.monotonic() - began_s)
        h.peer.pieces = ["It is ", "woven."]
        rest = await h.first.ask(
            session="",
            request_id="r1",
            resume=pb.ChatResume(turn="sessions/s4/turns/1", after_sequence=message.sequence),
            timeout=3,  # less than a lease: it was given back
        )
    assert min(took_s) < 1, took_s  # the least: the machine may be busy with something else
    assert text_of(rest) == "woven."
    assert rest[0].sequence == message.sequence + 1


async def test_cancelling_ends_every_span_and_leaves_no_task(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.first.ask()  # opens the connections, which have tasks of their own
        h.spans.clear()
        h.peer.pieces = ["It is ", 30.0]
        before = len(asyncio.all_tasks())
        for number in range(30):
            call = h.first.chat(session=f"sessions/s{number}")
            async for message in call:
                if message.HasField("text_delta"):
                    break
            call.cancel()

        def ended() -> dict[str, int]:
            names = [span.name.split("/")[-1] for span in h.spans.get_finished_spans()]
            return {name: names.count(name) for name in names}

        stages = dict.fromkeys(("turn.session", "turn.retrieval", "turn.planning", "turn.generation"), 30)
        await eventually(lambda: ended() == {"Chat": 60, "Search": 30, "Generate": 30, **stages}, 4.5)
        await eventually(lambda: len(asyncio.all_tasks()) <= before, 4.5)
        assert h.peer.cancelled == 30


async def test_a_replica_that_stops_hands_its_turn_to_the_other(tmp_path: Path) -> None:
    async with house(tmp_path, replicas=2, lease_s=9.0) as h:
        h.peer.pieces = ["It is ", 0.5, "woven."]
        had: Messages = []

        async def until_it_stops() -> None:
            async for message in h.replicas[0].chat(request_id="r1"):
                had.append(message)
                if message.HasField("text_delta"):
                    await h.replicas[0].stop.aclose()

        with pytest.raises(grpc.aio.AioRpcError):
            await until_it_stops()
        began_s = time.monotonic()
        rest = await h.replicas[1].ask(
            request_id="r1", resume=pb.ChatResume(turn=had[0].started.turn, after_sequence=had[-1].sequence)
        )
        assert time.monotonic() - began_s < 5  # the lease was given back: nothing waits for it to expire
    everything = had + rest
    assert [message.sequence for message in everything] == list(range(len(everything)))
    assert text_of(everything) == everything[-1].finished.text == "It is woven."


async def test_a_generator_that_dies_in_the_middle_is_not_noticed(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        h.peer.pieces = ["It is ", 0.05, grpc.StatusCode.UNAVAILABLE]
        stream = h.first.chat()
        messages: Messages = []
        async for message in stream:
            messages.append(message)
            if message.HasField("text_delta"):
                h.peer.pieces = ["It ", "is woven."]
        (generation,) = [span for span in h.spans.get_finished_spans() if span.name == "turn.generation"]
    assert text_of(messages) == messages[-1].finished.text == "It is woven."
    assert not messages[-1].finished.degraded
    assert [(event.name, dict(event.attributes)) for event in generation.events] == [
        ("resume", {"emitted_chars": len("It is "), "cause": "DEPENDENCY_UNAVAILABLE"})
    ]


@pytest.mark.parametrize(
    ("down", "stage", "fallback"),
    [
        ("retriever", "retrieval", "session_and_tools"),
        ("tools", "tools", "without_tools"),
        ("generator", "generation", "passages_only"),
    ],
)
async def test_a_turn_survives_a_peer_that_is_not_there(tmp_path: Path, down: str, stage: str, fallback: str) -> None:
    async with house(tmp_path, down=[down]) as h:
        messages = await h.first.ask()
    finished = messages[-1].finished
    assert [(d.stage, d.fallback, d.reason) for d in finished.degraded] == [(stage, fallback, "DEPENDENCY_UNAVAILABLE")]
    assert text_of(messages) == finished.text
    if down == "generator":
        (citation,) = finished.citations
        assert finished.text[citation.start_char : citation.end_char] == PASSAGE.text


async def test_an_unknown_collection_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        h.peer.search_error = error(Reason.COLLECTION_NOT_FOUND, "no collection 'c'", collection="c")
        err = await failure(h.first.ask(collection="collections/c"))
        assert (err.reason, err.metadata["collection"]) == (Reason.COLLECTION_NOT_FOUND, "c")
        h.peer.search_error = None
        assert (await h.first.ask())[0].started.turn == "sessions/s/turns/2"  # nothing else was harmed


async def test_another_tenants_session_is_not_found(tmp_path: Path) -> None:
    acme, other = (("weft-tenant", "acme"),), (("weft-tenant", "other"),)
    async with house(tmp_path) as h:
        session = (await h.first.ask(session="", metadata=acme))[0].started.session
        for attempt in (
            h.first.ask(session=session, metadata=other),
            h.first.stub.GetSession(pb.GetSessionRequest(name=session), metadata=other, timeout=5),
            h.first.stub.ListTurns(pb.ListTurnsRequest(session=session), metadata=other, timeout=5),
            h.first.ask(
                session="",
                resume=pb.ChatResume(turn=f"{session}/turns/1", after_sequence=1),
                metadata=other,
            ),
        ):
            assert (await failure(attempt)).reason == Reason.SESSION_NOT_FOUND
        await h.first.stub.DeleteSession(pb.DeleteSessionRequest(name=session), metadata=other, timeout=5)
        found = await h.first.stub.GetSession(pb.GetSessionRequest(name=session), metadata=acme, timeout=5)
    assert found.session.turn_count == 1


async def test_a_session_is_shown_listed_by_pages_and_forgotten(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        stub = h.first.stub
        for number in (1, 2, 3):
            await h.first.ask(f"q{number}")
        session = (await stub.GetSession(pb.GetSessionRequest(name="sessions/s"), timeout=5)).session
        assert (session.name, session.turn_count) == ("sessions/s", 3)
        assert session.expire_time.ToSeconds() - time.time() == pytest.approx(3_600, abs=60)
        page = await stub.ListTurns(pb.ListTurnsRequest(session="sessions/s", page_size=2), timeout=5)
        assert [turn.question for turn in page.turns] == ["q1", "q2"]
        assert page.turns[0].state == pb.TURN_STATE_FINISHED
        assert page.turns[0].finished.text == "It is woven."
        rest = await stub.ListTurns(
            pb.ListTurnsRequest(session="sessions/s", page_size=2, page_token=page.next_page_token), timeout=5
        )
        assert [turn.name for turn in rest.turns] == ["sessions/s/turns/3"]
        assert rest.next_page_token == ""
        await stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"), timeout=5)
        err = await failure(stub.GetSession(pb.GetSessionRequest(name="sessions/s"), timeout=5))
    assert err.reason == Reason.SESSION_NOT_FOUND


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("question", {"question": ""}),
        ("question", {"question": " \n"}),
        ("question", {"question": "x" * 8_193}),
        ("question", {"question": "a\x00b"}),
        ("question", {"question": "a\x1b[31mb"}),
        ("session", {"session": "s"}),
        ("session", {"session": "sessions/"}),
        ("session", {"session": "sessions/a/b"}),
        ("session", {"session": "sessions/" + "x" * 129}),
        ("request_id", {"request_id": "x" * 129}),
        ("request_id", {"request_id": "a\nb"}),
        ("collection", {"collection": "default"}),
        ("top_k", {"top_k": 0}),
        ("top_k", {"top_k": 21}),
        ("top_k", {"top_k": 1_000_000}),
        ("tools[1]", {"tools": ["calculator", "Calculator!"]}),
        ("tools[0]", {"tools": ["-", "calculator"]}),
        ("today", {"today": "21.11.2026"}),
        ("today", {"today": "2026-02-30"}),
        ("min_epoch.log_id", {"min_epoch": epoch_pb2.Epoch(log_id="x", sequence=1)}),
        ("sampling.temperature", {"sampling": generator_pb2.Sampling(temperature=2.5)}),
        ("sampling.temperature", {"sampling": generator_pb2.Sampling(temperature=float("nan"))}),
        ("sampling.top_p", {"sampling": generator_pb2.Sampling(top_p=0)}),
        ("resume.turn", {"resume": pb.ChatResume(turn="sessions/s")}),
        ("resume.turn", {"resume": pb.ChatResume(turn="sessions/other/turns/1")}),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_begun(
    tmp_path: Path, field: str, request_fields: dict[str, Any]
) -> None:
    async with house(tmp_path) as h:
        err = await failure(h.first.ask(**request_fields))
        assert err.reason == Reason.INVALID_FIELD
        assert err.field == field
        assert len(err.message) < 400
        assert h.peer.requests == []
        assert (await failure(h.first.stub.GetSession(pb.GetSessionRequest(name="sessions/s"), timeout=5))).reason == (
            Reason.SESSION_NOT_FOUND
        )


async def test_an_unknown_tool_is_named(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        err = await failure(h.first.ask(tools=["teleport"]))
    assert (err.reason, err.metadata["tool"]) == (Reason.TOOL_NOT_FOUND, "teleport")


async def test_a_question_of_a_megabyte_is_refused_shortly(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        err = await failure(h.first.ask("x" * 1_000_000))
        assert (err.reason, err.field) == (Reason.INVALID_FIELD, "question")
        assert (await h.first.ask())[-1].finished.text


async def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(WeftError) as caught:
        async with house(tmp_path):
            pass
    assert caught.value.reason == Reason.STORE_CORRUPT
    assert "sessions.db" in caught.value.message


async def test_two_hundred_turns_at_once_all_end_well(tmp_path: Path) -> None:
    async with house(tmp_path, replicas=2) as h:

        async def ask(h: House, number: int) -> None:
            messages = await h.replicas[number % 2].ask(session=f"sessions/s{number % 50}", timeout=30)
            assert kinds(messages)[0] == "started"
            assert kinds(messages)[-1] == "finished"
            assert text_of(messages) == "It is woven."

        await asyncio.gather(*(ask(h, number) for number in range(200)))

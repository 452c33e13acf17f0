"""GeneratorService on a real wire: what it refuses, what it streams, what it leaves behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2

from tests.support.generator import ask, house
from weft import names
from weft.common.v1 import passage_pb2
from weft.errors import Reason, WeftError, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb

CANCEL_WITHIN_S = 1.0
PASSAGE = passage_pb2.Passage(
    name="collections/c/documents/d/chunks/0",
    text="A session expires after one hour.",
    title="Sessions",
    section="Life",
    page=2,
    source="sessions.md",
)


def user(text: str = "When does a session expire?") -> pb.Message:
    return pb.Message(role=pb.ROLE_USER, content=text)


def asking(*messages: pb.Message, **options: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=messages or (user(),), passages=[PASSAGE], **options)


async def refused(call: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_an_answer_carries_its_citation_across_the_wire() -> None:
    async with house(extractive="extractive:") as h:
        answer = await ask(h, asking())
    assert answer.text == PASSAGE.text
    assert (answer.started.model, answer.started.backend) == ("extractive", "extractive")
    (citation,) = answer.finished.citations
    assert citation.passage == PASSAGE.name
    assert (citation.start_char, citation.end_char, citation.quote) == (0, len(PASSAGE.text), PASSAGE.text)
    assert (citation.title, citation.section, citation.page, citation.source) == ("Sessions", "Life", 2, "sessions.md")


async def test_tools_results_travel_as_messages() -> None:
    call = pb.ToolCall(id="1", name="calculator")
    call.arguments["expression"] = "12 * 7"
    messages = (
        user("What is 12 times 7 and when does a session expire?"),
        pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call]),
        pb.Message(role=pb.ROLE_TOOL, content="12 × 7 = 84.", tool_call_id="1", name="calculator"),
    )
    async with house(extractive="extractive:") as h:
        answer = await ask(h, asking(*messages))
    assert answer.text == f"12 × 7 = 84.\n{PASSAGE.text}"


async def test_abstaining_is_a_finish_reason() -> None:
    async with house(extractive="extractive:") as h:
        answer = await ask(h, asking(user("Who painted the Mona Lisa?")))
        open_to_all = await ask(h, asking(user("Who painted a session?"), grounded_only=False))
    assert answer.finished.reason == pb.FINISH_REASON_ABSTAINED
    assert "no answer" in answer.text
    assert open_to_all.finished.reason == pb.FINISH_REASON_STOP


async def test_models_are_listed_in_fallback_order() -> None:
    async with house(big="scripted:?context_tokens=4096", small="extractive:") as h:
        listed = (await h.stub.ListModels(pb.ListModelsRequest(), timeout=5)).models
    assert [(m.name, m.backend, m.default, m.can_resume, m.context_tokens) for m in listed] == [
        ("big", "scripted", True, True, 4096),
        ("small", "extractive", False, False, 0),
    ]


async def test_a_fallback_is_told() -> None:
    async with house(big="scripted:?fail_after=0", small="extractive:") as h:
        answer = await ask(h, asking())
    assert answer.started.model == "small"
    (degraded,) = answer.finished.degraded
    assert (degraded.stage, degraded.reason, degraded.fallback) == ("generation", "MODEL_UNAVAILABLE", "model:small")


async def test_a_model_that_dies_in_the_middle_ends_the_stream_with_a_status_that_is_not_retried() -> None:
    async with house(big="scripted:?tokens=9&fail_after=3", small="extractive:") as h:
        call = h.stub.Generate(asking(), timeout=5)
        received: list[pb.GenerateResponse] = []

        async def read() -> None:
            async for message in call:
                received.append(message)

        err = await refused(read())
        trailers = dict(await call.trailing_metadata())
    assert "".join(message.delta.text for message in received) == "word1 word2 word3"
    assert err.reason == Reason.MODEL_UNAVAILABLE
    assert trailers[names.METADATA_PUSHBACK] == "-1"


SCHEMA = struct_pb2.Struct()
SCHEMA["type"] = "object"
MANY = 257

REFUSALS = {
    "no messages": (pb.GenerateRequest(), "messages"),
    "too many messages": (pb.GenerateRequest(messages=[user()] * MANY), "messages"),
    "no role": (pb.GenerateRequest(messages=[pb.Message(content="x")]), "messages[0].role"),
    "unheard-of role": (pb.GenerateRequest(messages=[pb.Message(role=99, content="x")]), "messages[0].role"),  # type: ignore[arg-type]
    "empty": (asking(user(""), user("x")), "messages[0].content"),
    "blank": (asking(user(" \n")), "messages[0].content"),
    "control character": (asking(user("a\x00b")), "messages[0].content"),
    "a megabyte": (asking(user("x" * 1_000_000)), "messages[0].content"),
    "a query with a control character": (asking(query="a\x00b"), "query"),
    "a megabyte of a tool's": (
        asking(user(), pb.Message(role=pb.ROLE_TOOL, content="x" * 1_000_000)),
        "messages[1].content",
    ),
    "assistant last": (asking(user(), pb.Message(role=pb.ROLE_ASSISTANT, content="x")), "messages[1].role"),
    "system alone": (asking(pb.Message(role=pb.ROLE_SYSTEM, content="x")), "messages[0].role"),
    "too many passages": (pb.GenerateRequest(messages=[user()], passages=[PASSAGE] * 65), "passages"),
    "long passage": (
        pb.GenerateRequest(messages=[user()], passages=[passage_pb2.Passage(text="x" * 8_193)]),
        "passages[0].text",
    ),
    "hot": (asking(sampling=pb.Sampling(temperature=2.1)), "sampling.temperature"),
    "cold": (asking(sampling=pb.Sampling(temperature=-0.1)), "sampling.temperature"),
    "not a number": (asking(sampling=pb.Sampling(temperature=float("nan"))), "sampling.temperature"),
    "top_p 0": (asking(sampling=pb.Sampling(top_p=0)), "sampling.top_p"),
    "top_k": (asking(sampling=pb.Sampling(top_k=1_001)), "sampling.top_k"),
    "max_tokens 0": (asking(sampling=pb.Sampling(max_tokens=0)), "sampling.max_tokens"),
    "penalty": (asking(sampling=pb.Sampling(presence_penalty=3)), "sampling.presence_penalty"),
    "many stops": (asking(sampling=pb.Sampling(stop=["x"] * 100_000)), "sampling.stop"),
    "empty stop": (asking(sampling=pb.Sampling(stop=["x", ""])), "sampling.stop[1]"),
    "long stop": (asking(sampling=pb.Sampling(stop=["x" * 257])), "sampling.stop[0]"),
    "priority": (asking(priority=10), "priority"),
    "long template": (asking(template=pb.TemplateRef(name="x" * 257)), "template.name"),
    "text of a resumption": (asking(resume=pb.Resume(emitted_chars=3, emitted_text="ab")), "resume.emitted_text"),
    "schema": (asking(response_format=pb.ResponseFormat(json_schema=SCHEMA)), "response_format.json_schema"),
}


@pytest.mark.parametrize(("wanted", "field"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_what_is_wrong_is_refused_by_name_and_the_model_is_not_asked(
    wanted: pb.GenerateRequest, field: str
) -> None:
    async with house(extractive="extractive:") as h:
        err = await refused(ask(h, wanted))
        assert h.models["extractive"].calls == 0
        assert (await ask(h, asking())).text == PASSAGE.text
    assert (err.reason, err.field) == (Reason.INVALID_FIELD, field)
    assert err.message.startswith(field.partition(".json_schema")[0])
    assert len(err.message) < 300


async def test_an_unknown_model_lists_those_there_are() -> None:
    async with house(one="extractive:", two="scripted:") as h:
        err = await refused(ask(h, asking(model="three")))
    assert err.reason == Reason.MODEL_NOT_FOUND
    assert err.metadata["models"] == "one,two"
    assert "one, two" in err.message


async def test_passages_may_hold_whatever_documents_hold() -> None:
    odd = passage_pb2.Passage(name="p", text="\x0cA session expires\x07 after one hour.\x00")
    async with house(extractive="extractive:") as h:
        answer = await ask(h, pb.GenerateRequest(messages=[user()], passages=[odd]))
    assert "after one hour." in answer.text


async def test_a_caller_that_leaves_stops_the_model() -> None:
    async with house(slow="scripted:?tokens=1000&delay_ms=5") as h:
        call = h.stub.Generate(asking(), timeout=30)
        while not (await call.read()).HasField("delta"):
            pass
        left_s = time.perf_counter()
        call.cancel()
        await asyncio.wait_for(h.models["slow"].idle.wait(), CANCEL_WITHIN_S)
        print(f"the model stopped {1e3 * (time.perf_counter() - left_s):.1f} ms after its caller left")
        async with asyncio.timeout(10):
            while h.load.pending or len(h.spans.get_finished_spans()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        server = next(span for span in h.spans.get_finished_spans() if span.kind.name == "SERVER")
    assert server.attributes is not None
    assert server.attributes[names.RPC_STATUS] == "CANCELLED"


@pytest.mark.parametrize("after", [0, 3], ids=["before its first token", "in the middle"])
async def test_a_model_that_hangs_is_stopped_by_the_deadline(after: int) -> None:
    async with house(stuck=f"scripted:?tokens=9&hang_after={after}") as h:
        err = await refused(ask(h, asking(), timeout_s=0.3))
        await asyncio.wait_for(h.models["stuck"].idle.wait(), CANCEL_WITHIN_S)
    assert err.reason == Reason.DEADLINE_EXCEEDED


async def test_deltas_of_a_quick_model_are_gathered() -> None:
    async with house(slow="scripted:?tokens=100&delay_ms=2") as h:
        started_s = time.perf_counter()
        answer = await ask(h, asking())
        elapsed_s = time.perf_counter() - started_s
    assert answer.text.endswith("word100")
    assert answer.deltas[0].text == "word1"
    assert len(answer.deltas) <= 3 + elapsed_s / 0.020


async def test_the_span_tells_what_was_asked_and_spent_but_not_what_was_said() -> None:
    async with house(extractive="extractive:") as h:
        await ask(h, asking(model="extractive"))
        server = next(span for span in h.spans.get_finished_spans() if span.kind.name == "SERVER")
    attributes = dict(server.attributes or {})
    assert attributes[names.GENAI_OPERATION] == "chat"
    assert attributes[names.GENAI_PROVIDER] == "extractive"
    assert attributes[names.GENAI_REQUEST_MODEL] == attributes[names.GENAI_RESPONSE_MODEL] == "extractive"
    assert attributes[names.GENAI_FINISH_REASONS] == ("stop",)
    assert attributes[names.GENAI_INPUT_TOKENS] == 13
    assert attributes[names.GENAI_OUTPUT_TOKENS] == 7
    assert "session" not in str(attributes)

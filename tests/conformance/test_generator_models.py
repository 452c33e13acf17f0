"""What every model does, whatever is behind it. A new backend joins by its URL in MODELS.

Each is asked through the generator's real server on port 0, as callers ask it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from mesh.plugins import Url
from tests.support.generator import Answer, ask, house
from weft.common.v1 import passage_pb2
from weft.errors import Reason, WeftError, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb

PASSAGE = passage_pb2.Passage(
    name="collections/c/documents/d/chunks/0",
    text="The café “Zum Löwen” 🦁 opens at nine each day and closes when its last guest — 最后一位客人 — has left.",
    title="Guide",
)
QUESTION = "When does the café open each day, and when does it close?"


RESUMABLE = {
    "scripted": "scripted:?text=Nine%20o'clock%20🦁%20每天九点%20—%20until%20the%20last%20guest%20has%20left.",
    "scripted-slow": "scripted:?tokens=12&first_delay_ms=20&delay_ms=4",
}
NOT_RESUMABLE = {
    "extractive": "extractive:",
    "scripted-once": "scripted:?tokens=12&resume=false",
}
MODELS = {**RESUMABLE, **NOT_RESUMABLE}
FAILING = {  # the same backends, made to fail before their first token; extractive: can't be
    "scripted": "scripted:?fail_after=0",
}


def each(models: dict[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("url", models.values(), ids=models.keys())


def asking(question: str = QUESTION, **options: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=question)],
        passages=[PASSAGE],
        include_token_ids=True,
        **options,
    )


@each(MODELS)
async def test_a_stream_is_started_deltas_finished_with_a_sequence_without_gaps(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
    kinds = [message.WhichOneof("event") for message in answer.messages]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert len(kinds) >= 3
    assert [message.sequence for message in answer.messages] == list(range(len(kinds)))
    assert all(delta.text for delta in answer.deltas)
    assert answer.started.backend == Url.parse(url).scheme
    assert answer.finished.reason == pb.FINISH_REASON_STOP


@each(MODELS)
async def test_the_same_question_gets_the_same_answer(url: str) -> None:
    async with house(m=url) as h:
        first, second = await ask(h, asking()), await ask(h, asking())
    assert first.text == second.text
    assert first.token_ids == second.token_ids
    assert first.finished == second.finished
    assert first.started.can_repeat == (first.started.backend == "extractive")


@each(MODELS)
async def test_text_survives_in_any_script(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
    assert "\ufffd" not in answer.text
    for citation in answer.finished.citations:
        assert answer.text[citation.start_char : citation.end_char] == citation.quote
        assert citation.quote in PASSAGE.text
        assert citation.passage == PASSAGE.name


@each(MODELS)
async def test_usage_is_counted(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
        longer = await ask(h, asking(QUESTION + " " + QUESTION))
    assert 0 < answer.finished.usage.input_tokens < longer.finished.usage.input_tokens
    assert answer.finished.usage.output_tokens > 0
    if answer.token_ids:
        assert answer.finished.usage.output_tokens == len(answer.token_ids)
        assert answer.finished.usage.input_tokens == len(answer.started.prompt_token_ids)


@each(MODELS)
async def test_token_ids_are_sent_only_when_asked_for(url: str) -> None:
    wanted = asking()
    wanted.include_token_ids = False
    async with house(m=url) as h:
        answer = await ask(h, wanted)
    assert answer.token_ids == []
    assert not answer.started.prompt_token_ids


@pytest.mark.parametrize("limit", [1, 4])
@each(MODELS)
async def test_max_tokens_ends_the_answer(url: str, limit: int) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        cut = await ask(h, asking(sampling=pb.Sampling(max_tokens=limit)))
    assert whole.text.startswith(cut.text)
    assert cut.finished.reason == pb.FINISH_REASON_LENGTH
    assert cut.finished.usage.output_tokens == limit
    assert all(citation.end_char <= len(cut.text) for citation in cut.finished.citations)


@each(MODELS)
async def test_a_limit_that_is_not_reached_changes_nothing(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        same = await ask(h, asking(sampling=pb.Sampling(max_tokens=1_000, stop=["not in it"])))
    assert (same.text, same.finished) == (whole.text, whole.finished)


@each(MODELS)
async def test_the_answer_ends_before_a_stop_string(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        stop = whole.text[7:12]  # not at a token's edge
        cut = await ask(h, asking(sampling=pb.Sampling(stop=["never said", stop])))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finished.reason == pb.FINISH_REASON_STOP


@each(MODELS)
async def test_many_at_once_do_not_mix(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        limits = [1, 2, 3, 4] * 8
        answers = await asyncio.gather(*(ask(h, asking(sampling=pb.Sampling(max_tokens=limit))) for limit in limits))
    for limit, answer in zip(limits, answers, strict=True):
        assert answer.finished.usage.output_tokens == limit
        assert whole.text.startswith(answer.text)


@each(MODELS)
async def test_a_cancelled_call_stops_the_model_within_200_ms(url: str) -> None:
    async with house(m=url) as h:
        call = h.stub.Generate(asking(), timeout=10)
        await call.read()
        call.cancel()
        await asyncio.wait_for(h.models["m"].idle.wait(), 0.2)
        assert (await ask(h, asking())).finished.reason == pb.FINISH_REASON_STOP


def resuming(answer: Answer, tokens: int, chars: int) -> pb.GenerateRequest:
    return asking(
        resume=pb.Resume(
            prompt_token_ids=answer.started.prompt_token_ids,
            output_token_ids=answer.token_ids[:tokens],
            emitted_chars=chars,
        )
    )


def edges(answer: Answer) -> list[tuple[int, int]]:
    """Return after each delta how many tokens and how many code points there were so far."""
    found, tokens, chars = [(0, 0)], 0, 0
    for delta in answer.deltas:
        tokens, chars = tokens + len(delta.token_ids), chars + len(delta.text)
        found.append((tokens, chars))
    return found


async def refused(call: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@each(RESUMABLE)
async def test_a_resumed_answer_equals_the_undisturbed_one(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        assert whole.started.can_resume
        for tokens, chars in edges(whole):
            for missing in {0, min(2, chars)}:  # text whose tokens were computed but that didn't arrive
                rest = await ask(h, resuming(whole, tokens, chars - missing))
                assert whole.text[: chars - missing] + rest.text == whole.text
                assert whole.token_ids[:tokens] + rest.token_ids == whole.token_ids
                assert rest.finished.reason == whole.finished.reason


@each(RESUMABLE)
async def test_a_limit_counts_the_resumed_part(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking(sampling=pb.Sampling(max_tokens=4)))
        tokens, chars = edges(whole)[1]
        wanted = resuming(whole, tokens, chars)
        wanted.sampling.max_tokens = 4
        rest = await ask(h, wanted)
    assert whole.token_ids[:tokens] + rest.token_ids == whole.token_ids
    assert rest.finished.reason == pb.FINISH_REASON_LENGTH


@each(RESUMABLE)
@pytest.mark.parametrize("resume", [pb.Resume(output_token_ids=[1, 2, 3]), pb.Resume(emitted_chars=5)])
async def test_what_cannot_be_this_answers_beginning_is_refused(url: str, resume: pb.Resume) -> None:
    async with house(m=url) as h:
        err = await refused(ask(h, asking(resume=resume)))
    assert err.reason == Reason.INVALID_FIELD
    assert err.field is not None
    assert err.field.startswith("resume.")


@each(NOT_RESUMABLE)
async def test_a_model_that_cannot_resume_says_so(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        assert not whole.started.can_resume
        assert (await refused(ask(h, resuming(whole, 0, 0)))).reason == Reason.RESUME_UNSUPPORTED


@each(FAILING)
async def test_a_failure_before_the_first_token_is_a_status_and_nothing_else(url: str) -> None:
    async with house(m=url) as h:
        call = h.stub.Generate(asking(), timeout=10)
        assert (await refused(call.read())).reason == Reason.MODEL_UNAVAILABLE
        await asyncio.wait_for(h.models["m"].idle.wait(), 0.2)

"""What every model does, whatever is behind it. A new backend joins by its URL in MODELS.

Each is asked through the generator's real server on port 0, as callers ask it. A backend that needs more than a URL
takes the tests from here (`from tests.conformance.test_generator_models import *`), with MODELS and what follows it,
and a `server`, of its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import grpc
import pytest

from mesh.plugins import Url
from tests.support.generator import Answer, ask, house
from tests.support.openai_server import OpenAiServer, openai_server
from tests.support.vllm_grpc_server import VllmGrpcServer, vllm_grpc_server
from weft.common.v1 import passage_pb2
from weft.errors import Reason, WeftError, from_rpc_error
from weft.generator.v1 import generator_pb2 as pb

PASSAGE = passage_pb2.Passage(
    name="collections/c/documents/d/chunks/0",
    text="The café “Zum Löwen” 🦁 opens at nine each day and closes when its last guest — 最后一位客人 — has left.",
    title="Guide",
)
Models: TypeAlias = Mapping[str, str | Callable[[Any], str]]  # the parameter is the fixture of a server
QUESTION = "When does the café open each day, and when does it close?"


def behind_openai(model: str, more: str = "") -> Callable[[OpenAiServer], str]:
    """Return what makes the URL of a scripted model behind a server."""
    return lambda server: server.url(model, more)


SAID = "scripted:?text=Nine%20o'clock%20🦁%20每天九点%20—%20until%20the%20last%20guest%20has%20left."
RESUMABLE: Models = {
    "scripted": SAID,
    "scripted-chat": f"{SAID}&chat=true",
    "scripted-slow": "scripted:?tokens=12&first_delay_ms=20&delay_ms=4",
    "openai-by-ids": behind_openai(SAID, "&resume=token_ids"),
    "vllm+grpc": lambda grpc_server: grpc_server.url(),
}
NOT_RESUMABLE: Models = {
    "extractive": "extractive:",
    "scripted-once": "scripted:?tokens=12&resume=false",
    "openai": behind_openai(SAID),
    "openai-slow": behind_openai("scripted:?tokens=12&first_delay_ms=20&delay_ms=4"),
}
MODELS: Models = {**RESUMABLE, **NOT_RESUMABLE}
FAILING: Models = {  # the same backends, made to fail before their first token; extractive: can't be
    "scripted": "scripted:?fail_after=0",
    "openai": behind_openai("scripted:?fail_after=0"),
    "vllm+grpc": "vllm+grpc://127.0.0.1:1",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test each URL of the kind that it names, of the module that it runs in."""
    kinds = {"url": "MODELS", "resumable": "RESUMABLE", "once": "NOT_RESUMABLE", "failing": "FAILING"}
    for kind, name in kinds.items():
        if kind in metafunc.fixturenames:
            models = getattr(metafunc.module, name)
            metafunc.parametrize(kind, models.values(), ids=models.keys(), indirect=True)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAiServer]:
    with openai_server() as served:
        yield served


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[VllmGrpcServer]:
    with vllm_grpc_server(Url.parse(SAID).query["text"]) as served:
        yield served


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Of a model; its server is started when the first one needs it."""
    given = request.param
    if isinstance(given, str):
        return given
    (wanted,) = inspect.signature(given).parameters
    made: str = given(request.getfixturevalue(wanted))
    return made


resumable = once = failing = url  # of one that can go on, one that can't, one that fails


def asking(question: str = QUESTION, **options: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=question)],
        passages=[PASSAGE],
        include_token_ids=True,
        **options,
    )


def uncached(answer: Answer) -> pb.GenerateFinished:
    """Return an answer's end without the count of what the backend had read before: that is none of the answer."""
    finished = pb.GenerateFinished.FromString(answer.finished.SerializeToString())
    finished.usage.cached_tokens = 0
    return finished


async def test_a_stream_is_started_deltas_finished_with_a_sequence_without_gaps(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
    kinds = [message.WhichOneof("event") for message in answer.messages]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert len(kinds) >= 3
    assert [message.sequence for message in answer.messages] == list(range(len(kinds)))
    assert all(delta.text or delta.token_ids for delta in answer.deltas)
    assert answer.started.backend == Url.parse(url).scheme
    assert answer.finished.reason == pb.FINISH_REASON_STOP


async def test_the_same_question_gets_the_same_answer(url: str) -> None:
    async with house(m=url) as h:
        first, second = await ask(h, asking()), await ask(h, asking())
    assert first.text == second.text
    assert first.token_ids == second.token_ids
    assert uncached(first) == uncached(second)
    assert first.started.can_repeat == (first.started.backend == "extractive")


async def test_text_survives_in_any_script(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
    assert "\ufffd" not in answer.text
    for citation in answer.finished.citations:
        assert answer.text[citation.start_char : citation.end_char] == citation.quote
        assert citation.quote in PASSAGE.text
        assert citation.passage == PASSAGE.name


async def test_usage_is_counted(url: str) -> None:
    async with house(m=url) as h:
        answer = await ask(h, asking())
        longer = await ask(h, asking(QUESTION + " " + QUESTION))
    assert 0 < answer.finished.usage.input_tokens < longer.finished.usage.input_tokens
    assert answer.finished.usage.output_tokens > 0
    if answer.token_ids:
        ended = answer.finished.reason == pb.FINISH_REASON_STOP  # by a token that is none of the text, at most
        assert answer.finished.usage.output_tokens - len(answer.token_ids) in ((0, 1) if ended else (0,))
        assert answer.finished.usage.input_tokens == len(answer.started.prompt_token_ids)


async def test_token_ids_are_sent_only_when_asked_for(url: str) -> None:
    wanted = asking()
    wanted.include_token_ids = False
    async with house(m=url) as h:
        answer = await ask(h, wanted)
    assert answer.token_ids == []
    assert not answer.started.prompt_token_ids


@pytest.mark.parametrize("limit", [1, 4])
async def test_max_tokens_ends_the_answer(url: str, limit: int) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        cut = await ask(h, asking(sampling=pb.Sampling(max_tokens=limit)))
    assert whole.text.startswith(cut.text)
    assert cut.finished.reason == pb.FINISH_REASON_LENGTH
    assert cut.finished.usage.output_tokens == limit
    assert all(citation.end_char <= len(cut.text) for citation in cut.finished.citations)


async def test_a_limit_that_is_not_reached_changes_nothing(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        same = await ask(h, asking(sampling=pb.Sampling(max_tokens=1_000, stop=["not in it"])))
    assert (same.text, uncached(same)) == (whole.text, uncached(whole))


async def test_the_answer_ends_before_a_stop_string(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        stop = whole.text[7:12]  # not at a token's edge
        cut = await ask(h, asking(sampling=pb.Sampling(stop=["never said", stop])))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finished.reason == pb.FINISH_REASON_STOP


async def test_many_at_once_do_not_mix(url: str) -> None:
    async with house(m=url) as h:
        whole = await ask(h, asking())
        limits = [1, 2, 3, 4] * 8
        answers = await asyncio.gather(*(ask(h, asking(sampling=pb.Sampling(max_tokens=limit))) for limit in limits))
    for limit, answer in zip(limits, answers, strict=True):
        assert answer.finished.usage.output_tokens == limit
        assert whole.text.startswith(answer.text)


async def test_a_cancelled_call_stops_the_model_at_once(url: str) -> None:
    async with house(m=url) as h:
        call = h.stub.Generate(asking(), timeout=10)
        await call.read()
        call.cancel()
        await asyncio.wait_for(h.models["m"].idle.wait(), 2)
        assert (await ask(h, asking())).finished.reason == pb.FINISH_REASON_STOP


def resuming(answer: Answer, tokens: int, chars: int) -> pb.GenerateRequest:
    return asking(
        resume=pb.Resume(
            prompt_token_ids=answer.started.prompt_token_ids,
            output_token_ids=answer.token_ids[:tokens],
            emitted_chars=chars,
        )
    )


def edges(answer: Answer, most: int = 10) -> list[tuple[int, int]]:
    """Return after each delta how many tokens and how many code points there were so far; of many, `most`."""
    found, tokens, chars = [(0, 0)], 0, 0
    for delta in answer.deltas:
        tokens, chars = tokens + len(delta.token_ids), chars + len(delta.text)
        found.append((tokens, chars))
    last = len(found) - 1
    return [found[last * at // (most - 1)] for at in range(most)] if last >= most else found


def tokens_of(answer: Answer) -> int:
    """Return what was read and written, together."""
    return int(answer.finished.usage.input_tokens + answer.finished.usage.output_tokens)


async def refused(call: Any) -> WeftError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_resumed_answer_equals_the_undisturbed_one(resumable: str) -> None:
    async with house(m=resumable) as h:
        whole = await ask(h, asking())
        assert whole.started.can_resume
        for tokens, chars in edges(whole):
            for missing in {0, min(2, chars)}:  # text whose tokens were computed but that didn't arrive
                rest = await ask(h, resuming(whole, tokens, chars - missing))
                assert whole.text[: chars - missing] + rest.text == whole.text
                assert whole.token_ids[:tokens] + rest.token_ids == whole.token_ids
                assert rest.finished.reason == whole.finished.reason
                assert tokens_of(rest) == tokens_of(whole)  # what was said before is input now


async def test_a_limit_counts_the_resumed_part(resumable: str) -> None:
    async with house(m=resumable) as h:
        whole = await ask(h, asking(sampling=pb.Sampling(max_tokens=4)))
        tokens, chars = edges(whole)[1]
        wanted = resuming(whole, tokens, chars)
        wanted.sampling.max_tokens = 4
        rest = await ask(h, wanted)
    assert whole.token_ids[:tokens] + rest.token_ids == whole.token_ids
    assert rest.finished.reason == pb.FINISH_REASON_LENGTH


async def test_a_stop_string_is_seen_on_either_side_of_a_break_and_across_it(resumable: str) -> None:
    async with house(m=resumable) as h:
        whole = await ask(h, asking())
        for _, break_at in edges(whole)[1:4]:
            stop = pb.Sampling(stop=[whole.text[max(0, break_at - 2) : break_at + 2]])
            stopped = await ask(h, asking(sampling=stop))
            for tokens, chars in edges(stopped):
                for missing in {0, min(2, chars)}:
                    wanted = resuming(stopped, tokens, chars - missing)
                    wanted.sampling.CopyFrom(stop)
                    rest = await ask(h, wanted)
                    assert stopped.text[: chars - missing] + rest.text == stopped.text
                    assert rest.finished.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize("resume", [pb.Resume(output_token_ids=[1, 2, 3]), pb.Resume(emitted_chars=5)])
async def test_what_cannot_be_this_answers_beginning_is_refused(resumable: str, resume: pb.Resume) -> None:
    async with house(m=resumable) as h:
        err = await refused(ask(h, asking(resume=resume)))
    assert err.reason == Reason.INVALID_FIELD
    assert err.field is not None
    assert err.field.startswith("resume.")


async def test_a_model_that_cannot_resume_says_so(once: str) -> None:
    async with house(m=once) as h:
        whole = await ask(h, asking())
        assert not whole.started.can_resume
        assert (await refused(ask(h, resuming(whole, 0, 0)))).reason == Reason.RESUME_UNSUPPORTED


async def test_a_failure_before_the_first_token_is_a_status_and_nothing_else(failing: str) -> None:
    async with house(m=failing) as h:
        call = h.stub.Generate(asking(), timeout=10)
        assert (await refused(call.read())).reason == Reason.MODEL_UNAVAILABLE
        await asyncio.wait_for(h.models["m"].idle.wait(), 2)

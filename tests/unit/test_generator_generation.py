"""Picking a model, falling back, coalescing, and letting go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import pytest

from services.generator.coalesce import MAX_WAITING_EVENTS, coalesced
from services.generator.generation import PIECES_PER_S, Generator
from services.generator.types import (
    Capabilities,
    End,
    Event,
    Finished,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Prompt,
    Request,
    Resume,
    Role,
    Started,
)
from weft.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, Reason, Unavailable, error
from weft.values import FinishReason, Usage

END = End(FinishReason.STOP, Usage(1, 2))
Step = ModelEvent | float | Exception


class Steps:
    """A model that goes through its steps: events, waits in seconds, errors."""

    def __init__(self, *steps: Step, can_resume: bool = False, json_schema: bool = False) -> None:
        self.capabilities = Capabilities("steps", can_resume=can_resume, json_schema=json_schema)
        self.steps = steps
        self.calls = 0
        self.asked: list[Request] = []
        self.yielded = 0
        self.closed = asyncio.Event()

    async def start(self) -> None: ...

    def load(self) -> ModelLoad:
        return ModelLoad()

    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        self.calls += 1
        self.asked.append(request)
        try:
            for step in self.steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    self.yielded += 1
                    yield step
        finally:
            self.closed.set()


def gone() -> Exception:
    return error(Reason.MODEL_UNAVAILABLE, "the engine died")


def request(**options: object) -> Request:
    return Request(messages=(Message(Role.USER, "Why?"),), **options)  # type: ignore[arg-type]


async def events(generator: Generator, wanted: Request) -> list[Event]:
    return [event async for event in generator.generate(wanted)]


async def pieces(*steps: Step, interval_s: float = 0.025) -> list[str]:
    stream = coalesced(Steps(*steps).generate(request()), lambda: interval_s)
    return [event.text async for event in stream if isinstance(event, Piece)]


def letters(text: str, delay_s: float = 0.0) -> list[Step]:
    return [step for letter in text for step in (delay_s, Piece(letter))]


async def test_the_first_piece_passes_alone_and_the_rest_of_a_quick_answer_at_once() -> None:
    assert await pieces(*letters("abcdef"), END) == ["a", "bcdef"]


async def test_later_pieces_are_gathered_for_an_interval() -> None:
    got = await pieces(*letters("abcdefghijkl", delay_s=0.01), END, interval_s=0.06)
    assert got[0] == "a"
    assert "".join(got) == "abcdefghijkl"
    assert 3 <= len(got) <= 5


async def test_a_piece_that_comes_after_a_long_pause_passes_at_once() -> None:
    stream = coalesced(Steps(Piece("a"), 0.05, Piece("b"), 10.0, Piece("c"), END).generate(request()), lambda: 0.01)
    async with aclosing(stream), asyncio.timeout(10):
        assert [await anext(stream), await anext(stream)] == [Piece("a"), Piece("b")]


async def test_token_ids_are_joined_with_their_pieces() -> None:
    stream = coalesced(
        Steps(Piece("a", (1,)), Piece("b", (2, 3)), Piece("c", (4,)), END).generate(request()), lambda: 0.01
    )
    assert [event async for event in stream] == [Piece("a", (1,)), Piece("bc", (2, 3, 4)), END]


async def test_an_error_comes_after_what_was_said_before_it() -> None:
    stream = coalesced(Steps(*letters("abc"), gone()).generate(request()), lambda: 0.01)
    assert [await anext(stream), await anext(stream)] == [Piece("a"), Piece("bc")]
    with pytest.raises(Unavailable):
        await anext(stream)


async def test_a_reader_that_stops_closes_the_model_before_its_own_close_returns() -> None:
    model = Steps(Piece("a"), 60.0)
    stream = coalesced(model.generate(request()), lambda: 0.01)
    async with aclosing(stream):
        assert await anext(stream) == Piece("a")
    assert model.closed.is_set()


async def test_a_cancelled_reader_closes_the_model() -> None:
    model = Steps(60.0)
    stream = coalesced(model.generate(request()), lambda: 0.01)
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed.is_set()


async def test_a_reader_that_does_not_keep_up_stops_the_model() -> None:
    model = Steps(*[Piece("x")] * (3 * MAX_WAITING_EVENTS), END)
    stream = coalesced(model.generate(request()), lambda: 0.0)
    async with aclosing(stream):
        await anext(stream)
        await asyncio.sleep(0.05)
        assert model.yielded <= MAX_WAITING_EVENTS + 2
        rest = [event async for event in stream]
    assert sum(len(event.text) for event in rest if isinstance(event, Piece)) == 3 * MAX_WAITING_EVENTS - 1
    assert rest[-1] == END


async def test_many_answers_at_once_come_in_larger_pieces_less_often() -> None:
    many = 100
    generator = Generator({"m": Steps(*letters("abcdefghij" * 6, delay_s=0.01), END)})
    began_s = time.monotonic()
    answers = await asyncio.gather(*(events(generator, request()) for _ in range(many)))
    took_s = time.monotonic() - began_s
    counts = [sum(isinstance(event, Piece) for event in answer) for answer in answers]
    assert all("".join(e.text for e in answer if isinstance(e, Piece)) == "abcdefghij" * 6 for answer in answers)
    assert sum(counts) <= 1.5 * PIECES_PER_S * took_s + 3 * many  # one by one, 12 each


async def test_a_model_is_told_how_far_apart_pieces_are() -> None:
    model = Steps(Piece("a"), 60.0)
    generator = Generator({"m": model})
    async with AsyncExitStack() as stack:
        for _ in range(40):
            answer = await stack.enter_async_context(aclosing(generator.generate(request())))
            await anext(answer)
        assert [asked.piece_interval_s for asked in (model.asked[0], model.asked[-1])] == [0.05, 39 / PIECES_PER_S]
    async with aclosing(generator.generate(request())) as answer:
        assert isinstance(await anext(answer), Started)
    assert model.asked[-1].piece_interval_s == 0.05  # those who left don't count


async def test_an_answer_is_started_pieces_finished() -> None:
    model = Steps(Prompt((7, 8)), Piece("a"), END)
    assert await events(Generator({"m": model}), request()) == [
        Started("m", model.capabilities, (7, 8)),
        Piece("a"),
        Finished(END),
    ]


async def test_an_answer_without_text_still_starts() -> None:
    got = await events(Generator({"m": Steps(END)}), request())
    assert [type(event) for event in got] == [Started, Finished]


async def test_nothing_is_said_before_the_first_piece_is_there() -> None:
    stream = Generator({"m": Steps(Prompt((1,)), 60.0, Piece("a"), END)}).generate(request())
    async with aclosing(stream):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)


async def test_the_first_model_is_the_default() -> None:
    generator = Generator({"one": Steps(Piece("1"), END), "two": Steps(Piece("2"), END)})
    assert [(info.name, info.default) for info in generator.models()] == [("one", True), ("two", False)]
    assert Piece("1") in await events(generator, request())
    assert Piece("2") in await events(generator, request(model="two"))


async def test_an_unknown_model_is_an_error_that_lists_those_there_are() -> None:
    generator = Generator({"one": Steps(END), "two": Steps(END)})
    with pytest.raises(NotFound, match="there is no model 'three'; there are: one, two") as caught:
        await events(generator, request(model="three"))
    assert caught.value.reason == Reason.MODEL_NOT_FOUND
    assert caught.value.metadata["models"] == "one,two"


async def test_the_next_models_in_order_answer_when_one_fails_before_its_first_piece() -> None:
    models = {"a": Steps(Piece("a"), END), "b": Steps(gone()), "c": Steps(0.0, gone()), "d": Steps(Piece("d"), END)}
    got = await events(Generator(models), request(model="b"))
    assert got[0] == Started("d", models["d"].capabilities)
    finished = got[-1]
    assert isinstance(finished, Finished)
    assert [(item.stage, item.reason, item.fallback) for item in finished.degraded] == [
        ("generation", "MODEL_UNAVAILABLE", "model:c"),
        ("generation", "MODEL_UNAVAILABLE", "model:d"),
    ]
    assert models["a"].calls == 0


async def test_there_is_no_way_back_after_the_first_piece() -> None:
    models = {"a": Steps(Piece("a"), gone()), "b": Steps(Piece("b"), END)}
    with pytest.raises(Unavailable):
        await events(Generator(models), request())
    assert models["b"].calls == 0


async def test_the_last_model_has_nobody_to_fall_back_to() -> None:
    with pytest.raises(Unavailable, match="the engine died"):
        await events(Generator({"a": Steps(gone()), "b": Steps(gone())}), request())


@pytest.mark.parametrize("failure", [error(Reason.CONTEXT_TOO_LONG, "too long"), error(Reason.INVALID_FIELD, "no")])
async def test_a_request_that_is_wrong_is_not_tried_elsewhere(failure: Exception) -> None:
    models = {"a": Steps(failure), "b": Steps(Piece("b"), END)}
    with pytest.raises(InvalidArgument):
        await events(Generator(models), request())
    assert models["b"].calls == 0


async def test_resuming_needs_a_model_that_can() -> None:
    models = {"a": Steps(gone(), can_resume=True), "b": Steps(Piece("b"), END)}
    with pytest.raises(FailedPrecondition) as caught:
        await events(Generator(models), request(model="b", resume=Resume((), (1,), 0)))
    assert caught.value.reason == Reason.RESUME_UNSUPPORTED


async def test_an_answer_is_resumed_by_its_own_model_or_not_at_all() -> None:
    models = {"a": Steps(gone(), can_resume=True), "b": Steps(Piece("b"), END, can_resume=True)}
    with pytest.raises(Unavailable):
        await events(Generator(models), request(resume=Resume((), (1,), 0)))
    assert models["b"].calls == 0


async def test_a_schema_needs_a_model_that_can_keep_to_it_and_falls_back_only_to_such() -> None:
    models = {"a": Steps(gone(), json_schema=True), "b": Steps(END), "c": Steps(Piece("{}"), END, json_schema=True)}
    got = await events(Generator(models), request(json_schema={"type": "object"}))
    assert isinstance(got[0], Started)
    assert got[0].model == "c"
    with pytest.raises(InvalidArgument, match="these can: a, c") as caught:
        await events(Generator(models), request(model="b", json_schema={"type": "object"}))
    assert caught.value.field == "response_format.json_schema"


async def test_a_model_that_ends_without_a_word_is_a_defect() -> None:
    with pytest.raises(Internal):
        await events(Generator({"a": Steps(Piece("a"))}), request())


@pytest.mark.parametrize("steps", [(60.0,), (Piece("a"), 60.0)], ids=["before its first piece", "in the middle"])
async def test_a_caller_that_leaves_stops_the_model_at_once(steps: Sequence[Step]) -> None:
    model = Steps(*steps)
    task = asyncio.create_task(events(Generator({"m": model}), request()))
    await asyncio.sleep(0.02)
    task.cancel()
    started_s = asyncio.get_running_loop().time()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed.is_set()
    assert asyncio.get_running_loop().time() - started_s < 5


async def test_a_thousand_cancelled_answers_leave_no_task_behind() -> None:
    generator = Generator({"m": Steps(Piece("a"), 60.0)})
    before = len(asyncio.all_tasks())
    for _ in range(1_000):
        async with aclosing(generator.generate(request())) as stream:
            assert isinstance(await anext(stream), Started)
    assert len(asyncio.all_tasks()) == before

"""How long an answer is expected to take: a model's measured pace, and an estimate of the work."""

from __future__ import annotations

import asyncio

import pytest

from services.generator.admission.pace import Pace
from services.generator.admission.work import Work, estimate
from services.generator.types import (
    Message,
    Request,
    Resume,
    Role,
    Sampling,
)
from tests.support.admission import Held, admitted, answer, gate, request
from weft.values import Passage


def test_the_pace_is_the_mean_at_first_and_follows_changes_later() -> None:
    pace = Pace()
    for seconds in (1.0, 2.0, 3.0):
        pace.finished(seconds, 100, 50)
    assert pace.answer_s == pytest.approx(2.0)
    for _ in range(100):
        pace.finished(8.0, 100, 50)
    assert pace.answer_s == pytest.approx(8.0, rel=0.05)
    assert pace.service_s(25) == pytest.approx(pace.answer_s / 2), "max_tokens ends it half way"
    assert pace.service_s(5_000) == pace.answer_s, "and doesn't make it longer than they are"


def test_answers_that_are_left_only_make_the_pace_slower() -> None:
    pace = Pace()
    pace.left(3.0)
    assert pace.answer_s == 3.0
    pace.finished(1.0, 100, 50)
    assert pace.answer_s == 1.0, "the first whole answer is better knowledge"
    pace.left(0.5)
    assert pace.answer_s == 1.0
    pace.left(2.0)
    assert pace.answer_s > 1.0


async def test_an_answer_that_is_left_after_long_makes_the_pace_slower() -> None:
    held = Held()
    door = gate(1)
    door.pace.finished(0.001, 100, 50)
    model, _ = admitted(held, door)
    left = asyncio.create_task(answer(model, request()))
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    assert door.pace.answer_s > 0.002


def test_the_estimate_counts_what_the_model_reads() -> None:
    text = "a" * 4_000
    wanted = Request(
        (Message(Role.SYSTEM, text), Message(Role.USER, "龍" * 400)),
        passages=(Passage("p", text),),
        sampling=Sampling(max_tokens=300),
    )
    work = estimate(wanted, Pace(), reads_passages=False)
    assert (work.prompt_tokens, work.output_tokens) == (1_000 + 300 + 8, 300)
    assert estimate(wanted, Pace(), reads_passages=True).prompt_tokens == 2_000 + 300 + 8


def test_an_answer_without_bound_is_expected_to_be_as_long_as_the_others() -> None:
    pace = Pace()
    assert estimate(request(max_tokens=None), pace, reads_passages=False).output_tokens == 256
    pace.finished(1.0, 100, 40)
    assert estimate(request(max_tokens=None), pace, reads_passages=False).output_tokens == 40


def test_what_a_resumed_answer_has_said_is_read_and_not_written_again() -> None:
    resumed = Request(
        (Message(Role.USER, "What is it?"),),
        sampling=Sampling(max_tokens=100),
        resume=Resume((1, 2), tuple(range(60)), 200),
    )
    assert estimate(resumed, Pace(), reads_passages=False) == Work(2 + 4 + 60, 40)

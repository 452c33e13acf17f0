"""Usage, cost and spans of answers that go over the wire, whole or broken off."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from services.generator.prices import Price
from services.orchestrator.peers.generator import GeneratorPeer
from services.orchestrator.types import GenerationFinished, Prompt
from tests.support.generator import House, ask, house
from weft import names
from weft.common.v1 import passage_pb2
from weft.generator.v1 import generator_pb2 as pb
from weft.values import Usage

PRICES = {"m": Price(Decimal(2), Decimal(1), Decimal(10), "EUR")}
SECRET = "marzipan"


def asking() -> pb.GenerateRequest:
    return pb.GenerateRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=f"When does the {SECRET} shop open?")],
        passages=[passage_pb2.Passage(name="p", text=f"The {SECRET} shop opens at nine.")],
    )


def answers(h: House, outcome: str) -> float:
    labels = {"tenant": "default", "model": "m", "outcome": outcome}
    return h.registry.get_sample_value("weft_generator_answers_total", labels) or 0.0


async def test_the_cost_of_an_answer_reaches_the_orchestrator() -> None:
    async with house(None, PRICES, m="scripted:?tokens=5") as h:
        events = [event async for event in GeneratorPeer(h.channel).generate(Prompt("When does it open?"))]
    end = events[-1]
    assert isinstance(end, GenerationFinished)
    assert end.usage == Usage(5, 5, 0, 5 * 2 + 5 * 10, "EUR")


async def test_no_word_of_prompt_or_answer_is_on_any_span_by_default() -> None:
    for url in ("extractive:", f"scripted:?chat=true&text=The%20{SECRET}%20shop%20[1]."):
        async with house(m=url) as h:
            assert SECRET in (await ask(h, asking())).text
        spans = h.spans.get_finished_spans()
        assert any(names.GENAI_OUTPUT_TOKENS in (span.attributes or {}) for span in spans)
        assert not any(SECRET in span.to_json() for span in spans)


async def test_words_are_on_the_servers_span_where_the_operator_wants_them() -> None:
    async with house(None, None, True, m="extractive:") as h:
        await ask(h, asking())
    (told,) = (span for span in h.spans.get_finished_spans() if SECRET in span.to_json())
    assert {names.GENAI_INPUT_MESSAGES, names.GENAI_OUTPUT_MESSAGES} <= set(told.attributes or {})


async def test_an_answer_whose_caller_went_away_is_accounted_and_on_the_span() -> None:
    async with house(None, PRICES, m="scripted:?tokens=9&hang_after=3") as h:
        call = h.stub.Generate(asking(), timeout=10)
        text = ""
        while len(text.split()) < 3:
            text += (await call.read()).delta.text
        call.cancel()
        await asyncio.wait_for(h.models["m"].idle.wait(), 5)
        for _ in range(500):
            found = [span.attributes or {} for span in h.spans.get_finished_spans()]
            if answers(h, "cancelled") and any(names.COST_MICROS in attributes for attributes in found):
                break
            await asyncio.sleep(0.01)
    assert [attributes[names.GENAI_OUTPUT_TOKENS] for attributes in found if names.COST_MICROS in attributes] == [3]
    labels = {"tenant": "default", "model": "m", "type": "output"}
    assert h.registry.get_sample_value("weft_generator_tokens_total", labels) == 3

"""What an answer took: tokens, money, time; whole, broken off, or from the cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from prometheus_client import CollectorRegistry

from mesh.settings import load, masked
from services.generator.accounting import MAX_TENANTS, Accounts
from services.generator.prices import Price, whole
from services.generator.settings import Settings
from services.generator.types import (
    Capabilities,
    End,
    Message,
    ModelEvent,
    ModelLoad,
    Piece,
    Prompt,
    Request,
    Resume,
    Role,
    ToolCall,
)
from weft import names
from weft.errors import Reason, WeftError, error
from weft.values import FinishReason, Passage, Usage

PRICE = Price(Decimal("2.5"), Decimal("1.25"), Decimal("10"), "EUR")
END = End(FinishReason.STOP, Usage(1_000, 200, 400))
SECRET = "the cat's name is Mitzi"


class Steps:
    """A model that goes through its steps: events, waits in seconds, errors."""

    capabilities = Capabilities("steps")

    def __init__(self, *steps: ModelEvent | float | Exception) -> None:
        self.steps = steps
        self.closed = asyncio.Event()

    async def start(self) -> None: ...

    def load(self) -> ModelLoad:
        return ModelLoad(running=7)

    async def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        try:
            for step in self.steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed.set()


class Books:
    """Accounts with a registry of their own."""

    def __init__(self, *, priced: bool = True, record_content: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.accounts = Accounts(self.registry, {"m": PRICE} if priced else None, record_content=record_content)

    async def ask(self, *steps: ModelEvent | float | Exception, tenant: str = "acme") -> list[ModelEvent]:
        return [event async for event in self.accounts.around("m", Steps(*steps)).generate(request(tenant))]

    def value(self, name: str, tenant: str = "acme", **labels: str) -> float:
        return self.registry.get_sample_value(name, {"tenant": tenant, "model": "m", **labels}) or 0.0

    def tokens(self, tenant: str = "acme") -> tuple[float, float, float]:
        kinds = ("input", "cached_input", "output")
        read, cached, written = (self.value("weft_generator_tokens_total", tenant, type=kind) for kind in kinds)
        return read, cached, written

    def answers(self, outcome: str) -> float:
        return self.value("weft_generator_answers_total", outcome=outcome)

    @property
    def cost(self) -> float:
        return self.value("weft_generator_cost_total", currency="EUR")

    def observed(self, name: str) -> float:
        labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "steps", "gen_ai_response_model": "m"}
        return self.registry.get_sample_value(f"{name}_count", labels) or 0.0


def request(tenant: str = "acme") -> Request:
    tool = (ToolCall("1", "clock", {"zone": SECRET}),)
    messages = (
        Message(Role.SYSTEM, f"Know that {SECRET}."),
        Message(Role.USER, f"What is {SECRET}?"),
        Message(Role.ASSISTANT, "", tool),
        Message(Role.TOOL, SECRET, tool_call_id="1", name="clock"),
    )
    return Request(messages, passages=(Passage("p", "Four words of it."),), tenant=tenant)


def gone(reason: Reason = Reason.MODEL_UNAVAILABLE) -> WeftError:
    return error(reason, "no")


@contextmanager
def spanned() -> Iterator[list[ReadableSpan]]:
    """Run within a span; it is in the list when it has ended."""
    found: list[ReadableSpan] = []
    with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
        yield found
    assert isinstance(span, ReadableSpan)
    found.append(span)


async def test_an_answer_carries_its_cost_and_the_books_agree() -> None:
    books = Books()
    *_, end = await books.ask(Prompt((1, 2)), Piece("a"), END)
    assert isinstance(end, End)
    # (600 × 2.5 + 400 × 1.25 + 200 × 10) millionths
    assert end.usage == Usage(1_000, 200, 400, 4_000, "EUR")
    assert books.tokens() == (1_000, 400, 200)
    assert books.answers("stop") == 1
    assert books.cost == 0.004


async def test_a_resumed_answer_costs_its_caller_what_the_undisturbed_one_would() -> None:
    books = Books()
    resumed = replace(request(), resume=Resume(tuple(range(600)), tuple(range(400)), 0))
    steps = Prompt((1, 2)), Piece("a"), END
    *_, end = [event async for event in books.accounts.around("m", Steps(*steps)).generate(resumed)]
    assert isinstance(end, End)
    # 200 × 2.5 + 400 × 1.25 + 600 × 10: of the 1,000 that were read 400 had been written before
    assert end.usage == Usage(1_000, 200, 400, 7_000, "EUR")
    assert books.cost == 0.004
    assert books.tokens() == (1_000, 400, 200)


async def test_a_chat_model_that_says_there_is_no_answer_has_abstained() -> None:
    books = Books()
    await books.ask(Piece("The documents hold no answer"), Piece(" to this question."), END)
    assert (books.answers("abstained"), books.answers("stop")) == (1, 0)


async def test_a_model_without_a_price_costs_nothing_and_names_no_currency() -> None:
    books = Books(priced=False)
    *_, end = await books.ask(Piece("a"), END)
    assert end == END
    assert books.tokens() == (1_000, 400, 200)
    assert books.cost == 0


async def test_sums_of_money_stay_exact() -> None:
    registry = CollectorRegistry()
    accounts = Accounts(registry, {"m": Price(Decimal("0.1"), Decimal("0.1"), Decimal("0.1"), "EUR")})
    model = accounts.around("m", Steps(Piece("a"), End(FinishReason.STOP, Usage(1, 0))))
    for _ in range(1_000):
        async for event in model.generate(request()):
            assert not isinstance(event, End) or event.usage.cost_micros == 0  # a tenth of a millionth
    labels = {"tenant": "acme", "model": "m", "currency": "EUR"}
    assert registry.get_sample_value("weft_generator_cost_total", labels) == 0.0001


async def test_what_came_from_the_cache_costs_nothing_and_is_counted_apart() -> None:
    books = Books()
    cached = End(FinishReason.STOP, Usage(1_000, 200, 1_000, 77), cached=True)
    *_, end = await books.ask(Piece("a"), cached)
    assert isinstance(end, End)
    assert (end.usage.cost_micros, end.usage.input_tokens) == (0, 1_000)
    assert books.tokens() == (0, 0, 0)
    assert (books.answers("cached"), books.answers("stop"), books.cost) == (1, 0, 0)
    assert books.observed("gen_ai_server_time_to_first_token_seconds") == 0


async def test_a_cancelled_answer_is_accounted_with_what_was_produced() -> None:
    books, model = Books(), Steps(Prompt((1, 2, 3)), Piece("ab", (7, 8)), Piece("c", (9,)), 60.0, END)
    stream = books.accounts.around("m", model).generate(request())
    with spanned() as spans:
        async with aclosing(stream):
            for _ in range(3):
                await anext(stream)
    assert model.closed.is_set()
    assert books.tokens() == (3, 0, 3)
    assert books.answers("cancelled") == 1
    assert books.cost == pytest.approx(0.0000375)
    attributes = spans[0].attributes or {}
    assert (attributes[names.GENAI_INPUT_TOKENS], attributes[names.GENAI_OUTPUT_TOKENS]) == (3, 3)
    assert attributes[names.COST_MICROS] == 38


async def test_a_cancelled_task_is_accounted_too() -> None:
    books = Books()
    task = asyncio.create_task(books.ask(Piece("one two"), 60.0, END))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert books.answers("cancelled") == 1
    assert books.tokens()[2] == 2  # no token ids: counted by the text


async def test_a_failure_in_the_middle_is_accounted_with_what_was_produced() -> None:
    books = Books()
    with pytest.raises(WeftError):
        await books.ask(Piece("one two three"), gone())
    read, _, written = books.tokens()
    assert (read > 20, written, books.answers("failed")) == (True, 3, 1)


@pytest.mark.parametrize(("reason", "outcome"), [(Reason.OVERLOADED, "refused"), (Reason.MODEL_UNAVAILABLE, "failed")])
async def test_what_never_began_costs_nothing(reason: Reason, outcome: str) -> None:
    books = Books()
    with pytest.raises(WeftError):
        await books.ask(gone(reason))
    assert books.tokens() == (0, 0, 0)
    assert books.answers(outcome) == 1


async def test_a_model_that_ends_without_an_end_has_failed() -> None:
    books = Books()
    await books.ask(Piece("a"))
    assert books.answers("failed") == 1


async def test_a_reader_that_leaves_at_the_end_has_had_a_whole_answer() -> None:
    books = Books()
    stream = books.accounts.around("m", Steps(Piece("a"), END)).generate(request())
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, End):
                break
    assert (books.answers("stop"), books.answers("cancelled")) == (1, 0)


async def test_tenants_beyond_the_bound_are_counted_together() -> None:
    books = Books()
    for number in range(MAX_TENANTS + 20):
        await books.ask(Piece("a"), END, tenant=f"t{number}")
    await books.ask(Piece("a"), END, tenant="t0")
    assert books.tokens("t0")[2] == 400
    assert books.tokens(f"t{MAX_TENANTS - 1}")[2] == 200
    assert books.tokens(f"t{MAX_TENANTS}")[2] == 0
    assert books.tokens("other")[2] == 20 * 200


async def test_the_first_token_and_the_later_ones_are_timed() -> None:
    books = Books()
    with spanned() as spans:
        await books.ask(0.02, Piece("a"), Piece("b"), END)
    assert books.observed("gen_ai_server_time_to_first_token_seconds") == 1
    assert books.observed("gen_ai_server_time_per_output_token_seconds") == 1
    waited_s = (spans[0].attributes or {})[names.GENAI_FIRST_CHUNK]
    assert isinstance(waited_s, float)
    assert 0.02 <= waited_s < 5


async def test_no_words_are_on_spans_unless_the_operator_wants_them() -> None:
    with spanned() as spans:
        await Books().ask(Piece(SECRET), END)
    assert SECRET not in str(spans[0].attributes)
    with spanned() as spans:
        await Books(record_content=True).ask(Piece("It is "), Piece(SECRET), END)
    attributes: Any = spans[0].attributes
    assert json.loads(attributes[names.GENAI_OUTPUT_MESSAGES]) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": f"It is {SECRET}"}],
            "finish_reason": "stop",
        }
    ]
    assert json.loads(attributes[names.GENAI_SYSTEM_INSTRUCTIONS]) == [
        {"type": "text", "content": f"Know that {SECRET}."}
    ]
    user, assistant, tool = json.loads(attributes[names.GENAI_INPUT_MESSAGES])
    assert user == {"role": "user", "parts": [{"type": "text", "content": f"What is {SECRET}?"}]}
    assert assistant["parts"][0]["name"] == "clock"
    assert tool == {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": SECRET}]}


async def test_outside_of_a_span_nothing_is_described() -> None:
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert (await Books(record_content=True).ask(Piece("a"), END))[0] == Piece("a")


def test_the_wrapped_models_word_is_given_on() -> None:
    model = Books().accounts.around("m", Steps())
    assert model.capabilities is Steps.capabilities
    assert model.load() == ModelLoad(running=7)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.decimals(0, 100, places=6))
def test_a_cost_is_never_negative_and_rounds_by_half_a_millionth(
    read: int, written: int, cached: int, p: Decimal
) -> None:
    micros = Price(p, p, p, "EUR").micros(Usage(read, written, cached))
    assert micros == (read + written) * p
    assert abs(whole(micros) - micros) <= Decimal("0.5")


# -- the price table ------------------------------------------------------------------------------------------


def settings(monkeypatch: pytest.MonkeyPatch, prices: str) -> Settings:
    monkeypatch.setenv("WEFT_GENERATOR__MODELS", '{"a": "extractive:", "b": "extractive:"}')
    monkeypatch.setenv("WEFT_GENERATOR__PRICES", prices)
    return load(Settings)


def test_a_price_table_is_read_to_the_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, '{"a": {"input": 0.1, "output": 3, "currency": "USD"}}')
    assert found.generator.prices == {"a": Price(Decimal("0.1"), Decimal("0.1"), Decimal(3), "USD")}
    assert json.loads(json.dumps(masked(found)))["generator"]["prices"]["a"]["input"] == "0.1"
    assert found.generator.record_content is False


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        ("a=1", "is no JSON object"),
        ("[]", "is no JSON object"),
        ('{"a": 1}', "a: is no object"),
        ('{"a": {"input": 1, "currency": "USD"}}', "a: output is missing"),
        ('{"a": {"input": 1, "output": 1}}', "a: currency is ''"),
        ('{"a": {"input": 1, "output": 1, "currency": "usd"}}', "a: currency is 'usd'"),
        ('{"a": {"input": -1, "output": 1, "currency": "USD"}}', "a: input is -1; allowed is"),
        ('{"a": {"input": NaN, "output": 1, "currency": "USD"}}', "a: input is nan; allowed is"),
        ('{"a": {"input": 1e99999999, "output": 1, "currency": "USD"}}', "a: input is 1E"),
        ('{"a": {"input": 1e-99, "output": 1, "currency": "USD"}}', "allowed are 12 digits"),
        ('{"a": {"input": "1", "output": 1, "currency": "USD"}}', "a: input is 1; allowed is a number"),
        ('{"a": {"price": 1, "output": 1, "currency": "USD"}}', "'price' is no part of a price"),
        ('{"c": {"input": 1, "output": 1, "currency": "USD"}}', "there is no model 'c'; there are: a, b"),
        (
            '{"a": {"input": 1, "output": 1, "currency": "USD"}, "b": {"input": 1, "output": 1, "currency": "EUR"}}',
            "several currencies",
        ),
    ],
)
def test_a_price_table_that_cannot_be_meant_is_refused(
    prices: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeftError) as caught:
        settings(monkeypatch, prices)
    assert problem in caught.value.message

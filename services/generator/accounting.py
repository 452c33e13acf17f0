"""Accounts for every answer: tokens, cost, time to the first token; on the call's span and in the metrics.

    accounted( cached( admitted( guarded( backend ) ) ) )       the outermost: it sees what the caller gets

An answer that ends is accounted by the usage its model reports. One that is broken off, by the caller or by a failure,
is accounted by what was produced: token ids where the model gives them, else Weft's own count of the text; nothing
where nothing had come yet. What came from the cache costs nothing and adds no tokens.

Costs go by the price table (prices.py): exact in the sums that /metrics shows, rounded to a millionth in an answer's
usage. Of a resumed answer /metrics has what was read and written this time, its usage the cost of the whole. Label
values are bounded: models are the operator's, and of tenants the first MAX_TENANTS are told apart, all others together
are "other".

    weft_generator_answers_total{tenant, model, outcome}    stop, length, abstained, tool_calls, cached, cancelled,
                                                            refused (too much at once), failed
    weft_generator_tokens_total{tenant, model, type}        input (cached_input is a part of it), cached_input, output
    weft_generator_cost_total{tenant, model, currency}      in the currency
    gen_ai_server_time_to_first_token_seconds, gen_ai_server_time_per_output_token_seconds     histograms by model,
                                                            of whole answers that a model made
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.generator.citing import reason_of
from services.generator.ports import Model
from services.generator.prices import Price, whole
from services.generator.text.tokens import count
from services.generator.types import (
    End,
    Message,
    ModelEvent,
    Piece,
    Prompt,
    Request,
    Resume,
    Role,
)
from services.generator.wrapper import Wrapper
from weft import names
from weft.errors import ResourceExhausted
from weft.values import Usage

MAX_TENANTS: Final = 100
OTHER: Final = "other"
# OpenTelemetry's advice for these two.
_FIRST_BUCKETS_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_EACH_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_LABELS: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")


@dataclass(slots=True)
class _Sums:
    """Of one tenant with one model."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    micros: Decimal = Decimal(0)
    outcomes: dict[str, int] = field(default_factory=dict)


class Accounts(Collector):
    """What all models of a process have used."""

    def __init__(
        self, registry: CollectorRegistry, prices: Mapping[str, Price] | None = None, *, record_content: bool = False
    ) -> None:
        """Show the sums in `registry`. With `record_content` prompts and answers are put on spans."""
        self._prices = dict(prices or {})
        self._record_content = record_content
        self._tenants: set[str] = set()
        self._sums: dict[tuple[str, str], _Sums] = {}
        self._first = Histogram(
            names.METRIC_FIRST_TOKEN, "Time to the first token", _LABELS, buckets=_FIRST_BUCKETS_S, registry=registry
        )
        self._each = Histogram(
            names.METRIC_EACH_TOKEN, "Time per later token", _LABELS, buckets=_EACH_BUCKETS_S, registry=registry
        )
        registry.register(self)

    def around(self, name: str, model: Model) -> Accounted:
        """The model, accounted under its name."""
        labels = ("chat", model.capabilities.backend, name)
        return Accounted(
            name, model, self, self._prices.get(name), self._record_content,
            self._first.labels(*labels), self._each.labels(*labels),
        )  # fmt: skip

    def add(self, tenant: str, model: str, outcome: str, usage: Usage, micros: Decimal) -> None:
        """Count one answer."""
        if tenant not in self._tenants:
            if len(self._tenants) < MAX_TENANTS:
                self._tenants.add(tenant)
            else:
                tenant = OTHER
        sums = self._sums.get((tenant, model))
        if sums is None:
            sums = self._sums[tenant, model] = _Sums()
        sums.outcomes[outcome] = sums.outcomes.get(outcome, 0) + 1
        sums.input_tokens += usage.input_tokens
        sums.cached_tokens += usage.cached_tokens
        sums.output_tokens += usage.output_tokens
        sums.micros += micros

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        answers = CounterMetricFamily(
            names.METRIC_ANSWERS, "Answers, by how they ended", labels=("tenant", "model", "outcome")
        )
        tokens = CounterMetricFamily(names.METRIC_TOKENS, "Tokens read and written", labels=("tenant", "model", "type"))
        cost = CounterMetricFamily(names.METRIC_COST, "Cost by the price table", labels=("tenant", "model", "currency"))
        for (tenant, model), sums in list(self._sums.items()):
            for outcome, number in list(sums.outcomes.items()):
                answers.add_metric((tenant, model, outcome), number)
            tokens.add_metric((tenant, model, "input"), sums.input_tokens)
            tokens.add_metric((tenant, model, "cached_input"), sums.cached_tokens)
            tokens.add_metric((tenant, model, "output"), sums.output_tokens)
            if (price := self._prices.get(model)) is not None:
                cost.add_metric((tenant, model, price.currency), float(sums.micros / 1_000_000))
        yield from (answers, tokens, cost)


class Accounted(Wrapper):
    """A model whose answers are accounted for."""

    def __init__(
        self,
        name: str,
        model: Model,
        accounts: Accounts,
        price: Price | None,
        record_content: bool,
        first: Histogram,
        each: Histogram,
    ) -> None:
        super().__init__(model)
        self._name = name
        self._accounts = accounts
        self._price = price
        self._record_content = record_content
        self._first = first
        self._each = each

    async def generate(self, request: Request) -> AsyncGenerator[ModelEvent, None]:
        """Answer, and account for it."""
        begun_s = time.perf_counter()
        first_s: float | None = None
        prompt: Prompt | None = None
        said: list[Piece] = []
        outcome = "cancelled"
        try:
            async with aclosing(self._model.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Piece):
                        if first_s is None:
                            first_s = time.perf_counter()
                        said.append(event)
                    elif isinstance(event, Prompt):
                        prompt = event
                    else:
                        outcome = ""  # accounted here, before the caller can go
                        event = self._whole(request, event, said, begun_s, first_s)
                    yield event
            outcome = outcome and "failed"  # it ended without an End
        except Exception as err:
            outcome = "refused" if isinstance(err, ResourceExhausted) else "failed"
            raise
        finally:
            if outcome:
                self._broken_off(request, outcome, prompt, said, first_s and first_s - begun_s)

    def _whole(self, request: Request, end: End, said: list[Piece], begun_s: float, first_s: float | None) -> End:
        first_wait_s = first_s and first_s - begun_s
        reason = end.reason
        if not self.capabilities.reads_passages:
            reason = reason_of(end, "".join(piece.text for piece in said), request)
        if end.cached:
            usage = replace(end.usage, cost_micros=0)
            self._accounts.add(request.tenant, self._name, "cached", Usage(), Decimal(0))
        else:
            usage, micros = self._priced(end.usage)
            self._accounts.add(request.tenant, self._name, reason.value, usage, micros)
            if first_s is not None and first_wait_s is not None:
                self._first.observe(first_wait_s)
                if usage.output_tokens > 1:
                    self._each.observe((time.perf_counter() - first_s) / (usage.output_tokens - 1))
        self._describe(request, usage, said, first_wait_s, reason.value)
        if request.resume is not None and self._price is not None:
            # The caller pays for one answer, not for what it took to go on with it.
            usage = replace(usage, cost_micros=whole(self._price.micros(_undisturbed(usage, request.resume))))
        return end if usage is end.usage else replace(end, usage=usage)

    def _broken_off(
        self, request: Request, outcome: str, prompt: Prompt | None, said: list[Piece], first_wait_s: float | None
    ) -> None:
        usage, micros = self._priced(_produced(request, prompt, said))
        self._accounts.add(request.tenant, self._name, outcome, usage, micros)
        if prompt is not None or said:
            self._describe(request, usage, said, first_wait_s, outcome)

    def _priced(self, usage: Usage) -> tuple[Usage, Decimal]:
        if self._price is None:
            return usage, Decimal(0)
        micros = self._price.micros(usage)
        return replace(usage, cost_micros=whole(micros), currency=self._price.currency), micros

    def _describe(
        self, request: Request, usage: Usage, said: list[Piece], first_wait_s: float | None, finish: str
    ) -> None:
        """Put it on the call's span; words only where the operator wants that."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        found: dict[str, AttributeValue] = {
            names.GENAI_INPUT_TOKENS: usage.input_tokens,
            names.GENAI_OUTPUT_TOKENS: usage.output_tokens,
        }
        if usage.cached_tokens:
            found[names.GENAI_CACHED_TOKENS] = usage.cached_tokens
        if usage.currency:
            found[names.COST_MICROS] = usage.cost_micros
            found[names.CURRENCY] = usage.currency
        if first_wait_s is not None:
            found[names.GENAI_FIRST_CHUNK] = first_wait_s
        if self._record_content:
            found |= _content(request, "".join(piece.text for piece in said), finish)
        span.set_attributes(found)


def _undisturbed(usage: Usage, resume: Resume) -> Usage:
    """The usage of a resumed answer had it not been broken off: what was said before was read again this time."""
    read = len(resume.prompt_token_ids)
    return Usage(read, usage.input_tokens + usage.output_tokens - read, min(usage.cached_tokens, read))


def _produced(request: Request, prompt: Prompt | None, said: list[Piece]) -> Usage:
    """What a model had read and written when it was broken off."""
    if prompt is None and not said:
        return Usage()
    if prompt is not None:
        read = len(prompt.token_ids)
    else:
        read = sum(count(message.content) for message in request.messages)
        read += sum(count(passage.text) for passage in request.passages)
    written = sum(len(piece.token_ids) or count(piece.text) for piece in said)
    return Usage(read, written)


# -- the words, by opt-in -------------------------------------------------------------------------------------


def _content(request: Request, answer: str, finish: str) -> dict[str, AttributeValue]:
    system = [message for message in request.messages if message.role is Role.SYSTEM]
    talk = [message for message in request.messages if message.role is not Role.SYSTEM]
    found: dict[str, AttributeValue] = {
        names.GENAI_INPUT_MESSAGES: _json({"role": m.role.value, "parts": _parts(m)} for m in talk),
        names.GENAI_OUTPUT_MESSAGES: _json(
            [{"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": finish}]
        ),
    }
    if system:
        found[names.GENAI_SYSTEM_INSTRUCTIONS] = _json({"type": "text", "content": m.content} for m in system)
    return found


def _parts(message: Message) -> list[dict[str, object]]:
    if message.role is Role.TOOL:
        return [{"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}]
    parts: list[dict[str, object]] = [{"type": "text", "content": message.content}] if message.content else []
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": dict(call.arguments)}
        for call in message.tool_calls
    ]
    return parts


def _json(items: Iterable[object]) -> str:
    return json.dumps(list(items), ensure_ascii=False, default=str)

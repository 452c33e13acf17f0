"""Values that go over the wire come back as they were: one set of converters for the SDK and the services."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator import responses
from services.orchestrator.records import Entry
from services.orchestrator.types import ToolCallStarted, ToolResult
from weft import answers, values, wire
from weft.common.v1 import accounting_pb2, epoch_pb2
from weft.generator.v1 import generator_pb2
from weft.orchestrator.v1 import orchestrator_pb2
from weft.values import Citation, Degradation, Epoch, FinishReason, Ledger, LedgerEntry, Passage, Usage

TEXTS = st.text(max_size=8)
UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
MS = st.floats(0, 1e9)
NUMBERS = st.integers(1 - 2**53, 2**53 - 1) | st.floats(allow_nan=False).filter(lambda number: number % 1 != 0)
JSON = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
PASSAGES = st.builds(Passage, TEXTS, TEXTS, TEXTS, TEXTS, UINT32, TEXTS, JSON, UINT64, UINT64)
CITATIONS = st.builds(Citation, TEXTS, UINT32, UINT32, TEXTS, TEXTS, TEXTS, UINT32, TEXTS)
DEGRADED = st.builds(Degradation, TEXTS, TEXTS, TEXTS, TEXTS)
LEDGERS = st.builds(Ledger, MS, MS, st.lists(st.builds(LedgerEntry, TEXTS, MS, MS, MS, TEXTS), max_size=3).map(tuple))


@given(st.lists(PASSAGES, max_size=3), st.none() | st.builds(Epoch, TEXTS.filter(bool), UINT64))
def test_what_was_found_comes_back_as_it_went(passages: list[Passage], epoch: Epoch | None) -> None:
    message = orchestrator_pb2.Retrieved()
    wire.put_passages(message.passages, passages)
    wire.put_epoch(message.epoch, epoch)
    message = orchestrator_pb2.Retrieved.FromString(message.SerializeToString())
    assert [wire.passage(passage) for passage in message.passages] == passages
    assert wire.epoch(message.epoch) == epoch
    assert message.HasField("epoch") == (epoch is not None)


@given(
    st.lists(CITATIONS, max_size=3),
    st.builds(Usage, UINT32, UINT32, UINT32, UINT64),
    LEDGERS,
    st.lists(DEGRADED, max_size=3),
    st.sampled_from(FinishReason),
)
def test_how_an_answer_ended_comes_back_as_it_went(
    citations: list[Citation], usage: Usage, ledger: Ledger, degraded: list[Degradation], reason: FinishReason
) -> None:
    message = orchestrator_pb2.Finished(reason=wire.finish_reason_number(reason))
    wire.put_citations(message.citations, citations)
    wire.put_usage(message.usage, usage)
    wire.put_ledger(message.ledger, ledger)
    wire.put_degraded(message.degraded, degraded)
    message = orchestrator_pb2.Finished.FromString(message.SerializeToString())
    assert wire.citations(message.citations) == tuple(citations)
    assert wire.usage(message.usage) == usage
    assert wire.ledger(message.ledger) == ledger
    assert wire.degraded(message.degraded) == tuple(degraded)
    assert wire.finish_reason(message.reason) is reason


def test_values_of_nothing_are_there_nevertheless() -> None:
    message = orchestrator_pb2.Finished()
    wire.put_usage(message.usage, Usage())
    wire.put_ledger(message.ledger, Ledger())
    assert message.HasField("usage")
    assert message.HasField("ledger")


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (ToolCallStarted("1", "clock", {}), "tool_call.arguments"),
        (ToolResult("1", "clock", {}, "", None, 0.0), "tool_result.result"),
        (ToolResult("1", "clock", {}, "", None, 0.0), "tool_result.duration"),
    ],
)
def test_a_tools_empty_arguments_and_results_are_there_nevertheless(event: Any, field: str) -> None:
    kind, name = field.split(".")
    message = responses.chat_response(Entry(1, event))
    assert message.WhichOneof("event") == kind
    assert getattr(message, kind).HasField(name)


def test_every_reason_that_the_contract_names_has_its_value() -> None:
    numbers = {number for name, number in generator_pb2.FinishReason.items() if not name.endswith("_UNSPECIFIED")}
    assert {wire.finish_reason_number(reason) for reason in FinishReason} == numbers


def test_a_reason_of_a_later_release_counts_as_a_stop() -> None:
    assert wire.finish_reason(99) is FinishReason.STOP


@pytest.mark.parametrize(
    ("value", "message"),
    [(Usage, accounting_pb2.Usage), (Degradation, accounting_pb2.Degradation), (Epoch, epoch_pb2.Epoch)],
)
def test_a_value_has_its_messages_fields_in_order(value: type, message: Any) -> None:
    assert list(value.__dataclass_fields__) == [field.name for field in message.DESCRIPTOR.fields]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Citation", "Degradation", "Epoch", "Ledger", "LedgerEntry", "Passage", "Usage"])
def test_the_sdks_values_are_the_services(name: str) -> None:
    assert getattr(answers, name) is getattr(values, name)

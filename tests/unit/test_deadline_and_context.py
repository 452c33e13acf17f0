"""Deadlines are spent in a ledger; companions survive the trip through metadata."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import context, deadline
from mesh.deadline import Deadline, LedgerRecorder
from weft.errors import Reason, WeftError, error


def test_a_child_deadline_is_never_later_than_its_parent() -> None:
    parent = Deadline.after(1)
    assert parent.child(10).at_s == parent.at_s
    assert parent.child(0.1).at_s < parent.at_s


def test_a_passed_deadline_says_what_was_being_done() -> None:
    with pytest.raises(WeftError, match="passed while searching"):
        Deadline.after(-1).check("searching")


def test_the_ledger_keeps_stages_in_order_of_their_begin_with_status() -> None:
    now = iter([0.0, 0.1, 0.2, 0.5, 0.9])
    ledger = LedgerRecorder(Deadline.after(1), clock=lambda: next(now))
    with ledger.stage("retrieval", budget_s=2), pytest.raises(WeftError), ledger.stage("tools"):
        raise error(Reason.TOOL_TIMEOUT, "slow")
    retrieval, tools = ledger.entries
    assert (retrieval.stage, retrieval.status, retrieval.budget_ms) == ("retrieval", "OK", 2_000)
    assert (tools.stage, tools.status) == ("tools", "DEADLINE_EXCEEDED")
    assert tools.duration_ms == pytest.approx(300)
    assert retrieval.duration_ms == pytest.approx(800)


async def test_a_cancelled_stage_is_marked_cancelled() -> None:
    ledger = LedgerRecorder(Deadline.after(1))

    async def work() -> None:
        with ledger.stage("generation"):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ledger.entries[0].status == "CANCELLED"


names = st.from_regex(r"weft-route-[a-z]{1,8}", fullmatch=True)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(
    tenant=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True),
    request_id=values,
    bucket=st.none() | st.integers(0, 99),
    routes=st.lists(st.tuples(names, values), max_size=4).map(tuple),
)
def test_companions_survive_metadata(
    tenant: str, request_id: str, bucket: int | None, routes: tuple[tuple[str, str], ...]
) -> None:
    sent = context.CallContext(tenant, request_id, bucket, routes)
    assert context.from_metadata(sent.outgoing_metadata()) == sent


@pytest.mark.parametrize(
    "pair",
    [
        ("weft-tenant", "UPPER"),
        ("weft-request-id", "has space"),
        ("weft-request-id", "x" * 129),
        ("weft-bucket", "100"),
        ("weft-bucket", "-1"),
        ("weft-route-a", "x" * 257),
    ],
)
def test_companions_out_of_bounds_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(WeftError):
        context.from_metadata([pair])


def test_a_call_without_request_id_gets_one() -> None:
    assert len(context.from_metadata([]).request_id) == 32


async def test_bound_values_reach_the_tasks_that_are_started() -> None:
    async def seen() -> tuple[str, Deadline | None]:
        return context.current().tenant, deadline.current()

    limit = Deadline.after(3)
    with context.bind(context.CallContext("acme")), deadline.bind(limit):
        assert await asyncio.create_task(seen()) == ("acme", limit)
    assert await seen() == ("default", None)

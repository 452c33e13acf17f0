"""Tokens a minute and budgets: who may, who must wait, and what is settled. Counted in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage
from limits.aio.storage import memory as limits_memory

from mesh.plugins import Url
from services.generator.admission.counters import Counters
from services.generator.admission.ledgers import Ledger
from services.generator.admission.ledgers import memory as memory_ledger
from services.generator.admission.ledgers import redis as redis_ledger
from services.generator.admission.quota import TenantQuota
from services.generator.admission.rules import Budgets, Rates, Rule, period_ends_in_s, rules_for
from services.generator.admission.work import Work
from tests.support.redis import RedisServer, redis_server  # noqa: F401 - a fixture
from weft.errors import Reason, WeftError
from weft.values import Usage

NOW = datetime(2026, 2, 28, 23, 0, tzinfo=UTC)


def price(model: str, usage: Usage) -> int:
    """A cent a token."""
    return 10_000 * (usage.input_tokens + usage.output_tokens)


def nothing() -> None: ...


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is away when it is, not when the machine that runs the tests has no time for it."""
    monkeypatch.setattr(redis_ledger, "TIMEOUT_S", 1.0)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        found: Ledger = memory_ledger.open(Url.parse("memory:"), nothing)
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.empty()
        found = redis_ledger.open(Url.parse(server.url()), nothing)
    yield found
    await found.close()


def quota(ledger: Ledger, rates: Rates | None = None, budgets: Budgets | None = None) -> TenantQuota:
    return TenantQuota(rates or {}, budgets or {}, ledger, price)


async def refused(quota: TenantQuota, tenant: str, work: Work, model: str = "llama") -> WeftError:
    with pytest.raises(WeftError) as caught:
        await quota.reserve(tenant, model, work)
    return caught.value


async def all_settled(quota: TenantQuota) -> None:
    await asyncio.gather(*quota._settling)


async def test_an_answer_that_goes_on_is_not_held_up_by_what_its_dead_generator_reserved(ledger: Ledger) -> None:
    for rates, budgets in (({"*": 1_000}, None), (None, {"*": {"tokens_per_day": 1_000}})):
        of = quota(ledger, rates, budgets)
        await of.reserve("acme", "llama", Work(400, 500))  # killed: never settled
        assert (await refused(of, "acme", Work(400, 500))).reason == Reason.QUOTA_EXCEEDED
        continued = await of.reserve("acme", "llama", Work(400, 500), continues=True)
        with pytest.raises(WeftError):  # not without end
            await of.reserve("acme", "llama", Work(400, 500), continues=True)
        continued.settle(Usage(400, 500))
        await all_settled(of)
        assert (await refused(of, "acme", Work(1, 1))).reason == Reason.QUOTA_EXCEEDED


def test_the_tenants_own_entry_counts_before_the_one_for_all() -> None:
    rates = {"*": 100, "acme": 200, "*/llama": 10, "free": None, "free/llama": None}

    def limits(tenant: str, model: str) -> list[tuple[str, int]]:
        return [(rule.subject, rule.limit) for rule in rules_for(tenant, model, rates, {}, NOW)]

    assert limits("acme", "gpt") == [("tenant:acme", 200)]
    assert limits("other", "llama") == [("tenant:other", 100), ("tenant:other/model:llama", 10)]
    assert limits("free", "llama") == []


def test_a_budget_is_of_a_calendar_day_or_month() -> None:
    budgets = {"*": {"tokens_per_day": 10.0, "money_per_month": 2.5}}
    day, month = rules_for("acme", "llama", {}, budgets, NOW)
    assert (day.limit, day.key) == (10, ("tokens_per_day", "acme", "2026-02-28"))
    assert (month.limit, month.key) == (2_500_000, ("money_per_month", "acme", "2026-02"))
    assert period_ends_in_s("tokens_per_day", NOW) == 3_600
    assert period_ends_in_s("money_per_month", NOW) == 3_600
    assert period_ends_in_s("tokens_per_month", datetime(2026, 12, 1, tzinfo=UTC)) == 31 * 86_400


async def test_a_tenant_that_has_used_its_minute_is_told_when_to_come_back(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000})
    await limited.reserve("acme", "llama", Work(100, 800))
    err = await refused(limited, "acme", Work(100, 100))
    assert err.reason == Reason.QUOTA_EXCEEDED
    assert err.code.name == "RESOURCE_EXHAUSTED"
    assert err.metadata["subject"] == "tenant:acme"
    assert (err.metadata["why"], err.metadata["limit"], err.metadata["wanted"]) == ("rate", "1000", "200")
    assert err.retry_after_s is not None
    assert 0 < err.retry_after_s <= 120
    await limited.reserve("acme", "llama", Work(100, 0))
    await limited.reserve("another", "llama", Work(100, 800))


async def test_a_limit_of_one_model_leaves_the_others_alone(ledger: Ledger) -> None:
    limited = quota(ledger, {"*/llama": 500, "*": 1_000})
    await limited.reserve("acme", "llama", Work(0, 500))
    err = await refused(limited, "acme", Work(0, 10))
    assert err.metadata["subject"] == "tenant:acme/model:llama"
    await limited.reserve("acme", "gpt", Work(0, 500))  # what llama refused was given back
    assert (await refused(limited, "acme", Work(0, 10), "gpt")).metadata["subject"] == "tenant:acme"


async def test_what_was_reserved_too_much_can_be_used_again(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000})
    reserved = await limited.reserve("acme", "llama", Work(100, 900))
    await refused(limited, "acme", Work(0, 10))
    reserved.settle(Usage(input_tokens=100, output_tokens=50))
    await all_settled(limited)
    await limited.reserve("acme", "llama", Work(0, 850))
    await refused(limited, "acme", Work(0, 10))


async def test_what_was_used_beyond_the_estimate_counts(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000})
    reserved = await limited.reserve("acme", "llama", Work(10, 90))
    reserved.settle(Usage(input_tokens=2_000, output_tokens=90))
    await all_settled(limited)
    await refused(limited, "acme", Work(0, 1))


async def test_a_request_larger_than_the_limit_gets_in_when_nothing_else_was_used(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000})
    await limited.reserve("acme", "llama", Work(0, 4_096))
    await refused(limited, "acme", Work(0, 1))


async def test_a_budget_of_tokens_ends_and_says_until_when(ledger: Ledger) -> None:
    limited = quota(ledger, budgets={"acme": {"tokens_per_day": 1_000}})
    reserved = await limited.reserve("acme", "llama", Work(0, 800))
    err = await refused(limited, "acme", Work(0, 300))
    assert (err.metadata["why"], err.metadata["quota"]) == ("budget", "tokens_per_day")
    assert err.retry_after_s is not None
    assert 0 < err.retry_after_s <= 86_400
    reserved.settle(Usage(output_tokens=700))
    await all_settled(limited)
    await limited.reserve("acme", "llama", Work(0, 300))
    await refused(limited, "acme", Work(0, 1))
    await limited.reserve("another", "llama", Work(0, 10_000))


async def test_after_a_minute_only_a_budget_takes_back_what_was_too_much(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000}, {"*": {"tokens_per_day": 1_500}})
    reserved = await limited.reserve("acme", "llama", Work(0, 1_000))
    reserved.begun_s -= 61  # the answer took so long
    reserved.settle(Usage(output_tokens=100))
    await all_settled(limited)
    assert (await refused(limited, "acme", Work(0, 1))).metadata["why"] == "rate"
    budget_only = quota(ledger, budgets={"*": {"tokens_per_day": 1_500}})
    await budget_only.reserve("acme", "llama", Work(0, 1_400))


async def test_what_comes_back_when_its_minute_is_over_is_no_room_in_the_next(ledger: Ledger) -> None:
    (rule,) = rules_for("acme", "llama", {"acme": 100}, {}, NOW)

    async def late(counters: Counters) -> tuple[bool, bool]:
        await counters.correct(rule, -80)  # of an answer that began in the minute before
        return await counters.take(rule, 100), await counters.take(rule, 1)

    assert await ledger.run(late) == (True, False)


async def test_a_budget_of_money_counts_by_price(ledger: Ledger) -> None:
    limited = quota(ledger, budgets={"*": {"money_per_month": 2.5}})
    reserved = await limited.reserve("acme", "llama", Work(100, 100))  # 2.00
    assert (await refused(limited, "acme", Work(0, 51))).metadata["limit"] == "2.5"
    reserved.settle(Usage(input_tokens=100, output_tokens=50))  # 1.50
    await all_settled(limited)
    await limited.reserve("acme", "llama", Work(0, 100))
    await refused(limited, "acme", Work(0, 1))


async def test_many_at_once_never_take_more_than_there_is(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000}, {"*": {"tokens_per_day": 600}})
    outcomes = await asyncio.gather(
        *(limited.reserve("acme", "llama", Work(0, 100)) for _ in range(30)), return_exceptions=True
    )
    assert 1 <= sum(not isinstance(outcome, BaseException) for outcome in outcomes) <= 6


async def test_it_is_closed_when_what_was_due_is_settled(ledger: Ledger) -> None:
    limited = quota(ledger, {"*": 1_000})
    reserved = await limited.reserve("acme", "llama", Work(0, 100))
    reserved.settle(Usage())
    settling = set(limited._settling)
    await limited.close()
    assert settling
    assert all(task.done() and not task.cancelled() for task in settling)


@pytest.mark.parametrize("steps", range(8))
async def test_who_leaves_while_it_is_counted_has_taken_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    take = Counters.take

    async def slowly(self: Counters, rule: Rule, amount: int, times: int = 1) -> bool:
        taken = await take(self, rule, amount, times)
        for _ in range(4):
            await asyncio.sleep(0.005)  # it has counted, and its answer is on its way
        return taken

    monkeypatch.setattr(Counters, "take", slowly)
    limited = quota(ledger, {"*": 100}, {"*": {"tokens_per_day": 100}})
    leaving = asyncio.create_task(limited.reserve("acme", "llama", Work(0, 100)))
    await asyncio.sleep(0.006 * steps)
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        (await leaving).settle(Usage())  # on a busy machine it may be through already
    while limited._settling:
        await all_settled(limited)
    assert (await limited.reserve("acme", "llama", Work(0, 100))).taken


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 400)), max_size=12), st.integers(1, 500))
def test_the_time_to_come_back_is_when_there_is_room_and_not_much_later(
    before: list[tuple[int, int]], wanted: int
) -> None:
    limit = 500
    rule = Rule("tokens_per_minute", limit, ("acme",), "tenant:acme")
    now_s = [1_000_000.0]

    async def play() -> None:
        counters = Counters(MemoryStorage())
        for pause_s, amount in before:
            now_s[0] += pause_s
            await counters.take(rule, amount)
        wait_s = await counters.room_in_s(rule, wanted)
        assert 0.0 <= wait_s <= 120.0
        if wait_s > 1.0:
            now_s[0] += wait_s * 0.9
            assert not await counters.take(rule, wanted + 1 + limit // 10)
            wait_s *= 0.1
        now_s[0] += wait_s + 0.01
        assert await counters.take(rule, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits_memory.time, "time", lambda: now_s[0])
        asyncio.run(play())


@pytest.mark.redis
class TestRedis:
    """What is Redis's own."""

    async def test_replicas_share_a_limit(self, redis_server: RedisServer) -> None:  # noqa: F811
        redis_server.empty()
        ledgers = [redis_ledger.open(Url.parse(redis_server.url()), nothing) for _ in range(2)]
        one, other = (quota(ledger, {"*": 1_000}) for ledger in ledgers)
        reserved = await one.reserve("acme", "llama", Work(0, 900))
        await refused(other, "acme", Work(0, 200))
        reserved.settle(Usage(output_tokens=100))
        await all_settled(one)
        await other.reserve("acme", "llama", Work(0, 900))
        await asyncio.gather(one.close(), other.close())

    @pytest.mark.parametrize("fault", ["kill", "pause"])
    async def test_while_redis_is_away_each_replica_counts_by_itself(
        self,
        fault: str,
        redis_server: RedisServer,  # noqa: F811
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        redis_server.empty()
        unshared: list[None] = []
        now_s = [0.0]
        ledger = redis_ledger.Redis(
            Url.parse(redis_server.url()), lambda: unshared.append(None), clock=lambda: now_s[0]
        )
        limited = quota(ledger, {"*": 1_000})
        await limited.reserve("acme", "llama", Work(0, 1_000))
        getattr(redis_server, fault)()
        try:
            with caplog.at_level(logging.WARNING):
                await limited.reserve("acme", "llama", Work(0, 1_000))
                await refused(limited, "acme", Work(0, 1))
            assert len(unshared) == 2
            assert [record.getMessage().split(",")[0] for record in caplog.records] == ["limits are not shared"]
        finally:
            redis_server.resume() if fault == "pause" else redis_server.start()
        await refused(limited, "acme", Work(0, 1))
        assert len(unshared) == 3, "not asked again yet"
        now_s[0] += redis_ledger.ASK_AGAIN_S
        if fault == "kill":  # what it held is gone
            await limited.reserve("acme", "llama", Work(0, 1_000))
        await refused(limited, "acme", Work(0, 1))
        assert len(unshared) == 3, "shared again"
        await limited.close()

    async def test_only_one_request_waits_for_a_redis_that_hangs(self, redis_server: RedisServer) -> None:  # noqa: F811
        redis_server.empty()
        now_s = [0.0]
        asked: list[float] = []

        class Counted(redis_ledger.Redis):
            def _lost(self, exc: Exception) -> None:
                asked.append(now_s[0])
                super()._lost(exc)

        ledger = Counted(Url.parse(redis_server.url()), nothing, clock=lambda: now_s[0])
        limited = quota(ledger, {"*": 10_000})
        redis_server.pause()
        try:
            await limited.reserve("acme", "llama", Work(0, 1))
            now_s[0] += redis_ledger.ASK_AGAIN_S
            await asyncio.gather(*(limited.reserve("acme", "llama", Work(0, 1)) for _ in range(20)))
        finally:
            redis_server.resume()
        assert asked == [0.0, redis_ledger.ASK_AGAIN_S]
        await limited.close()

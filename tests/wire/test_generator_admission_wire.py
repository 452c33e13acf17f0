"""Admission as callers meet it: on a real wire, with the statuses, details, spans and metrics that come of it."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import status_pb2

from tests.support.generator_process import Replica, replica
from tests.support.plane import until
from tests.support.redis import RedisServer, redis_server
from weft import names
from weft.errors import from_rpc_error
from weft.generator.v1 import generator_pb2 as pb

__all__ = ["redis_server"]

QUICK = {"m": "scripted:?tokens=4"}
SLOW = {"m": "scripted:?tokens=1&delay_ms=400"}
ENDLESS = {"m": "scripted:?tokens=4&hang_after=1"}


def asking(**options: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content="What?")], **options)


async def refused(r: Replica, *, tenant: str = "default", timeout_s: float = 20.0) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in r.stub.Generate(asking(), timeout=timeout_s, metadata=(("weft-tenant", tenant),)):
            pass
    return caught.value


def details(error: grpc.aio.AioRpcError) -> list[str]:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    return [detail.TypeName() for detail in status.details]


async def waiting(r: Replica, number: int) -> None:
    """Until so many wait."""
    await until(lambda: r.metric("weft_generator_queue_requests", model="m") == number)


async def test_what_finds_the_queue_full_is_told_so_at_once_and_when_to_come_back() -> None:
    async with replica(ENDLESS, max_running={"m": 1}, max_waiting=1) as r:
        running = r.stub.Generate(asking(), timeout=20)
        await running.read()
        waits = r.stub.Generate(asking(), timeout=20)
        await waiting(r, 1)
        error = await refused(r)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(error) == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
        found = from_rpc_error(error)
        assert (found.reason, found.metadata["why"], found.metadata["waiting"]) == ("OVERLOADED", "full", "1")
        assert r.metric("weft_generator_refusals_total", model="m", why="full") == 1
        waits.cancel()
        await waiting(r, 0)
        running.cancel()


async def test_what_would_be_answered_too_late_is_told_so_at_once() -> None:
    async with replica(ENDLESS, max_running={"m": 1}) as r:
        left = r.stub.Generate(asking(), timeout=20)
        await left.read()
        await asyncio.sleep(1.0)
        left.cancel()  # so an answer takes longer than a second
        await until(lambda: r.load.pending == 0)
        running = r.stub.Generate(asking(), timeout=20)
        await running.read()
        found = from_rpc_error(await refused(r, timeout_s=1.8))
        assert (found.reason, found.metadata["why"]) == ("OVERLOADED", "late")
        assert found.retry_after_s is not None
        running.cancel()


async def test_who_waited_reads_in_the_trace_how_long_and_behind_how_many() -> None:
    async with replica(SLOW, max_running={"m": 1}) as r:
        await asyncio.gather(r.ask(asking()), r.ask(asking()))
        spans = [span.attributes or {} for span in r.spans.get_finished_spans()]
        assert r.metric("weft_generator_queue_wait_seconds_count", model="m") == 1
    waits = [span[names.QUEUE_WAIT_MS] for span in spans if names.QUEUE_WAIT_MS in span]
    assert len(waits) == 1
    assert waits[0] > 100  # type: ignore[operator]
    assert [span[names.QUEUE_AHEAD] for span in spans if names.QUEUE_AHEAD in span] == [0]


async def test_a_tenant_that_used_its_minute_gets_a_quota_failure() -> None:
    async with replica(QUICK, tokens_per_minute={"acme": 1}) as r:
        await r.ask(asking(), "acme")
        error = await refused(r, tenant="acme")
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(error) == ["google.rpc.ErrorInfo", "google.rpc.QuotaFailure", "google.rpc.RetryInfo"]
        found = from_rpc_error(error)
        assert (found.reason, found.metadata["subject"]) == ("QUOTA_EXCEEDED", "tenant:acme")
        await r.ask(asking(), "other")
        assert r.metric("weft_generator_refusals_total", model="m", why="rate") == 1


@pytest.mark.redis
async def test_two_replicas_share_a_tenants_budget(redis_server: RedisServer) -> None:
    options = {"limits": redis_server.url(), "budgets": {"*": {"tokens_per_day": 1}}}
    async with replica(QUICK, **options) as one, replica(QUICK, **options) as other:
        await one.ask(asking(), "acme")
        found = from_rpc_error(await refused(other, tenant="acme"))
        assert (found.reason, found.metadata["quota"]) == ("QUOTA_EXCEEDED", "tokens_per_day")
        assert other.metric("weft_generator_limits_unshared_total") == 0

"""What every queue of jobs keeps. A backend joins by its name in ``BACKENDS``.

Two queues opened by one URL are what two processes have. Leases are short here, and time is the real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh import plugins
from mesh.jobs import Claim, JobProgress, Jobs, JobState, LeaseLost, Limits, Submission
from mesh.plugins import Url
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from weft.errors import Reason, WeftError, error

LIMITS = Limits(max_queued=20, lease_s=0.4, backoff_s=0.2, max_backoff_s=0.3, kept_s=0.5)
WORK = ("work",)


BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=BACKENDS)
async def queues(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Jobs, Jobs]]:
    """Two queues of one store."""
    url = Url.parse(f"sqlite:///{tmp_path}")
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        url = Url.parse(await server.make_database())
    opened: list[Jobs] = [await plugins.load("mesh.jobs.queues", url).open(url, LIMITS) for _ in range(2)]
    yield opened[0], opened[1]
    for queue in opened:
        await queue.close()


def wanted(key: str, tenant: str = "t", kind: str = "work", **fields: object) -> Submission:
    return Submission(tenant, kind, key, b"payload", **fields)  # type: ignore[arg-type]


async def claimed(queue: Jobs, owner: str = "one") -> Claim:
    claim = await queue.claim(WORK, owner)
    assert claim is not None
    return claim


def trouble() -> WeftError:
    return error(Reason.DEPENDENCY_UNAVAILABLE, "the store is away", store="s")


async def test_a_job_that_one_asks_for_another_finds_and_does(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    job = await one.submit(wanted("a", traceparent="00-aa-bb-01"))
    assert (job.state, job.attempts, job.payload, job.traceparent) == (JobState.QUEUED, 0, b"payload", "00-aa-bb-01")
    claim = await claimed(other)
    assert (claim.job.id, claim.job.state, claim.job.attempts) == (job.id, JobState.RUNNING, 1)
    assert await one.claim(WORK, "one") is None
    await other.finish(claim.lease, b"result", JobProgress(3, 3, "things", "done"))
    done = await one.get("t", job.id)
    assert done is not None
    assert (done.state, done.result, done.progress) == (
        JobState.SUCCEEDED,
        b"result",
        JobProgress(3, 3, "things", "done"),
    )
    assert done.updated_s >= done.created_s > time.time() - 60


async def test_the_same_key_again_is_the_same_job_and_never_done_twice(queues: tuple[Jobs, Jobs]) -> None:
    made = await asyncio.gather(*(queue.submit(wanted("a")) for queue in queues * 5))
    assert len({job.id for job in made}) == 1
    claim = await claimed(queues[0])
    await queues[0].finish(claim.lease, b"result")
    again = await queues[1].submit(wanted("a"))
    assert (again.id, again.state, again.result) == (made[0].id, JobState.SUCCEEDED, b"result")
    assert await queues[1].claim(WORK, "one") is None
    found = await queues[1].find("t", "work", "a")
    assert found == again


async def test_the_same_key_with_another_request_is_refused(queues: tuple[Jobs, Jobs]) -> None:
    await queues[0].submit(wanted("a"))
    with pytest.raises(WeftError) as caught:
        await queues[1].submit(Submission("t", "work", "a", b"another"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    others = [await queues[1].submit(wanted("a", tenant="u")), await queues[1].submit(wanted("a", kind="rest"))]
    assert all(job.attempts == 0 for job in others)


async def test_tenants_see_nothing_of_each_other(queues: tuple[Jobs, Jobs]) -> None:
    mine = await queues[0].submit(wanted("a"))
    await queues[0].submit(wanted("a", tenant="u"))
    for queue in queues:
        assert await queue.get("u", mine.id) is None
        assert await queue.cancel("u", mine.id) is None
        assert await queue.retry("u", mine.id) is None
        assert not await queue.delete("u", mine.id)
        assert await queue.wait("u", mine.id, 0.0) is None
        assert [job.id for job in (await queue.list_jobs("t"))[0]] == [mine.id]
    there = await queues[0].get("t", mine.id)
    assert there is not None
    assert there.state is JobState.QUEUED


async def test_only_kinds_that_are_asked_for_are_claimed(queues: tuple[Jobs, Jobs]) -> None:
    await queues[0].submit(wanted("a", kind="other"))
    assert await queues[1].claim(WORK, "one") is None
    claim = await queues[1].claim(("work", "other"), "one")
    assert claim is not None
    assert claim.job.kind == "other"


async def test_a_job_is_claimed_by_one_worker_only(queues: tuple[Jobs, Jobs]) -> None:
    for number in range(10):
        await queues[0].submit(wanted(str(number)))
    claims = await asyncio.gather(*(queue.claim(WORK, f"w{n}") for n in range(8) for queue in queues))
    taken = [claim.job.id for claim in claims if claim is not None]
    assert len(taken) == len(set(taken)) == 10


async def test_jobs_go_in_order_but_a_tenant_with_less_under_way_goes_first(queues: tuple[Jobs, Jobs]) -> None:
    for key in ("a", "b", "c"):
        await queues[0].submit(wanted(key))
    await queues[0].submit(wanted("late", tenant="u"))
    order = [(await claimed(queues[0])).job.key for _ in range(4)]
    assert order == ["a", "late", "b", "c"]


async def test_a_lease_that_is_renewed_is_kept_and_one_that_is_not_is_lost(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    await one.submit(wanted("a"))
    first = await claimed(one)
    for _ in range(5):
        await asyncio.sleep(LIMITS.lease_s / 3)
        assert not await one.heartbeat(first.lease)
        assert await other.claim(WORK, "two") is None
    await asyncio.sleep(LIMITS.lease_s + 0.1)
    second = await claimed(other, "two")
    assert (second.job.id, second.job.attempts) == (first.job.id, 2)
    assert second.lease.fence > first.lease.fence


async def test_who_lost_the_lease_can_write_nothing(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    await one.submit(wanted("a"))
    stale = (await claimed(one, "same")).lease
    await asyncio.sleep(LIMITS.lease_s + 0.1)
    held = await claimed(other, "same")  # even under the same name
    for attempt in (
        one.heartbeat(stale, JobProgress(9, 9)),
        one.finish(stale, b"stale"),
        one.fail(stale, trouble(), retry=True),
        one.fail(stale, trouble(), retry=False),
        one.cancelled(stale),
        one.give_back(stale),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    there = await one.get("t", held.job.id)
    assert there is not None
    assert (there.state, there.progress, there.result) == (JobState.RUNNING, JobProgress(), b"")
    await other.finish(held.lease, b"good")
    with pytest.raises(LeaseLost):
        await other.finish(held.lease, b"twice")


async def test_a_failure_that_may_pass_is_tried_again_after_a_while_and_not_for_ever(
    queues: tuple[Jobs, Jobs],
) -> None:
    job = await queues[0].submit(wanted("a", max_strikes=2))
    await queues[0].fail((await claimed(queues[0])).lease, trouble(), retry=True)
    assert await queues[1].claim(WORK, "two") is None  # not at once
    await asyncio.sleep(LIMITS.backoff_s + 0.05)
    await queues[1].fail((await claimed(queues[1])).lease, trouble(), retry=True)
    ended = await queues[0].get("t", job.id)
    assert ended is not None
    assert (ended.state, ended.attempts) == (JobState.FAILED, 2)
    assert ended.error is not None
    assert (ended.error.reason, ended.error.metadata) == ("DEPENDENCY_UNAVAILABLE", {"store": "s"})


async def test_a_failure_by_what_is_away_is_tried_again_for_much_longer(queues: tuple[Jobs, Jobs]) -> None:
    job = await queues[0].submit(wanted("a", max_strikes=1))
    for passing in (True, True, False):
        await asyncio.sleep(2 * LIMITS.backoff_s + 0.05)
        await queues[0].fail((await claimed(queues[0])).lease, trouble(), retry=True, passing=passing)
    ended = await queues[1].get("t", job.id)
    assert ended is not None
    assert (ended.state, ended.attempts) == (JobState.FAILED, 3)


async def test_a_failure_for_good_ends_the_job(queues: tuple[Jobs, Jobs]) -> None:
    job = await queues[0].submit(wanted("a"))
    await queues[0].fail((await claimed(queues[0])).lease, trouble(), retry=False)
    ended = await queues[1].get("t", job.id)
    assert ended is not None
    assert ended.state is JobState.FAILED
    assert await queues[1].claim(WORK, "two") is None


async def test_a_job_whose_workers_keep_dying_is_given_up_unless_it_gets_further(queues: tuple[Jobs, Jobs]) -> None:
    job = await queues[0].submit(wanted("a", max_strikes=2))
    for number in range(1, 4):  # more than it has strikes, but further each time
        claim = await claimed(queues[0])
        await queues[0].heartbeat(claim.lease, JobProgress(number, 9))
        await asyncio.sleep(LIMITS.lease_s + 0.05)
    for _ in range(2):
        claim = await claimed(queues[0])
        for number in (1, 2):  # what it does again gets it no further
            await queues[0].heartbeat(claim.lease, JobProgress(number, 9))
        await asyncio.sleep(LIMITS.lease_s + 0.05)
    assert await queues[1].claim(WORK, "two") is None
    ended = await queues[1].get("t", job.id)
    assert ended is not None
    assert (ended.state, ended.attempts) == (JobState.FAILED, 5)
    assert ended.error is not None
    assert ended.error.reason == "JOB_ABANDONED"


async def test_a_job_that_is_given_back_goes_on_elsewhere_at_once_and_counts_no_strike(
    queues: tuple[Jobs, Jobs],
) -> None:
    await queues[0].submit(wanted("a", max_strikes=1))
    for number in range(4):
        claim = await claimed(queues[number % 2])
        await queues[number % 2].give_back(claim.lease)
    claim = await claimed(queues[0])
    assert claim.job.attempts == 5


async def test_a_parked_job_is_due_later_or_when_somebody_hurries_it(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    job = await one.submit(wanted("a"))
    await one.give_back((await claimed(one)).lease, after_s=60.0)
    assert await other.claim(WORK, "two") is None
    await other.hurry("t", job.id)
    await one.give_back((await claimed(one)).lease, after_s=0.2)
    await asyncio.sleep(0.25)
    await claimed(other)


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_worker(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    running, waiting = await one.submit(wanted("a")), await one.submit(wanted("b"))
    claim = await claimed(other)
    cancelled = await one.cancel("t", waiting.id)
    assert cancelled is not None
    assert cancelled.state is JobState.CANCELLED
    asked = await one.cancel("t", running.id)
    assert asked is not None
    assert (asked.state, asked.cancelling) == (JobState.RUNNING, True)
    assert await other.heartbeat(claim.lease)
    await other.cancelled(claim.lease)
    ended = await one.get("t", running.id)
    assert ended is not None
    assert (ended.state, ended.cancelling) == (JobState.CANCELLED, False)
    assert await one.claim(WORK, "one") is None
    assert await one.cancel("t", running.id) == ended  # again, it stays as it is


async def test_a_job_cancelled_while_its_worker_dies_or_stops_is_not_begun_again(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    stopped, dead = await one.submit(wanted("a")), await one.submit(wanted("b"))
    first, _ = await claimed(one), await claimed(one)
    for job in (stopped, dead):
        await other.cancel("t", job.id)
    await one.give_back(first.lease)
    await asyncio.sleep(LIMITS.lease_s + 0.1)
    assert await other.claim(WORK, "two") is None
    for job in (stopped, dead):
        ended = await other.get("t", job.id)
        assert ended is not None
        assert ended.state is JobState.CANCELLED


async def test_a_job_that_ended_well_is_not_cancelled_any_more(queues: tuple[Jobs, Jobs]) -> None:
    job = await queues[0].submit(wanted("a"))
    await queues[0].finish((await claimed(queues[0])).lease, b"result")
    after = await queues[1].cancel("t", job.id)
    assert after is not None
    assert (after.state, after.result) == (JobState.SUCCEEDED, b"result")


async def test_a_failed_job_can_be_tried_again_and_no_other(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    job = await one.submit(wanted("a", max_strikes=1))
    still = await other.retry("t", job.id)
    assert still is not None
    assert still.state is JobState.QUEUED
    await one.fail((await claimed(one)).lease, trouble(), retry=True)
    again = await other.retry("t", job.id)
    assert again is not None
    assert (again.state, again.error) == (JobState.QUEUED, None)
    await one.finish((await claimed(one)).lease, b"")
    after = await other.retry("t", job.id)
    assert after is not None
    assert after.state is JobState.SUCCEEDED


async def test_a_full_queue_refuses_what_is_new_and_says_when_to_come_again(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    for number in range(LIMITS.max_queued):
        await one.submit(wanted(str(number)))
    with pytest.raises(WeftError) as caught:
        await other.submit(wanted("one more"))
    assert (caught.value.reason, caught.value.retry_after_s) == ("OVERLOADED", LIMITS.retry_after_s)
    await other.submit(wanted("0"))  # it is there
    await claimed(other)
    await other.submit(wanted("one more"))


async def test_a_list_is_newest_first_in_pages_and_by_state(queues: tuple[Jobs, Jobs]) -> None:
    made = [(await queues[0].submit(wanted(str(number)))).id for number in range(7)]
    claim = await claimed(queues[0])
    first, token = await queues[1].list_jobs("t", limit=4)
    second, end = await queues[1].list_jobs("t", before=token, limit=4)
    assert [job.id for job in (*first, *second)] == made[::-1]
    assert end == ""
    assert [job.id for job in (await queues[1].list_jobs("t", state=JobState.RUNNING))[0]] == [claim.job.id]
    assert (await queues[1].list_jobs("t", state=JobState.FAILED)) == ([], "")


async def test_who_waits_wakes_when_the_job_ends_elsewhere(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    job = await one.submit(wanted("a"))
    waiting = asyncio.create_task(one.wait("t", job.id, 10.0))
    claim = await claimed(other)
    await other.heartbeat(claim.lease, JobProgress(1, 2))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    began_s = time.monotonic()
    await other.finish(claim.lease, b"")
    ended = await waiting
    assert ended is not None
    assert ended.state is JobState.SUCCEEDED
    assert time.monotonic() - began_s < 5


async def test_who_waits_in_vain_gets_the_job_as_it_stands(queues: tuple[Jobs, Jobs]) -> None:
    job = await queues[0].submit(wanted("a"))
    began_s = time.monotonic()
    there = await queues[1].wait("t", job.id, 0.2)
    assert there == job
    assert 0.2 <= time.monotonic() - began_s < 4
    assert await queues[1].wait("t", "0" * 32, 5.0) is None


async def test_a_job_is_deleted_when_it_has_ended_and_not_before(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    job = await one.submit(wanted("a"))
    for _ in range(2):
        with pytest.raises(WeftError) as caught:
            await other.delete("t", job.id)
        assert caught.value.reason == "JOB_ACTIVE"
        await one.claim(WORK, "one")
    await one.cancel("t", job.id)
    await asyncio.sleep(LIMITS.lease_s + 0.05)
    assert await one.claim(WORK, "one") is None
    assert await other.delete("t", job.id)
    assert await one.get("t", job.id) is None
    assert not await one.delete("t", job.id)
    assert (await one.submit(wanted("a"))).id != job.id  # and its key is free


async def test_jobs_that_ended_long_ago_are_swept_out_and_no_others(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    old = await one.submit(wanted("old"))
    await one.finish((await claimed(one)).lease, b"")
    waiting = await one.submit(wanted("waiting"))
    await asyncio.sleep(LIMITS.kept_s + 0.1)
    fresh = await one.submit(wanted("fresh"))
    await one.cancel("t", fresh.id)
    assert not await other.sweep()
    assert await one.get("t", old.id) is None
    assert {job.id for job in (await one.list_jobs("t"))[0]} == {waiting.id, fresh.id}


async def test_the_backlog_is_counted_by_kind(queues: tuple[Jobs, Jobs]) -> None:
    for key in ("a", "b", "c"):
        await queues[0].submit(wanted(key))
    await queues[0].submit(wanted("a", kind="other"))
    claim = await claimed(queues[0])
    assert await queues[1].backlog() == {"work": (2, 1), "other": (1, 0)}
    await queues[0].finish(claim.lease, b"")
    assert await queues[1].backlog() == {"work": (2, 0), "other": (1, 0)}


async def test_changes_of_either_are_heard_by_the_other(queues: tuple[Jobs, Jobs]) -> None:
    one, other = queues
    seen = await other.changed(0, 0.0)
    while (now := await other.changed(seen, 0.2)) != seen:
        seen = now
    waiting = asyncio.create_task(other.changed(seen, 10.0))
    await asyncio.sleep(0.05)
    await one.submit(wanted("a"))
    assert await asyncio.wait_for(waiting, 10.0) != seen

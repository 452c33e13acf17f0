"""What every session store keeps. A backend joins by adding an opener to ``BACKENDS``.

Each opener takes a place (a fresh directory) and gives stores over it: two stores of one place are
two replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh.plugins import Url
from services.orchestrator.ports import LeaseLost, Sessions
from services.orchestrator.records import (
    NO_SEQUENCE,
    Busy,
    Ended,
    Entry,
    Lease,
    Limits,
    Opening,
    Prepared,
    Prompted,
    Taken,
    TurnState,
)
from services.orchestrator.sessions import sqlite
from services.orchestrator.types import (
    Failure,
    Finished,
    Retrieved,
    Started,
    TextDelta,
    ToolCallStarted,
    ToolResult,
)
from weft.errors import Reason, WeftError
from weft.values import Citation, Degradation, Epoch, FinishReason, Ledger, LedgerEntry, Passage, Usage

LIMITS = Limits(ttl_s=3_600, lease_s=5.0, max_turns=3, max_bytes=2_000, history_turns=2)
Opener = Callable[[Path, Limits, Callable[[], float]], Awaitable[Sessions]]


async def open_sqlite(place: Path, limits: Limits, now_s: Callable[[], float]) -> Sessions:
    return await sqlite.open(Url.parse(f"sqlite:///{place}"), limits, now_s)


BACKENDS: dict[str, Opener] = {"sqlite": open_sqlite}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Replicas:
    """Stores over one place, closed at the end."""

    def __init__(self, opener: Opener, place: Path) -> None:
        self.clock = Clock()
        self._opener, self._place = opener, place
        self.opened: list[Sessions] = []

    async def open(self, limits: Limits = LIMITS) -> Sessions:
        self.opened.append(await self._opener(self._place, limits, self.clock))
        return self.opened[-1]


@pytest.fixture(params=sorted(BACKENDS))
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replicas]:
    found = Replicas(BACKENDS[request.param], tmp_path)
    yield found
    for store in found.opened:
        await store.close()


@pytest.fixture
async def store(replicas: Replicas) -> Sessions:
    return await replicas.open()


def opening(
    request_id: str = "r1",
    *,
    session: str = "s",
    question: str = "why?",
    owner: str = "a",
    tenant: str = "acme",
    create: bool = True,
) -> Opening:
    return Opening(tenant, session, create, request_id, question, owner, "0" * 32, {"orchestrator": "v1"})


async def take(store: Sessions, *args: str, **kwargs: object) -> Taken:
    outcome = await store.begin(opening(*args, **kwargs))  # type: ignore[arg-type]
    assert isinstance(outcome, Taken), outcome
    return outcome


def delta(sequence: int, text: str) -> Entry:
    return Entry(sequence, TextDelta(text))


async def finish(store: Sessions, lease: Lease, sequence: int = 1, text: str = "because", query: str = "why?") -> None:
    finished = Finished(text, FinishReason.STOP)
    await store.finish(lease, [Entry(sequence, finished)], finished, query)


async def test_a_new_session_begins_with_turn_one_and_its_started_event(store: Sessions) -> None:
    taken = await take(store)
    assert taken.log == (Entry(0, Started("s", 1, "0" * 32, "r1", {"orchestrator": "v1"})),)
    assert taken.history == ()
    assert (await store.get("acme", "s")).turn_count == 1


async def test_an_unknown_session_is_not_made_unless_asked(store: Sessions) -> None:
    with pytest.raises(WeftError) as caught:
        await store.begin(opening(create=False))
    assert caught.value.reason == Reason.SESSION_NOT_FOUND
    with pytest.raises(WeftError):
        await store.get("acme", "s")


async def test_every_event_comes_back_as_it_was_stored(store: Sessions) -> None:
    taken = await take(store)
    passage = Passage(
        "collections/c/documents/d/chunks/1", "text 中文", "T", "A § B", 2, "x.md", {"k": [1, None]}, 5, 12
    )
    failure = Failure("TOOL_FAILED", "FAILED_PRECONDITION", "1/0", {"tool": "calculator"})
    degraded = Degradation("tools", "TOOL_FAILED", "without_tools", "said so")
    entries = [
        Entry(1, Retrieved((passage,), Epoch("ab", 7), "why?", (degraded,))),
        Entry(2, ToolCallStarted("1", "calculator", {"expression": "1/0"})),
        Entry(3, ToolResult("1", "calculator", None, "", failure, 0.25)),
        Entry(4, ToolResult("2", "calculator", {"value": 3.5, "steps": [1, 2]}, "3.5", None, 0.5)),
        Entry(NO_SEQUENCE, Prepared((degraded,))),
        Entry(NO_SEQUENCE, Prompted("m", True, (1, 2, 3))),
        Entry(5, TextDelta("a\n“b”", (7, 8))),
    ]
    finished = Finished(
        "a\n“b”",
        FinishReason.LENGTH,
        (Citation(passage.name, 0, 1, "q", "T", "A", 2, "x.md"),),
        Usage(1, 2, 3, 4),
        Ledger(30_000.0, 12.5, (LedgerEntry("session", 0.0, 0.5, 25_000.0, "OK"),)),
        (degraded,),
        True,
    )
    await store.append(taken.lease, entries[:4])
    await store.append(taken.lease, entries[4:])
    await store.finish(taken.lease, [delta(6, "c"), Entry(7, finished)], finished, "why?")
    ended = await store.begin(opening())
    assert ended == Ended(1, (taken.log[0], *entries, delta(6, "c"), Entry(7, finished)), None)


async def test_another_turn_finds_the_session_busy_until_the_first_is_finished(replicas: Replicas) -> None:
    first, second = await replicas.open(), await replicas.open()
    taken = await take(first)
    busy = await second.begin(opening("r2", owner="b"))
    assert busy == Busy(None, "a", pytest.approx(5.0))
    await finish(first, taken.lease)
    assert (await take(second, "r2", owner="b")).lease.turn == 2


async def test_the_same_request_finds_its_own_turn_running(replicas: Replicas) -> None:
    first, second = await replicas.open(), await replicas.open()
    await take(first)
    assert await second.begin(opening(owner="b")) == Busy(1, "a", pytest.approx(5.0))


async def test_a_finished_turn_is_answered_from_the_store(store: Sessions) -> None:
    taken = await take(store)
    await finish(store, taken.lease)
    ended = await store.begin(opening())
    assert isinstance(ended, Ended)
    assert ended.failure is None
    assert [entry.sequence for entry in ended.log] == [0, 1]


async def test_a_failed_turn_keeps_its_failure(store: Sessions) -> None:
    taken = await take(store)
    failure = Failure("CONTEXT_TOO_LONG", "INVALID_ARGUMENT", "too long", {"tokens": "9"})
    await store.append(taken.lease, [delta(1, "a")])
    await store.fail(taken.lease, failure)
    assert await store.begin(opening()) == Ended(1, (taken.log[0], delta(1, "a")), failure)
    (turn,) = await store.turns("acme", "s", after_turn=0, limit=10)
    assert turn.state is TurnState.FAILED


async def test_the_same_request_id_with_another_question_is_refused(store: Sessions) -> None:
    taken = await take(store)
    for _ in ("while running", "when finished"):
        with pytest.raises(WeftError) as caught:
            await store.begin(opening(question="how?"))
        assert caught.value.reason == Reason.REQUEST_ID_REUSED
        await store.release(taken.lease)


async def test_a_released_turn_is_resumed_with_its_log(replicas: Replicas) -> None:
    first, second = await replicas.open(), await replicas.open()
    taken = await take(first)
    await first.append(taken.lease, [delta(1, "be")])
    await first.release(taken.lease)
    resumed = await take(second, owner="b")
    assert resumed.log == (taken.log[0], delta(1, "be"))
    assert resumed.lease.turn == 1
    assert resumed.lease.fence > taken.lease.fence


async def test_an_expired_lease_goes_to_the_next_and_the_old_owner_can_write_no_more(replicas: Replicas) -> None:
    first, second = await replicas.open(), await replicas.open()
    old = (await take(first)).lease
    replicas.clock.now_s += 5.1
    new = (await take(second, owner="b")).lease
    for write in (
        first.append(old, [delta(1, "stale")]),
        finish(first, old),
        first.fail(old, Failure("INTERNAL", "INTERNAL", "stale")),
    ):
        with pytest.raises(LeaseLost):
            await write
    await first.release(old)  # no error, and no effect
    assert await first.renew([old]) == [old]
    assert isinstance(await first.begin(opening()), Busy)
    await second.append(new, [delta(1, "fresh")])
    progress = await first.progress("acme", "s", 1, 0)
    assert progress.log == (delta(1, "fresh"),)


async def test_a_renewed_lease_does_not_expire(replicas: Replicas) -> None:
    store = await replicas.open()
    taken = await take(store)
    for _ in range(4):
        replicas.clock.now_s += 4.0
        assert await store.renew([taken.lease]) == []
    assert isinstance(await store.begin(opening("r2", owner="b")), Busy)


async def test_a_lease_of_one_turn_does_not_write_the_next(store: Sessions) -> None:
    first = await take(store)
    await finish(store, first.lease)
    await take(store, "r2")
    with pytest.raises(LeaseLost):
        await store.append(first.lease, [delta(2, "late")])


async def test_history_is_the_last_finished_turns_oldest_first(replicas: Replicas) -> None:
    store = await replicas.open(Limits(max_turns=10, history_turns=2))
    for number in range(1, 5):
        taken = await take(store, f"r{number}", question=f"q{number}")
        if number == 2:
            await store.fail(taken.lease, Failure("INTERNAL", "INTERNAL", "x"))
        else:
            await finish(store, taken.lease, text=f"a{number}", query=f"full q{number}")
    history = (await take(store, "r5")).history
    assert [(e.question, e.answer, e.query) for e in history] == [("q3", "a3", "full q3"), ("q4", "a4", "full q4")]


async def test_a_turn_resumed_late_is_given_only_what_came_before_it(store: Sessions) -> None:
    first = await take(store, question="q1")
    await store.release(first.lease)
    second = await take(store, "r2", question="q2")
    await finish(store, second.lease)
    assert (await take(store, question="q1")).history == ()


async def test_progress_tells_log_state_and_whether_somebody_writes(replicas: Replicas) -> None:
    store = await replicas.open()
    taken = await take(store)
    await store.append(taken.lease, [delta(1, "a"), Entry(NO_SEQUENCE, Prepared(())), delta(2, "b")])
    progress = await store.progress("acme", "s", 1, -1)
    assert [entry.sequence for entry in progress.log] == [0, 1, 2]
    assert (progress.state, progress.leased) == (TurnState.RUNNING, True)
    assert (await store.progress("acme", "s", 1, 1)).log == (delta(2, "b"),)
    replicas.clock.now_s += 5.1
    assert not (await store.progress("acme", "s", 1, 1)).leased
    with pytest.raises(WeftError) as caught:
        await store.progress("acme", "s", 2, -1)
    assert caught.value.reason == Reason.TURN_NOT_FOUND


async def test_a_session_is_full_at_its_limit_of_turns(store: Sessions) -> None:
    for number in range(3):
        await finish(store, (await take(store, f"r{number}")).lease)
    with pytest.raises(WeftError) as caught:
        await store.begin(opening("r3"))
    assert caught.value.reason == Reason.SESSION_FULL
    assert caught.value.metadata["what"] == "turns"
    assert isinstance(await store.begin(opening("r0")), Ended)  # what is there can still be read


async def test_a_session_is_full_at_its_limit_of_bytes(store: Sessions) -> None:
    taken = await take(store)
    await store.append(taken.lease, [delta(1, "x" * 2_000)])
    await finish(store, taken.lease, 2)
    with pytest.raises(WeftError) as caught:
        await store.begin(opening("r2"))
    assert caught.value.metadata["what"] == "bytes"


async def test_an_unused_session_expires_and_use_prolongs_it(replicas: Replicas) -> None:
    store = await replicas.open()
    await finish(store, (await take(store)).lease)
    replicas.clock.now_s += 3_000
    await finish(store, (await take(store, "r2")).lease)
    replicas.clock.now_s += 3_000
    assert (await store.get("acme", "s")).turn_count == 2
    replicas.clock.now_s += 601
    with pytest.raises(WeftError) as caught:
        await store.get("acme", "s")
    assert caught.value.reason == Reason.SESSION_NOT_FOUND
    with pytest.raises(WeftError):
        await store.begin(opening("r3", create=False))


async def test_a_session_made_again_after_expiry_has_no_memory(replicas: Replicas) -> None:
    store = await replicas.open()
    await finish(store, (await take(store)).lease)
    replicas.clock.now_s += 3_601
    again = await take(store)
    assert (again.lease.turn, again.history) == (1, ())


async def test_expired_sessions_are_reaped_a_few_at_a_time(replicas: Replicas) -> None:
    store = await replicas.open()
    for name in ("s1", "s2", "s3"):
        await finish(store, (await take(store, session=name)).lease)
    assert await store.reap(10) == 0
    replicas.clock.now_s += 3_601
    assert [await store.reap(2), await store.reap(2), await store.reap(2)] == [2, 1, 0]


async def test_tenants_never_see_each_other(store: Sessions) -> None:
    await finish(store, (await take(store, question="a secret")).lease)
    with pytest.raises(WeftError) as caught:
        await store.begin(opening("r2", tenant="other", create=False))
    assert caught.value.reason == Reason.SESSION_NOT_FOUND
    for read in (
        store.get("other", "s"),
        store.turns("other", "s", after_turn=0, limit=10),
        store.progress("other", "s", 1, -1),
    ):
        with pytest.raises(WeftError) as caught:
            await read
        assert caught.value.reason == Reason.SESSION_NOT_FOUND
    await store.delete("other", "s")
    assert (await store.get("acme", "s")).turn_count == 1
    other = await take(store, tenant="other")
    assert (other.lease.turn, other.history) == (1, ())


async def test_turns_are_listed_by_pages_oldest_first(store: Sessions) -> None:
    for number in (1, 2):
        await finish(store, (await take(store, f"r{number}", question=f"q{number}")).lease, text=f"a{number}")
    await take(store, "r3", question="q3")
    first = await store.turns("acme", "s", after_turn=0, limit=2)
    assert [(t.number, t.question, t.state) for t in first] == [
        (1, "q1", TurnState.FINISHED),
        (2, "q2", TurnState.FINISHED),
    ]
    assert first[1].finished is not None
    assert first[1].finished.text == "a2"
    (last,) = await store.turns("acme", "s", after_turn=2, limit=2)
    assert (last.number, last.state, last.finished) == (3, TurnState.RUNNING, None)


async def test_a_deleted_session_is_gone_and_its_running_turn_loses_the_lease(store: Sessions) -> None:
    taken = await take(store)
    await store.delete("acme", "s")
    await store.delete("acme", "s")  # absent is no error
    with pytest.raises(LeaseLost):
        await store.append(taken.lease, [delta(1, "a")])
    again = await take(store)
    with pytest.raises(LeaseLost):  # not even where the name came back
        await store.append(taken.lease, [delta(1, "a")])
    await store.append(again.lease, [delta(1, "a")])


async def test_of_many_that_want_one_session_exactly_one_gets_it(replicas: Replicas) -> None:
    stores = [await replicas.open(), await replicas.open()]
    outcomes = await asyncio.gather(
        *(stores[n % 2].begin(opening(f"r{n}", owner=f"o{n}")) for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Taken) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Busy) for outcome in outcomes) == 19


async def test_a_begin_whose_caller_is_cancelled_leaves_no_lease_behind(store: Sessions) -> None:
    for number in range(2):
        task = asyncio.create_task(store.begin(opening(f"r{number}", session=f"s{number}")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for number in range(2):
        async with asyncio.timeout(4):
            while isinstance(await store.begin(opening("other", session=f"s{number}")), Busy):
                await store.renew([])  # a write takes its turn behind those that wait


async def test_writes_from_many_turns_at_once_all_arrive(replicas: Replicas) -> None:
    stores = [await replicas.open(), await replicas.open()]

    async def turn(number: int) -> None:
        store = stores[number % 2]
        taken = await take(store, session=f"s{number}", owner=str(number))
        for sequence in (1, 2, 3):
            await store.append(taken.lease, [delta(sequence, f"{number}.{sequence}")])
        await finish(store, taken.lease, 4)

    await asyncio.gather(*(turn(number) for number in range(100)))
    for number in range(100):
        log = (await stores[0].progress("acme", f"s{number}", 1, 0)).log
        assert log[:3] == tuple(delta(s, f"{number}.{s}") for s in (1, 2, 3))
        assert [entry.sequence for entry in log] == [1, 2, 3, 4]

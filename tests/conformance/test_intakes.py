"""What every store of uploads keeps: which documents an upload has and what became of them, ``Intake``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from services.retriever.ingest.uploads import Fenced
from services.retriever.types import Outcome
from tests.support.postgresql import postgresql_server
from tests.support.uploads import SENDER, J, Store, T, begin, held, item, put, settle, stores
from weft.errors import Reason, WeftError, error

__all__ = ["postgresql_server", "stores"]


async def test_documents_are_listed_as_they_came_and_their_outcomes_stay(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    upload = await begin(one)
    failure = error(Reason.DOCUMENT_TOO_LARGE, "too large", size_bytes=9)
    sent = [
        item(1, title="T", mime_type="text/plain", metadata={"k": [1, "ä"]}),
        item(2, sha256="", outcome=Outcome.FAILED, error=failure),
        item(3),
    ]
    assert await put(one, *sent) == [True, False, True]
    listed = await other.items(T, J, 0, 10)
    assert [replace(there, error=None, arrived_s=0) for there in listed] == [
        replace(there, upload=upload, error=None) for there in sent
    ]
    assert listed[1].error is not None
    assert (listed[1].error.reason, listed[1].error.metadata) == ("DOCUMENT_TOO_LARGE", {"size_bytes": "9"})
    await settle(other, sent[0])
    (settled,) = await one.items(T, J, 0, 1)
    assert (settled.outcome, settled.chunks, settled.sequence) == (Outcome.INDEXED, 2, 11)
    assert [there.number for there in await one.items(T, J, 1, 10)] == [2, 3]


async def test_the_same_upload_again_is_recognised_and_another_is_refused(stores: tuple[Store, Store]) -> None:
    intake = stores[0].intake
    upload = await begin(intake)
    await put(intake, item(1), item(2))
    await intake.put(T, J, upload, [], total=2, durable=False)
    await settle(intake, item(1))
    assert await begin(stores[1].intake, sender="again") == upload
    assert await put(stores[1].intake, item(1), item(2)) == [False, True]
    await intake.put(T, J, upload, [], total=2, durable=True)
    for other in (item(1, "other.txt"), item(2, size_bytes=1), item(2, metadata={"a": 1}), item(3)):
        with pytest.raises(WeftError) as caught:
            await put(intake, other)
        assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(WeftError) as caught:
        await intake.put(T, J, upload, [], total=1, durable=False)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_receipt_says_how_far_the_upload_is(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    assert await one.receipt(T, J) is None
    upload = await begin(one)
    await put(one, item(1), item(2))
    receipt = await other.receipt(T, J)
    assert receipt is not None
    assert (receipt.count, receipt.complete, receipt.broken) == (2, False, False)
    assert receipt.silent_s < 5
    await asyncio.sleep(0.2)
    silent = await other.receipt(T, J)
    assert silent is not None
    assert silent.silent_s >= 0.15
    await one.sign(T, J, SENDER)
    signed = await other.receipt(T, J)
    assert signed is not None
    assert signed.silent_s < silent.silent_s
    await one.put(T, J, upload, [], total=2, durable=False)
    done = await other.receipt(T, J)
    assert done is not None
    assert (done.complete, done.broken) == (True, False)


async def test_only_the_present_sender_can_break_an_upload_off_and_only_before_it_is_complete(
    stores: tuple[Store, Store],
) -> None:
    intake = stores[0].intake

    async def broken() -> bool:
        receipt = await stores[1].intake.receipt(T, J)
        return receipt is not None and receipt.broken

    await begin(intake, sender="first")
    await begin(intake, sender="second")
    await intake.break_off(T, J, "first")
    assert not await broken()
    await intake.break_off(T, J, "second")
    assert await broken()
    upload = await begin(intake, sender="third")
    assert not await broken()
    await intake.put(T, J, upload, [], total=0, durable=False)
    await intake.break_off(T, J, "third")
    assert not await broken()


async def test_a_worker_with_an_older_fence_can_settle_nothing(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    await begin(one)
    await put(one, item(1))
    await one.take(T, J, 1)
    await other.take(T, J, 2)
    with pytest.raises(Fenced):
        await settle(one, item(1), fence=1)
    with pytest.raises(Fenced):
        await one.take(T, J, 1)
    assert [there.outcome for there in await one.items(T, J, 0, 9)] == [None]
    await settle(other, item(1), fence=2)


async def test_documents_have_the_time_at_which_they_first_came(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    later = "b" * 32
    for job, number in ((J, 1), (later, 1), (J, 2)):
        await begin(one, job)
        await put(one, item(number), job=job)
        await asyncio.sleep(0.002)
    (first, third), (second,) = await other.items(T, J, 0, 9), await other.items(T, later, 0, 9)
    assert abs(first.arrived_s - time.time()) < 60
    assert first.arrived_s < second.arrived_s < third.arrived_s
    await put(other, item(1))  # again
    assert (await one.items(T, J, 0, 1))[0] == first


async def test_waiting_bytes_are_those_of_documents_not_settled(stores: tuple[Store, Store]) -> None:
    intake = stores[0].intake
    await begin(intake)
    await put(intake, item(1), item(2), item(3, outcome=Outcome.FAILED))
    assert await stores[1].intake.waiting_bytes() == 200
    await settle(intake, item(1))
    assert await stores[1].intake.waiting_bytes() == 100
    assert await intake.let_go(await held(intake))
    assert await intake.waiting_bytes() == 0


async def test_letting_go_forgets_what_waited_and_keeps_what_was_settled(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    for job in (J, "b" * 32):
        upload = await begin(one, job)
        await put(one, item(1), item(2), job=job)
        await one.put(T, job, upload, [], total=2, durable=False)
    await settle(one, item(1))
    places = await other.held(0, 10)
    assert [place.job for place in places] == [J, "b" * 32]
    assert [place.job for place in await other.held(places[0].place, 10)] == ["b" * 32]
    assert await one.let_go(places[0])
    assert [place.job for place in await other.held(0, 10)] == [J, "b" * 32]  # until its bytes are removed
    await one.let_gone(places[0])
    assert [place.job for place in await other.held(0, 10)] == ["b" * 32]
    assert [there.number for there in await other.items(T, J, 0, 9)] == [1]
    receipt = await other.receipt(T, J)
    assert receipt is not None
    assert (receipt.count, receipt.complete) == (1, False)
    again = await begin(other)  # sent again: what was lost goes in, by another name
    assert again not in places[0].uploads
    assert await other.put(T, J, again, [item(1), item(2)], total=2) == [False, True]
    assert [there.upload for there in await one.items(T, J, 0, 9)] == [places[0].uploads[-1], again]
    assert [place.job for place in await other.held(0, 10)] == [J, "b" * 32]


async def test_only_the_sender_that_was_seen_is_let_go(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    await begin(one, sender="first")
    seen = await held(other)
    upload = await begin(one, sender="second")
    assert await one.put(T, J, upload, [item(1)], total=1) == [True]
    assert not await other.let_go(seen)
    assert [there.number for there in await other.items(T, J, 0, 9)] == [1]
    seen = await held(other)
    assert await other.let_go(seen)
    assert not await one.let_go(seen)
    assert await one.items(T, J, 0, 9) == []
    upload = await begin(one, sender="third")
    assert await one.put(T, J, upload, [item(1)]) == [True]
    seen = await held(other)
    assert await one.put(T, J, upload, [item(2)], total=2) == [True]
    assert not await other.let_go(seen)  # it was not complete then


async def test_an_upload_with_gaps_is_never_complete(stores: tuple[Store, Store]) -> None:
    """Of two senders of the same, the first broke off before what the second, which began earlier, ends with."""
    intake = stores[0].intake
    upload = await begin(intake)
    assert await intake.put(T, J, upload, [item(1)]) == [True]
    with pytest.raises(WeftError) as caught:
        await intake.put(T, J, upload, [item(3)], total=3)
    assert caught.value.reason == "UPLOAD_INCOMPLETE"
    receipt = await stores[1].intake.receipt(T, J)
    assert receipt is not None
    assert (receipt.count, receipt.complete) == (1, False)  # none of it was listed
    assert await intake.put(T, J, upload, [item(2), item(3)], total=3) == [True, True]


async def test_what_was_let_go_is_held_until_all_its_bytes_are_removed(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    first = await begin(one)
    assert await one.let_go(await held(other))
    # Whoever did that is killed. Another sweep finds what is left, and a sender that is back goes on beside it.
    second = await begin(one, sender="back")
    left = await held(other)
    assert left.uploads == (first, second)
    await one.put(T, J, second, [item(1)], total=1)
    await settle(one, item(1))
    left = await held(other)
    assert await other.let_go(left)
    await begin(one, sender="back again")
    await other.let_gone(left)
    (now,) = (await held(one)).uploads
    assert now not in left.uploads


async def test_documents_that_were_let_go_cannot_be_settled(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    await put(one, item(1))
    (old,) = await other.items(T, J, 0, 9)
    await other.take(T, J, 1)
    assert await one.let_go(await held(one))
    await put(one, item(1))
    with pytest.raises(Fenced):
        await other.settle(T, J, 1, [replace(old, outcome=Outcome.FAILED)])
    (new,) = await one.items(T, J, 0, 9)
    assert new.outcome is None
    await other.settle(T, J, 1, [replace(new, outcome=Outcome.INDEXED)])


async def test_a_sender_that_was_let_go_can_list_nothing_that_waits(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    upload = await begin(one)
    await one.put(T, J, upload, [item(1), item(2)])
    await settle(one, item(1))
    assert await other.let_go(await held(other))
    for items, total in (([item(3)], None), ([item(2)], 2), ([], 2)):
        with pytest.raises(WeftError) as caught:
            await one.put(T, J, upload, items, total=total)
        assert caught.value.reason == "UPLOAD_INCOMPLETE"
    assert await one.put(T, J, upload, [item(1)]) == [False]  # what is in is in
    assert [there.number for there in await other.items(T, J, 0, 9)] == [1]
    with pytest.raises(WeftError):
        await one.put(T, "c" * 32, upload, [item(1)])  # nobody began it


async def test_the_sweep_forgets_old_ingests_that_were_let_go_and_no_others(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    for job in (J, "b" * 32):
        await begin(one, job)
        await put(one, item(1), job=job)
        await settle(one, item(1), job=job)
    seen = await held(other)
    assert await one.let_go(seen)
    await one.let_gone(seen)
    assert not await other.sweep(60.0)
    assert await one.receipt(T, J) is not None
    await asyncio.sleep(0.1)
    assert not await other.sweep(0.05)
    assert await one.receipt(T, J) is None
    assert await one.items(T, J, 0, 9) == []
    assert await one.receipt(T, "b" * 32) is not None


async def test_tenants_see_nothing_of_each_other(stores: tuple[Store, Store]) -> None:
    intake = stores[0].intake
    await begin(intake)
    await put(intake, item(1))
    assert await intake.receipt("other", J) is None
    assert await intake.items("other", J, 0, 9) == []
    assert not await intake.let_go((await held(intake))._replace(tenant="other"))
    await intake.break_off("other", J, SENDER)
    receipt = await intake.receipt(T, J)
    assert receipt is not None
    assert (receipt.count, receipt.broken) == (1, False)


async def test_changes_of_either_are_heard_by_the_other(stores: tuple[Store, Store]) -> None:
    one, other = stores[0].intake, stores[1].intake
    await begin(one)
    seen = await other.changed(0, 0.0)
    while (now := await other.changed(seen, 0.2)) != seen:
        seen = now
    waiting = asyncio.create_task(other.changed(seen, 10.0))
    await asyncio.sleep(0.05)
    await put(one, item(1))
    assert await asyncio.wait_for(waiting, 10.0) != seen

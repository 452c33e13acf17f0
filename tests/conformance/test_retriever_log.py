"""What every change log keeps. See `test_log_arrivals.py` for which of two versions stands."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from services.retriever.logs import _staging
from services.retriever.ports import Changes, Content, Log
from services.retriever.types import CollectionKey
from tests.support.logs import collection, logs, url
from tests.support.postgresql import postgresql_server
from tests.support.retrieval import DIMENSION, KEY, cut, put, record
from weft.errors import WeftError

__all__ = ["logs", "postgresql_server", "url"]
LONG = "\n\n".join(f"Paragraph {number} speaks at some length of one thing. " * 12 for number in range(12))


async def test_a_new_log_has_an_identity_that_its_replicas_share(logs: tuple[Log, Log]) -> None:
    one, other = logs
    assert one.log_id == other.log_id
    assert len(one.log_id) == 32
    assert (await one.read(0)).sequence == 0


async def test_what_one_publishes_the_other_reads_whole(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    document = await put(one, made, "a.txt", LONG)
    changes = await other.read(0)
    (stored,) = changes.documents
    assert changes.sequence == document.sequence == 2
    assert stored.document == document
    assert list(stored.chunks) == cut(LONG)
    assert stored.vectors.shape == (len(stored.chunks), DIMENSION)
    assert np.allclose(np.linalg.norm(stored.vectors, axis=1), 1)


async def test_only_what_changed_after_a_sequence_is_read(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    first = await put(one, made, "a.txt", "one")
    await put(one, made, "b.txt", "two")
    changes = await other.read(first.sequence)
    assert [stored.document.source for stored in changes.documents] == ["b.txt"]
    assert [c.key for c in changes.collections] == [KEY]
    assert (await other.read(changes.sequence)).documents == ()


async def test_a_document_changed_many_times_is_read_once_as_it_stands(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    for text in ("first", "second", "third"):
        await put(one, made, "a.txt", text)
    (stored,) = (await other.read(0)).documents
    assert [piece.text for piece in stored.chunks] == ["third"]
    there = await other.get_collection(KEY)
    assert there is not None
    assert (there.document_count, there.chunk_count, there.sequence) == (1, 1, 4)


async def test_the_same_content_again_takes_no_sequence(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    first = await put(one, made, "a.txt", "same")
    assert await put(other, made, "a.txt", "same") == first
    assert (await one.read(0)).sequence == first.sequence


async def test_a_commit_ends_the_wait_of_both_and_nothing_else_does(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    for log in logs:
        assert await log.wait_changed(0, 5)
        assert not await log.wait_changed(made.sequence, 0)
    waits = [asyncio.create_task(log.wait_changed(made.sequence, 5)) for log in logs]
    await one.stage(made, None, cut(LONG)[:1], np.ones((1, DIMENSION), np.float32))
    assert not await other.wait_changed(made.sequence, 0.1)
    assert not any(wait.done() for wait in waits)
    began_s = time.monotonic()
    await collection(one, CollectionKey("default", "second"))
    assert await asyncio.gather(*waits) == [True, True]
    assert time.monotonic() - began_s < 4


async def test_a_long_log_is_read_in_pages_of_bounded_size(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    names = [(await put(one, made, f"{number}.txt", LONG)).name for number in range(7)]
    size = len(cut(LONG))
    await one.delete_document(made, names[0])
    pages, after = [], 0
    while not pages or pages[-1].more:
        pages.append(await other.read(after, max_chunks=2 * size))
        assert pages[-1].sequence > after
        assert sum(len(stored.chunks) for stored in pages[-1].documents) <= 2 * size
        after = pages[-1].sequence
    assert (
        [[stored.document.name for stored in page.documents] for page in pages]
        == [
            names[1:2],  # beside what has no chunks: the collection, and the document that is gone by now
            names[2:4],
            names[4:6],
            names[6:],
        ]
    )
    assert pages[0].gone_documents == pages[-1].gone_documents == ((made.id, names[0]),)
    assert after == 9
    assert {page.collections for page in pages} == {(await one.get_collection(KEY),)}
    assert await other.read(after) == Changes(after)


async def test_a_document_larger_than_a_page_comes_whole(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    await put(one, made, "a.txt", LONG)
    page = await other.read(made.sequence, max_chunks=2)
    assert [list(stored.chunks) for stored in page.documents] == [cut(LONG)]
    assert not page.more


async def test_a_page_shows_a_document_as_it_stands_now_and_a_later_one_shows_it_again(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    await put(one, made, "a.txt", "first")
    await put(one, made, "b.txt", "between")
    last = await put(one, made, "a.txt", "second")
    page = await other.read(made.sequence, max_chunks=1)
    assert (page.sequence, page.more) == (made.sequence + 1, True)
    assert [stored.document for stored in page.documents] == [last]
    rest = await other.read(page.sequence, max_chunks=5)
    assert [stored.document.source for stored in rest.documents] == ["b.txt", "a.txt"]


async def test_a_log_that_ends_before_what_was_read_has_lost_something(logs: tuple[Log, Log]) -> None:
    made = await collection(logs[0])
    for look in (logs[1].read(made.sequence + 1), logs[1].wait_changed(made.sequence + 1, 5)):
        with pytest.raises(WeftError) as caught:
            await look
        assert caught.value.reason == "STORE_CORRUPT"


async def test_sequences_are_in_commit_order_with_two_writers(logs: tuple[Log, Log]) -> None:
    made = await collection(logs[0])
    seen: list[int] = []

    async def write(log: Log, name: str) -> None:
        for number in range(20):
            seen.append((await put(log, made, f"{name}{number}", f"text {name} {number}")).sequence)

    async def watch() -> None:
        after, documents = 0, 0
        while documents < 40:
            changes = await logs[1].read(after)
            documents += len(changes.documents)
            # A number that comes later than one that was already read would be lost for good.
            assert all(stored.document.sequence > after for stored in changes.documents)
            after = changes.sequence
            await asyncio.sleep(0)

    await asyncio.gather(write(logs[0], "a"), write(logs[1], "b"), watch())
    assert sorted(seen) == list(range(2, 42))


async def test_what_is_staged_is_seen_by_nobody_until_it_is_published(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    pieces = cut(LONG)
    vectors = np.ones((len(pieces), DIMENSION), np.float32)
    batch = await one.stage(made, None, pieces[:5], vectors[:5])
    await one.stage(made, batch, pieces[5:8], vectors[5:8])
    assert (await other.read(0)).documents == ()
    assert (await other.get_collection(KEY)) == made
    await one.publish(made, [Content(record("a.txt", LONG, pieces), pieces[8:], vectors[8:], batch)])
    (stored,) = (await other.read(0)).documents
    assert list(stored.chunks) == pieces


async def test_what_is_staged_lives_from_its_last_chunks_on(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = logs
    made = await collection(one)
    pieces, vectors = cut(LONG), np.ones((len(cut(LONG)), DIMENSION), np.float32)
    monkeypatch.setattr(_staging, "STAGED_LIFE_S", 2.0)
    batch = await one.stage(made, None, pieces[:4], vectors[:4])
    await asyncio.sleep(1.5)
    await one.stage(made, batch, pieces[4:8], vectors[4:8])
    await asyncio.sleep(1.0)
    while await other.sweep():
        pass
    content = Content(record("a.txt", LONG, pieces), pieces[8:], vectors[8:], batch)
    await one.publish(made, [content])
    (stored,) = (await other.read(0)).documents
    assert list(stored.chunks) == pieces


async def test_documents_are_published_together_each_with_a_sequence_of_its_own(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    there = await put(one, made, "there.txt", "as it was")
    texts = {"a.txt": "first", "there.txt": "as it was", "b.txt": LONG}
    contents = []
    for source, text in texts.items():
        pieces = cut(text)
        contents.append(Content(record(source, text, pieces), pieces, np.ones((len(pieces), DIMENSION), np.float32)))
    records = await one.publish(made, contents)
    assert [there.source for there in records] == [*texts]
    assert [there.sequence for there in records] == [there.sequence + 1, there.sequence, there.sequence + 2]
    names = [content.document.name for content in contents]
    known = await other.get_documents(made, [*names, "nobody"])
    assert known == dict(zip(names, records, strict=True))
    now = await other.get_collection(KEY)
    assert now is not None
    assert (now.document_count, now.chunk_count) == (3, sum(len(content.last) for content in contents))


async def test_of_documents_that_are_published_together_all_go_in_or_none(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    pieces = cut("text")
    vectors = np.ones((len(pieces), DIMENSION), np.float32)
    good = Content(record("good.txt", "text", pieces), pieces, vectors)
    with pytest.raises(WeftError):  # of a batch that was swept
        await one.publish(made, [good, Content(record("bad.txt", "text", pieces), pieces, vectors, batch=999)])
    assert await other.list_documents(made, "", 10) == []
    assert (await other.read(0)).sequence == made.sequence


async def test_deleting_a_document_is_one_change_and_leaves_nothing_to_find(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    document = await put(one, made, "a.txt", "gone soon")
    sequence = await other.delete_document(made, document.name)
    assert sequence == document.sequence + 1
    assert await one.get_document(made, document.name) is None
    assert (await one.read(document.sequence)).gone_documents == ((made.id, document.name),)
    assert await other.delete_document(made, document.name) is None


async def test_a_collection_made_anew_is_another_one(logs: tuple[Log, Log]) -> None:
    one, other = logs
    old = await collection(one)
    await put(one, old, "a.txt", "old")
    await one.delete_collection(KEY)
    new = await collection(other)
    assert new.id != old.id
    assert await one.list_documents(new, "", 10) == []
    assert (await one.get_collection(KEY)) == new
    with pytest.raises(WeftError) as caught:
        await put(one, old, "b.txt", "too late")
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    assert old.id in (await other.read(0)).gone_collections


async def test_creating_the_same_collection_twice_makes_one(logs: tuple[Log, Log]) -> None:
    made = await asyncio.gather(collection(logs[0]), collection(logs[1]))
    assert made[0] == made[1]


async def test_tenants_do_not_see_each_other(logs: tuple[Log, Log]) -> None:
    one, other = logs
    mine, yours = await collection(one, CollectionKey("mine", "c")), await collection(one, CollectionKey("yours", "c"))
    document = await put(one, mine, "a.txt", "secret")
    assert await other.get_document(yours, document.name) is None
    assert await other.list_documents(yours, "", 10) == []
    assert [c.key.tenant for c in await other.list_collections("yours", "", 10)] == ["yours"]


async def test_lists_go_on_after_a_name(logs: tuple[Log, Log]) -> None:
    made = await collection(logs[0])
    names = sorted([(await put(logs[0], made, f"{n}.txt", f"text {n}")).name for n in range(5)])
    assert [d.name for d in await logs[1].list_documents(made, "", 3)] == names[:3]
    assert [d.name for d in await logs[1].list_documents(made, names[2], 3)] == names[3:]


async def test_metadata_and_sections_come_back_as_they_went_in(logs: tuple[Log, Log]) -> None:
    from dataclasses import replace

    made = await collection(logs[0])
    piece = replace(cut("text")[0], section=("One", "Two § three"), page=7)
    document = replace(record("a", "text", [piece]), metadata={"年": [1.5, True, None], "deep": {"a": "b"}})
    await logs[0].publish(made, [Content(document, [piece], np.ones((1, DIMENSION), np.float32))])
    (stored,) = (await logs[1].read(0)).documents
    assert stored.chunks == (piece,)
    assert stored.document.metadata == document.metadata


async def test_a_switch_gives_the_name_away_at_once_and_deletes_what_had_it(logs: tuple[Log, Log]) -> None:
    one, other = logs
    old = await collection(one)
    await put(one, old, "a.txt", "the old one")
    aside = await collection(one, CollectionKey(KEY.tenant, "~default"))
    await put(one, aside, "a.txt", "the new one")
    old, new = await one.get_collection(KEY), await one.get_collection(aside.key)
    assert old is not None
    assert new is not None
    before = max(old.sequence, new.sequence)
    sequence = await one.switch(old, new)
    assert sequence == before + 1
    there = await other.get_collection(KEY)
    assert there is not None
    assert (there.id, there.created_s, there.document_count, there.sequence) == (new.id, old.created_s, 1, sequence)
    assert await other.get_collection(aside.key) is None
    told = await other.read(before)
    assert ([record.id for record in told.collections], told.gone_collections) == ([new.id], (old.id,))
    with pytest.raises(WeftError) as caught:
        await put(other, old, "b.txt", "too late")
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    await put(other, there, "b.txt", "in time")


async def test_who_still_has_either_side_of_a_switch_from_before_changes_and_finds_nothing_there(
    logs: tuple[Log, Log],
) -> None:
    one, other = logs
    old = await collection(one)
    document = await put(one, old, "a.txt", "the old one")
    aside = await collection(one, CollectionKey(KEY.tenant, "~default"))
    await put(one, aside, "a.txt", "the new one")
    old, new = await one.get_collection(KEY), await one.get_collection(aside.key)
    assert old is not None
    assert new is not None
    assert await one.switch(old, new) is not None
    for gone in (old, new):
        for change in (other.delete_document(gone, document.name), put(other, gone, "a.txt", "too late")):
            with pytest.raises(WeftError) as caught:
                await change
            assert caught.value.reason == "COLLECTION_NOT_FOUND"
        assert await other.get_documents(gone, [document.name]) == {}
    there = await other.get_collection(KEY)
    assert there is not None
    assert (there.id, there.document_count) == (new.id, 1)
    assert (await other.get_documents(there, [document.name])).keys() == {document.name}
    await one.delete_collection(KEY)
    assert await other.get_documents(there, [document.name]) == {}


async def test_of_a_switch_and_a_deletion_that_are_read_together_both_collections_are_told_to_be_gone(
    logs: tuple[Log, Log],
) -> None:
    one, other = logs
    old, new = await collection(one), await collection(one, CollectionKey(KEY.tenant, "~default"))
    seen = (await other.read(0)).sequence
    assert await one.switch(old, new) is not None
    assert await one.delete_collection(KEY) is not None
    told = await other.read(seen)
    assert (told.collections, set(told.gone_collections)) == ((), {old.id, new.id})


async def test_a_switch_does_nothing_once_either_side_has_changed(logs: tuple[Log, Log]) -> None:
    one, other = logs
    await collection(one)
    aside = CollectionKey(KEY.tenant, "~default")
    await collection(one, aside)
    for changed in (KEY, aside):
        old, new = await one.get_collection(KEY), await one.get_collection(aside)
        assert old is not None
        assert new is not None
        await put(other, old if changed == KEY else new, f"{changed.name}.txt", "changed meanwhile")
        assert await one.switch(old, new) is None
    assert {there.key for there in await one.list_collections(KEY.tenant, "", 9)} == {KEY, aside}
    await one.delete_collection(KEY)
    assert await one.switch(old, new) is None


async def test_what_was_touched_is_told_in_order_and_of_one_collection_only(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made, another = await collection(one), await collection(one, CollectionKey(KEY.tenant, "another"))
    first = await put(one, made, "a.txt", "one")
    await put(one, another, "x.txt", "other")
    second = await put(one, made, "b.txt", "two")
    third = await put(one, made, "a.txt", "three")
    gone = await one.delete_document(made, second.name)
    assert await other.touched(made, first.sequence, 10) == [
        (second.sequence, second.name),
        (third.sequence, third.name),
        (gone, second.name),
    ]
    assert await other.touched(made, 0, 1) == [(first.sequence, first.name)]
    assert gone is not None
    assert await other.touched(made, gone, 10) == []


async def test_a_stored_document_comes_with_its_chunks_and_vectors(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    document = await put(one, made, "a.txt", LONG)
    stored = await other.get_stored(made, document.name)
    assert stored is not None
    assert (stored.document, list(stored.chunks)) == (document, cut(LONG))
    assert stored.vectors.shape == (len(stored.chunks), DIMENSION)
    assert await other.get_stored(made, "nobody") is None

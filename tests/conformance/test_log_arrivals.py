"""Which of two versions stands, in every change log: the one that arrived last, whenever it was worked off."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from services.retriever.logs import _staging
from services.retriever.ports import Log
from services.retriever.types import Collection, CollectionKey, Document
from tests.support.logs import collection, logs, url
from tests.support.postgresql import postgresql_server
from tests.support.retrieval import KEY, BagOfWords, content

__all__ = ["logs", "postgresql_server", "url"]


async def publish(log: Log, made: Collection, text: str, arrived_s: float, *, copied: bool = False) -> Document | None:
    wanted = replace(content("a.txt", text, BagOfWords(), arrived_s), copied=copied)
    (there,) = await log.publish(made, [wanted])
    return there


async def test_an_older_version_changes_nothing(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    newer = await publish(one, made, "newer", 20.5)
    assert newer is not None
    assert await publish(other, made, "older", 10.5) == newer
    assert (await other.read(0)).sequence == newer.sequence
    newest = await publish(other, made, "newest", 20.5)  # no older than what is there
    assert newest is not None
    (stored,) = (await one.read(0)).documents
    assert ([chunk.text for chunk in stored.chunks], stored.document) == (["newest"], newest)


async def test_a_version_that_came_again_is_as_new_as_it_came_last(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    there = await publish(one, made, "as it is", 10)
    assert there is not None
    assert await other.confirm(made, [replace(there, arrived_s=30)]) == [True]
    assert await one.confirm(made, [replace(there, arrived_s=20)]) == [True]
    known = await one.get_document(made, there.name)
    assert known == replace(there, arrived_s=30)
    assert await publish(one, made, "another", 25) == known
    assert (await one.read(0)).sequence == there.sequence
    assert await publish(other, made, "as it is", 40) == known  # published again in place of confirmed
    assert await publish(one, made, "another", 35) == replace(there, arrived_s=40)


async def test_only_what_still_stands_is_confirmed(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    was = await publish(one, made, "as it was", 10)
    now = await publish(other, made, "as it is now", 20)
    assert was is not None
    assert now is not None
    unknown = replace(now, name="unknown")
    assert await one.confirm(made, [was, now, unknown]) == [False, True, False]
    await other.delete_document(made, now.name)
    assert await one.confirm(made, [now]) == [False]
    await other.delete_collection(KEY)
    assert await one.confirm(made, [now]) == [False]


async def test_an_upload_that_waited_does_not_bring_a_deleted_document_back(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    there = await publish(one, made, "as it was", time.time())
    assert there is not None
    waiting_s = time.time()
    deleted = await other.delete_document(made, there.name)
    assert await publish(one, made, "as it was", there.arrived_s) is None
    assert await publish(one, made, "another", waiting_s) is None
    assert await other.get_document(made, there.name) is None
    assert (await other.read(0)).sequence == deleted
    again = await publish(one, made, "another", time.time() + 1)
    assert again is not None
    assert await other.get_document(made, there.name) == again


async def test_a_deletion_is_remembered_where_the_collection_is_moved(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    there = await publish(one, made, "as it was", 10)
    assert there is not None
    await other.delete_document(made, there.name)
    aside = await collection(one, CollectionKey(KEY.tenant, "~default"))
    old = await one.get_collection(KEY)
    assert old is not None
    assert await other.switch(old, aside) is not None
    moved = await one.get_collection(KEY)
    assert moved is not None
    assert await publish(one, moved, "as it was", 10) is None


async def test_a_copy_follows_what_it_copies_whenever_that_arrived(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    newer = await publish(one, made, "newer", 20)
    assert newer is not None
    older = await publish(other, made, "older", 10, copied=True)
    assert older is not None
    assert older.sequence > newer.sequence
    await one.delete_document(made, older.name)
    assert await publish(other, made, "sent again", 30, copied=True) is not None


async def test_a_clock_that_was_ahead_keeps_nothing_out(logs: tuple[Log, Log]) -> None:
    one, other = logs
    made = await collection(one)
    ahead = await publish(one, made, "from the future", time.time() + 3_600)
    assert ahead is not None
    now = await publish(other, made, "of now", time.time())
    assert now is not None
    assert now.sequence == ahead.sequence + 1


async def test_what_nobody_waits_for_any_more_is_forgotten(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = logs
    made = await collection(one)

    async def swept() -> bool:
        while await other.sweep():
            pass
        return await publish(one, made, "text", 10) is not None

    there = await publish(one, made, "text", 10)
    assert there is not None
    await one.delete_document(made, there.name)
    assert not await swept()
    monkeypatch.setattr(_staging, "DELETED_LIFE_S", 0.0)
    assert await swept()

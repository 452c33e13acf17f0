"""Replicas: views that never change, epochs, two replicas over one log."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mesh.deadline import Deadline
from services.retriever.ports import Changes
from services.retriever.replicas.replica import State, next_state
from services.retriever.search.finding import find
from services.retriever.search.queries import ask
from services.retriever.types import CollectionKey, Epoch, Query
from tests.support.retrieval import KEY, BagOfWords, House, house, indexes, put
from weft.errors import WeftError


def query(text: str, **fields: object) -> Query:
    return Query(KEY, text, **fields)  # type: ignore[arg-type]


async def sources(of: House, text: str, **fields: object) -> list[str]:
    found = await of.searcher.search(query(text, **fields), Deadline.after(5))
    return [hit.document.source for hit in found.hits]


async def reached(of: House, sequence: int) -> None:
    await of.replica.reach(Epoch(of.log.log_id, sequence), Deadline.after(5))


async def test_what_one_replica_wrote_the_other_finds_at_that_epoch(tmp_path: Path) -> None:
    async with house(tmp_path) as one, house(tmp_path) as other:
        made = await one.library.create_collection(KEY, "")
        for number in range(10):
            document = await put(one.log, made, f"{number}.txt", f"the word{number} alone")
            epoch = Epoch(one.log.log_id, document.sequence)
            assert (await sources(other, f"word{number}", min_epoch=epoch))[0] == f"{number}.txt"


async def test_an_own_write_is_searched_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        made = await one.library.create_collection(KEY, "")
        document = await put(one.log, made, "a.txt", "found")
        await one.replica.settle(document.sequence)
        assert await sources(one, "found") == ["a.txt"]
        assert one.replica.epoch.sequence == document.sequence


async def test_an_epoch_that_does_not_come_is_an_error_at_the_deadline_with_the_epoch_reached(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        made = await one.library.create_collection(KEY, "")
        await reached(one, made.sequence)
        with pytest.raises(WeftError) as caught:
            await one.replica.reach(Epoch(one.log.log_id, 99), Deadline.after(0.2))
    assert caught.value.reason == "EPOCH_NOT_REACHED"
    assert caught.value.metadata == {"wanted": "99", "reached": "1"}


async def test_an_epoch_of_another_log_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        with pytest.raises(WeftError) as caught:
            await one.replica.reach(Epoch("f" * 32, 0), Deadline.after(5))
    assert caught.value.reason == "EPOCH_FOREIGN"


async def test_replacing_and_deleting_take_the_old_passages_away(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        made = await one.library.create_collection(KEY, "")
        await put(one.log, made, "a.txt", "apples grow on trees")
        await put(one.log, made, "b.txt", "bread is baked")
        changed = await put(one.log, made, "a.txt", "cars drive on roads")
        await reached(one, changed.sequence)
        found = await one.searcher.search(query("apples trees", explain=True), Deadline.after(5))
        assert all(hit.parts["lexical"] == 0 for hit in found.hits)
        gone = await one.library.delete_document(KEY, changed.name)
        await one.replica.reach(gone, Deadline.after(5))
        assert await sources(one, "cars") == ["b.txt"]


async def test_a_deleted_collection_is_unknown_on_every_replica(tmp_path: Path) -> None:
    async with house(tmp_path) as one, house(tmp_path) as other:
        await one.library.create_collection(KEY, "")
        gone = await one.library.delete_collection(KEY)
        for replica in (one, other):
            with pytest.raises(WeftError) as caught:
                await replica.searcher.search(query("x", min_epoch=gone), Deadline.after(5))
            assert caught.value.reason == "COLLECTION_NOT_FOUND"


async def test_a_collection_that_was_moved_and_then_deleted_before_a_replica_looked_is_gone_there_too(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as one:
        old = await one.library.create_collection(KEY, "")
        await put(one.log, old, "a.txt", "to be forgotten")
        before = next_state(State(), await one.log.read(0), indexes())
        assert before.views.keys() == {KEY}
        new = await one.log.create_collection(CollectionKey(KEY.tenant, "~aside"), "none:", "none:", 0)
        old = await one.library.get_collection(KEY)
        assert await one.log.switch(old, new) is not None
        await one.library.delete_collection(KEY)
        after = next_state(before, await one.log.read(before.sequence), indexes())
    assert not after.views


async def test_a_collection_that_replaces_a_younger_one_stays_however_the_log_is_paged(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        new = await one.log.create_collection(CollectionKey(KEY.tenant, "~aside"), "none:", "none:", 0)
        old = await one.library.create_collection(KEY, "")
        assert old.id > new.id
        await put(one.log, old, "a.txt", "the old one")
        before = next_state(State(), await one.log.read(0), indexes())
        for number in range(3):
            await put(one.log, new, f"{number}.txt", "the new one")
        old = await one.library.get_collection(KEY)
        made = await one.log.get_collection(new.key)
        assert made is not None
        assert await one.log.switch(old, made) is not None
        for max_chunks in (1_000, 1):
            state, more = before, True
            while more:
                changes = await one.log.read(state.sequence, max_chunks)
                state, more = next_state(state, changes, indexes()), changes.more
            assert {key: view.live_count for key, view in state.views.items()} == {KEY: 3}


async def test_a_search_keeps_the_state_that_it_began_with(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        made = await one.library.create_collection(KEY, "")
        first = await put(one.log, made, "a.txt", "before")
        await reached(one, first.sequence)
        view = one.replica.state.views[KEY]
        before = find(view, query("before after"), ask(BagOfWords(), "before after"))
        for number in range(40):
            await put(one.log, made, "a.txt", f"after {number}")
        last = await put(one.log, made, "a.txt", "after all")
        await reached(one, last.sequence)
        assert find(view, query("before after"), ask(BagOfWords(), "before after")) == before
        assert [
            hit.chunk.text for hit in find(one.replica.state.views[KEY], query("after"), ask(BagOfWords(), "after"))
        ] == ["after all"]


async def test_searches_beside_changes_never_fail_and_never_see_half_a_document(tmp_path: Path) -> None:
    halves = "\n\n".join(f"{word} " * 110 + "version{0}" for word in ("left", "middle", "right"))
    done = asyncio.Event()
    async with house(tmp_path) as writer, house(tmp_path) as reader:
        made = await writer.library.create_collection(KEY, "")
        first = await put(writer.log, made, "a.txt", halves.format(0))
        await reached(reader, first.sequence)
        searches = 0

        async def search() -> None:
            nonlocal searches
            while not done.is_set():
                found = await reader.searcher.search(query("left middle right", top_k=10), Deadline.after(5))
                versions = {hit.chunk.text.rsplit("version")[-1] for hit in found.hits}
                assert len(found.hits) == 3
                assert len(versions) == 1
                searches += 1
                await asyncio.sleep(0)  # an answer that is remembered waits for nothing

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(search())
            for version in range(1, 40):
                await put(writer.log, made, "a.txt", halves.format(version))
            done.set()
        assert searches > 20


async def test_replicas_that_got_there_differently_answer_alike(tmp_path: Path) -> None:
    chance = random.Random(3)
    words = [f"w{n}" for n in range(40)]
    async with house(tmp_path) as steady:
        made = await steady.library.create_collection(KEY, "")
        sequence = 0
        for _ in range(120):
            source = f"{chance.randrange(30)}.txt"
            text = " ".join(chance.choices(words, k=chance.randint(1, 400)))
            document = await put(steady.log, made, source, text)
            sequence = max(sequence, document.sequence)
            if chance.random() < 0.1:
                sequence = await steady.log.delete_document(made, document.name) or sequence
        await reached(steady, sequence)
        async with house(tmp_path) as fresh:
            for _ in range(30):
                asked = query(" ".join(chance.choices(words, k=4)), top_k=20, explain=True)
                one = await steady.searcher.search(asked, Deadline.after(5))
                other = await fresh.searcher.search(asked, Deadline.after(5))
                assert [h.chunk for h in one.hits] == [h.chunk for h in other.hits]
                assert [h.score for h in one.hits] == [h.score for h in other.hits]


def test_a_state_shares_what_a_change_does_not_touch() -> None:
    from services.retriever.types import Collection

    kept = Collection(CollectionKey("t", "kept"), 1, "none:", "none:", 0, 0.0, 1)
    state = next_state(State(), Changes(1, collections=(kept,)), indexes())
    added = Collection(CollectionKey("t", "added"), 2, "none:", "none:", 0, 0.0, 2)
    after = next_state(state, Changes(2, collections=(added,)), indexes())
    assert after.views[kept.key] is state.views[kept.key]
    assert set(state.views) == {kept.key}


async def test_searches_find_their_own_tenants_passages_alone(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for tenant in ("mine", "yours"):
            made = await one.library.create_collection(CollectionKey(tenant, "c"), "")
            document = await put(one.log, made, "a.txt", f"the secret of {tenant}")
            await reached(one, document.sequence)
        found = await one.searcher.search(Query(CollectionKey("mine", "c"), "secret yours"), Deadline.after(5))
        assert [hit.chunk.text for hit in found.hits] == ["the secret of mine"]

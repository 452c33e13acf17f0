"""What a search needn't do twice: answers and query vectors remembered, identical searches and embeddings joined."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.deadline import Deadline
from services.retriever.embedders.none import NoEmbedder
from services.retriever.ports import Embedder
from services.retriever.search.caching import Lru
from services.retriever.search.filtering import compile_filter
from services.retriever.search.queries import MAX_KEPT, QueryVectors
from services.retriever.types import CollectionKey, Found, Query, Vectors
from services.retriever.workers import Workers
from tests.support.retrieval import KEY, BagOfWords, House, house, put
from weft.errors import Reason, WeftError, error


class Remote(BagOfWords):
    """An embedder that gains from batches, answers when it is let, and may be away."""

    query_batch = 16

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.let = threading.Event()
        self.let.set()
        self.away = False

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        assert self.let.wait(5)
        if self.away:
            raise error(Reason.EMBEDDER_UNAVAILABLE, "it is away", embedder=self.url)
        return super().embed_queries(texts)


class Counting(BagOfWords):
    """Counts what it embeds for searches."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return super().embed_queries(texts)


def openers(embedder: Embedder) -> dict[str, Callable[[], Embedder]]:
    return {"bag:": lambda: embedder, "none:": NoEmbedder}


async def search(of: House, text: str, *, key: CollectionKey = KEY, within_s: float = 5, **fields: object) -> Found:
    return await of.searcher.search(Query(key, text, **fields), Deadline.after(within_s))  # type: ignore[arg-type]


async def fill(of: House, key: CollectionKey = KEY, **documents: str) -> None:
    made = await of.library.create_collection(key, "")
    for name, text in documents.items():
        await put(of.log, made, name, text)
    await of.replica.load()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_a_cache_never_holds_more_than_it_may(steps: list[tuple[int, int]]) -> None:
    cache: Lru[int, int] = Lru(4, 100)
    kept: dict[int, int] = {}
    for key, size in steps:
        cache.put(key, size, size)
        kept[key] = size
        assert len(cache) <= 4
        held = {k: v for k in range(10) if (v := cache.get(k)) is not None}
        assert cache.size_bytes == sum(held.values()) <= 100
        assert all(kept[k] == v for k, v in held.items())
        assert key in held


def test_a_cache_lets_go_of_what_was_used_longest_ago() -> None:
    cache: Lru[str, str] = Lru(2, 100)
    cache.put("a", "1", 1)
    cache.put("b", "2", 1)
    assert cache.get("a") == "1"
    cache.put("c", "3", 1)
    cache.put("large", "4", 101)
    assert [cache.get(key) for key in ("a", "b", "c", "large")] == ["1", None, "3", None]


async def test_the_same_question_again_is_answered_from_the_cache(tmp_path: Path) -> None:
    embedder = Counting()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs", b="the dog sleeps")
        first, second = await search(one, "fox"), await search(one, "fox")
        assert (first.cached, second.cached) == (False, True)
        assert first.hits == second.hits
        fresh = await search(one, "fox", allow_cached=False)
        assert (fresh.cached, fresh.hits) == (False, first.hits)
        assert embedder.asked == ["fox"]


@pytest.mark.parametrize(
    "fields",
    [{"top_k": 1}, {"max_per_document": 1}, {"explain": True}, {"filter": compile_filter("source = b")}],
)
async def test_another_option_is_another_question(fields: dict[str, object], tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs", b="the fox sleeps")
        plain = await search(one, "fox")
        other = await search(one, "fox", **fields)
        assert not other.cached
        assert other.hits != plain.hits or fields == {"max_per_document": 1}
        assert (await search(one, "fox")).hits == plain.hits


async def test_a_change_of_the_collection_makes_its_answers_pass_and_no_others(tmp_path: Path) -> None:
    other_key = CollectionKey("default", "other")
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs")
        await fill(one, other_key, a="the fox rests")
        for key in (KEY, other_key):
            await search(one, "fox", key=key)
        await fill(one, b="a fox fox")
        changed = await search(one, "fox", min_epoch=one.replica.epoch)
        assert not changed.cached
        assert len(changed.hits) == 2
        assert (await search(one, "fox", key=other_key, min_epoch=one.replica.epoch)).cached
        assert (await search(one, "fox", key=other_key)).epoch == one.replica.epoch


async def test_a_collection_made_anew_has_no_old_answers(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs")
        await search(one, "fox")
        await one.library.delete_collection(KEY)
        await fill(one, b="another fox")
        found = await search(one, "fox")
        assert [hit.document.source for hit in found.hits] == ["b"]
        assert not found.cached


async def test_answers_of_one_tenant_are_not_anothers(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        for tenant in ("mine", "yours"):
            await fill(one, CollectionKey(tenant, "c"), a=f"the fox of {tenant}")
        for tenant in ("mine", "yours", "mine", "yours"):
            (hit,) = (await search(one, "fox", key=CollectionKey(tenant, "c"))).hits
            assert hit.chunk.text == f"the fox of {tenant}"


async def test_what_was_found_without_the_embedder_is_not_remembered(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs", b="the dog sleeps")
        embedder.away = True
        lacking = await search(one, "fox")
        assert [lack.reason for lack in lacking.lacks] == ["EMBEDDER_UNAVAILABLE"]
        assert [hit.document.source for hit in lacking.hits] == ["a"]
        embedder.away = False
        assert (await search(one, "fox")).lacks  # it is left alone for a moment
        assert len(embedder.batches) == 1
        one.vectors._lines["bag:"].failed_s -= 10
        whole = await search(one, "fox")
        assert (whole.lacks, whole.cached, len(whole.hits)) == ((), False, 2)


async def test_identical_searches_at_once_are_one(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs")
        embedder.let.clear()
        searches = [asyncio.create_task(search(one, "fox")) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert len(one.searcher._being_found) == 1
        embedder.let.set()
        found = await asyncio.gather(*searches)
        assert all(answer.hits == found[0].hits for answer in found)
        assert embedder.batches == [["fox"]]
        assert not one.searcher._being_found


async def test_one_who_goes_away_takes_nothing_from_the_others(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs")
        embedder.let.clear()
        searches = [asyncio.create_task(search(one, "fox")) for _ in range(5)]
        await asyncio.sleep(0.02)
        searches[0].cancel()  # the one that finds
        searches[1].cancel()
        await asyncio.sleep(0.02)
        embedder.let.set()
        found = await asyncio.gather(*searches, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in found] == [True, True, False, False, False]
        assert all(answer.hits for answer in found[2:])  # type: ignore[union-attr]
        assert embedder.batches == [["fox"]]


async def test_questions_of_a_moment_are_embedded_together(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs")
        await asyncio.gather(*(search(one, f"fox {number}") for number in range(40)))
        assert sorted(text for batch in embedder.batches for text in batch) == sorted(f"fox {n}" for n in range(40))
        assert [len(batch) for batch in embedder.batches] == [16, 16, 8]


async def test_an_embedder_that_hangs_costs_a_search_half_its_time_and_not_its_answer(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs")
        embedder.let.clear()
        found = await search(one, "fox", within_s=0.4)
        assert [hit.document.source for hit in found.hits] == ["a"]
        assert "did not answer" in found.lacks[0].detail
        embedder.let.set()


async def test_an_embedder_that_hangs_costs_those_who_ask_the_same_no_more(tmp_path: Path) -> None:
    embedder = Remote()
    async with house(tmp_path, openers=openers(embedder)) as one:
        await fill(one, a="the fox runs")
        embedder.let.clear()
        found = await asyncio.gather(*(search(one, "fox", within_s=4.0) for _ in range(30)))
        assert [answer.hits[0].document.source for answer in found] == ["a"] * 30
        # The first waits 2 s, the others then 1 s at once: not each half of what the one before has left it.
        waited_s = [float(answer.lacks[0].detail.split()[-2]) for answer in found]
        assert min(waited_s) > 0.3, waited_s
        embedder.let.set()


async def test_vectors_are_remembered_within_bounds() -> None:
    embedder, workers = Counting(), Workers("test", 1, 10)
    vectors = QueryVectors(workers)
    for number in range(3):
        asked = await vectors.get(embedder, f"fox {number}")
        assert vectors.known(embedder, f"fox {number}") is asked
    for number in range(MAX_KEPT):
        vectors.keep(embedder, f"other {number}", asked)
    assert vectors.known(embedder, "fox 0") is None
    await vectors.close()
    workers.close()


async def test_closing_ends_those_who_wait() -> None:
    embedder, workers = Remote(), Workers("test", 1, 10)
    vectors = QueryVectors(workers)
    embedder.let.clear()
    waiting = [asyncio.create_task(vectors.get(embedder, f"fox {number}")) for number in range(3)]
    await asyncio.sleep(0.01)
    await vectors.close()
    embedder.let.set()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in done)
    workers.close()


async def test_other_failures_reach_those_who_asked() -> None:
    class Broken(BagOfWords):
        query_batch = 4

        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            raise error(Reason.OVERLOADED, "too much")

    workers = Workers("test", 1, 10)
    vectors = QueryVectors(workers)
    for _ in range(2):
        with pytest.raises(WeftError) as caught:
            await vectors.get(Broken(), "fox")
        assert caught.value.reason == "OVERLOADED"
    await vectors.close()
    workers.close()

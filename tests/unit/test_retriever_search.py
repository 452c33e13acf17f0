"""Searching: both sides, caps, highlights, and what an answer says it had to do without."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.deadline import Deadline
from services.retriever.embedders.none import NoEmbedder
from services.retriever.search.finding import find, highlights
from services.retriever.search.queries import ask
from services.retriever.types import Found, Query
from tests.support.retrieval import KEY, BagOfWords, House, house, put
from weft.errors import WeftError

LONG = "\n\n".join(f"The fox number {number} runs. " * 30 for number in range(8))


async def search(of: House, text: str, **fields: object) -> Found:
    return await of.searcher.search(Query(KEY, text, **fields), Deadline.after(5))  # type: ignore[arg-type]


async def fill(of: House, **documents: str) -> None:
    made = await of.library.create_collection(KEY, "")
    for name, text in documents.items():
        await put(of.log, made, name, text)
    await of.replica.load()


async def test_hits_come_best_first_with_their_document(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs", b="the dog sleeps", c="a fox and a fox")
        found = await search(one, "fox", top_k=2)
        assert [hit.document.source for hit in found.hits] == ["c", "a"]
        assert found.hits[0].score > found.hits[1].score
        assert found.lacks == ()


async def test_explain_gives_each_sides_own_score(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs", b="the dog sleeps")
        (first, second) = (await search(one, "fox", explain=True)).hits
        assert first.parts["lexical"] > 0 == second.parts["lexical"]
        assert 1 >= first.parts["dense"] > second.parts["dense"] >= -1
        assert (await search(one, "fox")).hits[0].parts == {}


async def test_a_cap_per_document_makes_room_for_others(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a=LONG, b="a fox once", c="no such animal")
        uncapped = [hit.document.source for hit in (await search(one, "fox runs", top_k=3)).hits]
        capped = [hit.document.source for hit in (await search(one, "fox runs", top_k=3, max_per_document=1)).hits]
        assert uncapped == ["a", "a", "a"]
        assert sorted(capped) == ["a", "b", "c"]


async def test_one_document_cannot_fill_all_the_candidates_of_a_capped_search(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        others = {f"other{number}": f"dog {number} and a fox" for number in range(7)}
        await fill(one, a="\n\n".join(f"The fox number {n} runs, the fox. " * 12 for n in range(300)), **others)
        found = await search(one, "the fox runs", top_k=5, max_per_document=1)
        assert len({hit.document.source for hit in found.hits}) == 5
        everything = await search(one, "the fox runs", top_k=20, max_per_document=1)
        assert len(everything.hits) == 8


async def test_what_an_embedder_knows_nothing_of_is_left_to_the_words(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        # By cosine the first is nearer; by BM25 the second, where the word stands twice.
        await fill(one, near="fox", often="fox fox dog cat cow hen pig cub owl", other="dog cat")
        view = one.replica.state.views[KEY]
        blind = find(view, Query(KEY, "fox owl", top_k=1), ask(BagOfWords(knowledge=0.0), "fox owl"))
        sighted = find(view, Query(KEY, "fox owl", top_k=1), ask(BagOfWords(knowledge=1.0), "fox owl"))
        lexical = find(view, Query(KEY, "fox owl", top_k=1), None)
        assert blind[0].chunk == lexical[0].chunk
        assert sighted[0].score != blind[0].score


async def test_without_its_embedder_a_collection_is_searched_by_words_and_says_so(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs", b="the dog sleeps")
    async with house(tmp_path, openers={"none:": NoEmbedder}) as other:
        found = await search(other, "fox")
        assert [hit.document.source for hit in found.hits] == ["a"]
        assert [lack.fallback for lack in found.lacks] == ["lexical_only"]


async def test_an_embedder_of_another_dimension_is_not_used(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        await fill(one, a="the fox runs")
    async with house(tmp_path, openers={"bag:": NoEmbedder}) as other:
        (lack,) = (await search(other, "fox")).lacks
        assert "64" in lack.detail


async def test_a_collection_made_without_its_embedder_says_so_each_time(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="away:") as one:
        await fill(one, a="the fox runs", b="the dog sleeps")
        found = await search(one, "fox")
        assert [hit.document.source for hit in found.hits] == ["a"]
        (lack,) = found.lacks
        assert (lack.stage, lack.reason, lack.fallback) == ("embedding", "EMBEDDER_UNAVAILABLE", "lexical_only")


async def test_a_collection_that_was_to_have_no_embedder_lacks_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        await fill(one, a="the fox runs")
        assert (await search(one, "fox")).lacks == ()


async def test_words_that_nobody_wrote_find_nothing_by_words(tmp_path: Path) -> None:
    async with house(tmp_path, embedder="none:") as one:
        await fill(one, a="the fox runs")
        assert (await search(one, "zebra")).hits == ()


async def test_an_unknown_collection_is_named(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        with pytest.raises(WeftError) as caught:
            await search(one, "fox")
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    assert caught.value.metadata == {"collection": "collections/default"}


def test_highlights_mark_the_words_that_matched() -> None:
    text = "Foxes run. A fox ran over the 黑豹队的防守."
    marked = [text[start:end] for start, end in highlights(text, {"fox", "黑豹", "豹队"})]
    assert marked == ["fox", "黑豹队"]

"""What every vector index keeps, one's own or shared. A backend joins by adding its URL to ``BACKENDS``.

Questions are of words that no passage has, so the words find nothing and the order is that of the vectors alone: it
is compared with cosines computed here, one by one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mesh.deadline import Deadline
from services.retriever.search.filtering import compile_filter
from services.retriever.search.fusion import MIN_CANDIDATES
from services.retriever.types import CollectionKey, Document, Epoch, Found, Query
from tests.support.postgresql import PostgresqlServer, postgresql_server  # noqa: F401 - a fixture
from tests.support.retrieval import KEY, OPENERS, BagOfWords, House, house, put

BACKENDS = ["faiss", pytest.param("pgvector", marks=pytest.mark.postgresql)]
WORDS = ["fox", "owl", "hare", "wolf", "lynx", "crane", "stork", "adder", "newt", "toad", "heron", "shrew", "vole"]
ASKED = ["zyx", "quux frob", "blorp", "Ünïcödé", "未知"]


@pytest.fixture(params=BACKENDS)
async def index(request: pytest.FixtureRequest) -> str:
    """URL of an index with nothing in it."""
    if request.param == "faiss":
        return "faiss:"
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    return await server.make_index()


async def ask(of: House, text: str, sequence: int, key: CollectionKey = KEY, **fields: object) -> Found:
    fields = {"top_k": 10, "explain": True, "min_epoch": Epoch(of.log.log_id, sequence), **fields}
    found = await of.searcher.search(Query(key, text, **fields), Deadline.after(20))  # type: ignore[arg-type]
    assert found.lacks == ()
    assert found.epoch.sequence >= sequence
    return found


def ranked(found: Found) -> list[tuple[str, float]]:
    return [(hit.document.source, hit.parts["dense"]) for hit in found.hits]


def nearest(texts: Mapping[str, str], names: Mapping[str, str], text: str, k: int) -> list[tuple[str, float]]:
    """By hand: sources of one-passage documents by cosine, ties by document name."""
    bag = BagOfWords()
    query = bag.embed_queries([text])[0]
    scored = [(source, float(bag.embed([body])[0] @ query)) for source, body in texts.items()]
    return sorted(scored, key=lambda one: (-round(one[1], 5), names[one[0]]))[:k]


def same(found: Found, wanted: list[tuple[str, float]]) -> None:
    assert [source for source, _ in ranked(found)] == [source for source, _ in wanted]
    assert np.allclose([score for _, score in ranked(found)], [score for _, score in wanted], atol=1e-5)


def bodies(chance: random.Random, count: int) -> dict[str, str]:
    return {f"{number}.txt": " ".join(chance.choices(WORDS, k=chance.randint(1, 9))) for number in range(count)}


async def filled(of: House, texts: Mapping[str, str], key: CollectionKey = KEY) -> dict[str, Document]:
    made = await of.log.create_collection(key, "bag:", "bag:", BagOfWords.dimension)
    return {source: await put(of.log, made, source, text) for source, text in texts.items()}


async def test_an_empty_collection_has_no_hits(index: str, tmp_path: Path) -> None:
    async with house(tmp_path, index=index) as one:
        made = await one.log.create_collection(KEY, "bag:", "bag:", BagOfWords.dimension)
        assert (await ask(one, "zyx", made.sequence)).hits == ()


async def test_the_nearest_come_first_and_equals_in_the_order_of_their_documents(index: str, tmp_path: Path) -> None:
    texts = bodies(random.Random(1), 120)
    texts |= {f"again-{source}": text for source, text in texts.items()}  # every vector at least twice
    async with house(tmp_path, index=index) as one:
        documents = await filled(one, texts)
        names = {source: document.name for source, document in documents.items()}
        for text in ASKED:
            same(await ask(one, text, len(texts) + 1), nearest(texts, names, text, 10))


async def test_more_are_asked_for_than_there_are(index: str, tmp_path: Path) -> None:
    texts = bodies(random.Random(2), 7)
    async with house(tmp_path, index=index) as one:
        documents = await filled(one, texts)
        names = {source: document.name for source, document in documents.items()}
        same(await ask(one, "zyx", 8, top_k=100), nearest(texts, names, "zyx", 100))


@pytest.mark.parametrize("share", ["few", "most"])
async def test_a_filter_comes_first(index: str, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.retriever.search.finding._MAX_NAMES", 50)  # so that both ways are gone
    texts = bodies(random.Random(3), 200)
    few = {"7.txt", "70.txt"}
    pattern = 'source = "7.txt" OR source = "70.txt"' if share == "few" else 'source != "7.txt" AND source != "70.txt"'
    left = {source: text for source, text in texts.items() if (source in few) == (share == "few")}
    async with house(tmp_path, index=index) as one:
        documents = await filled(one, texts)
        names = {source: document.name for source, document in documents.items()}
        for text in ASKED:
            found = await ask(one, text, 201, filter=compile_filter(pattern))
            same(found, nearest(left, names, text, 10))


async def test_what_was_deleted_is_gone_and_what_was_replaced_is_found_as_it_is_now(index: str, tmp_path: Path) -> None:
    chance = random.Random(4)
    texts = bodies(chance, 150)
    async with house(tmp_path, index=index) as one:
        documents = await filled(one, texts)
        names = {source: document.name for source, document in documents.items()}
        made = await one.log.get_collection(KEY)
        assert made is not None
        sequence = 0
        for source in chance.sample(sorted(texts), 90):
            if chance.random() < 0.6:
                sequence = await one.log.delete_document(made, names[source]) or 0
                del texts[source]
            else:
                texts[source] = " ".join(chance.choices(WORDS, k=5))
                sequence = (await put(one.log, made, source, texts[source])).sequence
        for text in ASKED:
            same(await ask(one, text, sequence), nearest(texts, names, text, 10))


async def test_names_of_every_script_and_texts_of_several_passages(index: str, tmp_path: Path) -> None:
    texts = {
        "naïve.txt": "fox",
        "文档.txt": "owl",
        "emoji 🦊.txt": "hare wolf",
        "quote'\"\\.txt": "lynx",
        "e\u0301.txt": "newt",
    }
    long = "\n\n".join(f"{word} {word} stands in a passage of its own. " * 20 for word in WORDS)
    async with house(tmp_path, index=index) as one:
        documents = await filled(one, {**texts, "long.txt": long})
        assert documents["long.txt"].chunk_count > 5
        found = await ask(one, "zyx", len(texts) + 2, top_k=100)
        assert {hit.document.source for hit in found.hits} == {*texts, "long.txt"}
        numbers = sorted(hit.chunk.number for hit in found.hits if hit.document.source == "long.txt")
        assert numbers == list(range(documents["long.txt"].chunk_count))
        for hit in found.hits:
            vector, query = OPENERS["bag:"]().embed([hit.chunk.text])[0], BagOfWords().embed(["zyx"])[0]
            assert hit.parts["dense"] == pytest.approx(float(vector @ query), abs=1e-5)


async def test_collections_and_tenants_are_apart_and_one_made_anew_begins_empty(index: str, tmp_path: Path) -> None:
    keys = [CollectionKey(tenant, name) for tenant in ("a", "b") for name in ("one", "two")]
    async with house(tmp_path, index=index) as one:
        for key in keys:
            made = await one.log.create_collection(key, "bag:", "bag:", BagOfWords.dimension)
            for number in range(MIN_CANDIDATES + 5):
                document = await put(one.log, made, f"{key.tenant}-{key.name}-{number}.txt", "fox owl")
        for key in keys:
            found = await ask(one, "zyx", document.sequence, key, top_k=100)
            assert len(found.hits) == MIN_CANDIDATES + 5
            assert all(hit.document.source.startswith(f"{key.tenant}-{key.name}-") for hit in found.hits)
        await one.log.delete_collection(keys[0])
        made = await one.log.create_collection(keys[0], "bag:", "bag:", BagOfWords.dimension)
        document = await put(one.log, made, "anew.txt", "hare")
        assert [hit.document.source for hit in (await ask(one, "zyx", document.sequence, keys[0])).hits] == ["anew.txt"]


async def test_a_collection_that_was_moved_to_another_embedder_is_found_under_its_name(
    index: str, tmp_path: Path
) -> None:
    async with house(tmp_path, index=index) as one:
        await filled(one, {"a.txt": "fox owl", "b.txt": "hare"})
        aside = CollectionKey(KEY.tenant, "~" + KEY.name)
        await filled(one, {"a.txt": "fox owl", "b.txt": "hare"}, aside)
        old, new = await one.log.get_collection(KEY), await one.log.get_collection(aside)
        assert old is not None
        assert new is not None
        sequence = await one.log.switch(old, new)
        assert sequence is not None
        found = await ask(one, "zyx", sequence)
        assert {hit.document.source for hit in found.hits} == {"a.txt", "b.txt"}
        assert one.replica.state.views[KEY].collection.id == new.id


async def test_a_restart_finds_the_same(index: str, tmp_path: Path) -> None:
    texts = bodies(random.Random(5), 60)
    async with house(tmp_path, index=index) as one:
        await filled(one, texts)
        before = [ranked(await ask(one, text, 61)) for text in ASKED]
    async with house(tmp_path, index=index) as other:
        assert [ranked(await ask(other, text, 61)) for text in ASKED] == before


async def test_words_and_vectors_together_answer_as_with_an_index_of_one_s_own(index: str, tmp_path: Path) -> None:
    texts = bodies(random.Random(6), 300)
    async with house(tmp_path, index=index) as one, house(tmp_path) as own:
        documents = await filled(one, texts)
        last = max(document.sequence for document in documents.values())
        for text in [*WORDS, "fox owl", "zyx newt", "toad hare zyx"]:
            for cap in (0, 1):
                found = await ask(one, text, last, max_per_document=cap)
                wanted = await ask(own, text, last, max_per_document=cap)
                assert [hit.score for hit in found.hits] == pytest.approx([h.score for h in wanted.hits], abs=1e-3)
                assert [hit.parts["lexical"] for hit in found.hits] == [hit.parts["lexical"] for hit in wanted.hits]

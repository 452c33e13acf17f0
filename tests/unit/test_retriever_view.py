"""Views: segments that answer as one, whatever came and went to make them."""

from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.ports import StoredDocument
from services.retriever.replicas.merging import Job, with_joined
from services.retriever.replicas.replica import State
from services.retriever.search.finding import find
from services.retriever.search.queries import ask
from services.retriever.segments.joining import join
from services.retriever.segments.view import View
from services.retriever.types import Chunk, Collection, Document, Query
from tests.support.retrieval import DIMENSION, KEY, BagOfWords, indexes

WORDS = [f"w{n}" for n in range(12)]
COLLECTION = Collection(KEY, 1, "bag:", "bag:", DIMENSION, 0.0, 1)


def stored(name: str, *texts: str, metadata: dict[str, object] | None = None) -> StoredDocument:
    chunks = tuple(Chunk(n, text, n * 10, n * 10 + 5, ("Top", f"Part {n}"), n + 1) for n, text in enumerate(texts))
    document = Document(name, f"{name}.txt", "", "text/plain", "0" * 64, 9, len(chunks), metadata or {}, 1.5, 7)
    return StoredDocument(KEY, 1, document, chunks, BagOfWords().embed(texts))


def view_of(*documents: StoredDocument) -> View:
    return View.empty(COLLECTION, indexes()).changed(COLLECTION, documents, [])


def answers(view: View, text: str) -> list[tuple[str, int, str, float, float, float]]:
    hits = find(view, Query(KEY, text, top_k=10, explain=True), ask(BagOfWords(), text))
    return [
        (hit.document.name, hit.chunk.number, hit.chunk.text, hit.score, hit.parts["dense"], hit.parts["lexical"])
        for hit in hits
    ]


texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=0, max_size=3)
changes = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcdefgh"), texts, max_size=4),
        st.lists(st.sampled_from("abcdefgh"), max_size=2),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    changes, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), st.randoms(use_true_random=False)
)
def test_after_any_changes_a_view_answers_as_one_built_anew(
    steps: list[tuple[dict[str, list[str]], list[str]]], query: str, joins: random.Random
) -> None:
    view, kept = View.empty(COLLECTION, indexes()), dict[str, StoredDocument]()
    job, joined = None, None
    for put, gone in steps:
        if joins.random() < 0.4 and view.parts:  # a join begins, and is done some changes later
            job = Job(KEY, 1, tuple(joins.sample(view.parts, joins.randint(1, len(view.parts)))))
            joined = join(job.parts, indexes(), settled=True)
        documents = [stored(name, *pieces) for name, pieces in put.items()]
        removed = [name for name in gone if name not in put]
        view = view.changed(COLLECTION, documents, removed)
        for name in removed:
            kept.pop(name, None)
        kept.update({one.document.name: one for one in documents})
        if job and joined and joins.random() < 0.6:
            view = with_joined(State(1, {KEY: view}), job, joined).views[KEY]
            job = None
    anew = view_of(*kept.values())
    assert view.live_count == anew.live_count
    assert answers(view, query) == answers(anew, query)  # to the last bit
    for word in WORDS:
        assert view.share(word) == anew.share(word)


def test_what_goes_in_comes_out_with_every_field() -> None:
    document = Document(
        "naïve",
        "dir/naïve.md",
        "Größe 大",
        "text/markdown",
        "ab" * 32,
        12,
        2,
        {"n": 1.5, "list": ["ü", None]},
        0.1,
        99,
        3.5,
    )
    chunks = (Chunk(0, "first 💡", 0, 8, (), 0), Chunk(1, "second", 1 << 30, (1 << 30) + 6, ("A", "B"), 12))
    view = view_of(StoredDocument(KEY, 1, document, chunks, BagOfWords().embed(["a", "b"])))
    assert all(getattr(document, field.name) for field in fields(Document))  # no default hides a field that was lost
    assert [view.entry(slot) for slot in range(2)] == [(document, chunk) for chunk in chunks]


def test_a_change_leaves_the_view_it_was_made_of_as_it_was() -> None:
    old = view_of(stored("a", "one two", "two three"), stored("b", "two"))
    before = answers(old, "two")
    old.changed(COLLECTION, [stored("a", "two two")], ["b"])
    assert answers(old, "two") == before


def test_the_version_is_another_after_every_change_and_the_same_after_a_regrouping() -> None:
    first = view_of(stored("a", "one"))
    second = first.changed(COLLECTION, [], ["a"])
    assert len({View.empty(COLLECTION, indexes()).version, first.version, second.version}) == 3
    assert first.with_parts(first.parts).version == first.version


def test_a_segment_of_which_nothing_stands_is_let_go() -> None:
    view = view_of(stored("a", "one"), stored("b", "two"))
    assert view.changed(COLLECTION, [], ["a", "b"]).parts == ()


def test_ties_between_segments_fall_by_document_and_chunk() -> None:
    names = [f"doc{n:02}" for n in range(40)]
    random.Random(1).shuffle(names)
    view = View.empty(COLLECTION, indexes())
    for name in names:
        view = view.changed(COLLECTION, [stored(name, "same words", "same words")], [])
    slots, _ = view.search_words({"same": 1}, 5)
    assert sorted(view.place(int(slot)) for slot in slots) == [
        (b"doc00", 0), (b"doc00", 1), (b"doc01", 0), (b"doc01", 1), (b"doc02", 0)
    ]  # fmt: skip
    near, _ = view.search_dense(BagOfWords().embed_queries(["same words"]), 5)
    assert sorted(near.tolist()) == sorted(slots.tolist())


def test_a_filter_is_asked_once_per_document_and_remembered() -> None:
    view = view_of(stored("a", "one", "two", metadata={"lang": "de"}), stored("b", "one", metadata={"lang": "en"}))
    view = view.changed(COLLECTION, [stored("c", "one", metadata={"lang": "de"})], [])
    asked: list[str] = []

    def german(document: Document) -> bool:
        asked.append(document.name)
        return document.metadata["lang"] == "de"

    allowed = view.matching("german", german)
    assert [view.entry(int(slot)).document.name for slot in np.flatnonzero(allowed)] == ["a", "a", "c"]
    view.changed(COLLECTION, [stored("d", "one", metadata={"lang": "de"})], ["a"]).matching("german", german)
    assert sorted(asked) == ["a", "b", "c", "d"]
    slots, _ = view.search_words({"one": 1}, 5, allowed)
    assert {view.entry(int(slot)).document.name for slot in slots} == {"a", "c"}
    near, _ = view.search_dense(BagOfWords().embed_queries(["one"]), 5, allowed)
    assert {view.entry(int(slot)).document.name for slot in near} == {"a", "c"}


def test_documents_whose_names_share_a_key_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.retriever.segments.segment.term_key", lambda term: len(term) % 2)
    view = view_of(*(stored(name, f"word {name}") for name in ("a", "b", "cc", "dd")))
    view = view.changed(COLLECTION, [], ["b", "dd", "zz"])
    assert sorted({name for name, *_ in answers(view, "word")}) == ["a", "cc"]

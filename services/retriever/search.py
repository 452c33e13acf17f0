"""Answers a query: the best chunks of a collection, from both sides, fused.

    min_epoch reached -> view -> query embedded -> best of each side -> scored on both -> fused -> capped

A filter comes before all of that: what it leaves out is no candidate.

A search takes one ``State`` and stays with it. Its work runs on a bounded pool, one thread to a search, but for
small ones that need no embedding: those are over before a thread would have begun. Where
the collection's embedder is not to be had, the words alone answer, and the answer says so.

Errors: COLLECTION_NOT_FOUND; EPOCH_FOREIGN and EPOCH_NOT_REACHED; OVERLOADED when too many searches wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from mesh.deadline import Deadline
from services.retriever.embedding import Embedders
from services.retriever.fusion import candidate_count, fuse
from services.retriever.lexicon import spans, weighted
from services.retriever.ports import Embedder, Scores, Slots
from services.retriever.replica import Replica
from services.retriever.types import CollectionKey, Found, Hit, Lack, Query
from services.retriever.view import View
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

_OVER_FETCH: Final = 4  # with a cap per document, hits that fall to it need others to take their place
# Up to here, and without embedding, a search takes about half a millisecond: less than handing it to a
# thread and back costs a busy process.
_INLINE_SLOTS: Final = 2_000
_MAX_HIGHLIGHTS: Final = 64
_TELLS_NOTHING: Final = 0.3  # a word in this share of all passages is not worth a highlight


class Searcher:
    """Searches what the replica holds."""

    def __init__(self, replica: Replica, embedders: Embedders, workers: Workers) -> None:
        self._replica, self._embedders, self._workers = replica, embedders, workers

    async def search(self, query: Query, deadline: Deadline) -> Found:
        """Answer ``query``."""
        if query.min_epoch is not None:
            await self._replica.reach(query.min_epoch, deadline)
        state, epoch = self._replica.state, self._replica.epoch
        view = state.views.get(query.key)
        if view is None:
            raise unknown_collection(query.key)
        embedder, lacks = await self._embedder(view)
        small = view.size <= _INLINE_SLOTS and query.filter is None
        if small and (embedder is None or embedder.remembers(query.text)):
            hits = find(view, query, embedder)
        else:
            hits = await self._workers.run(find, view, query, embedder)
        return Found(hits, epoch, lacks)

    async def _embedder(self, view: View) -> tuple[Embedder | None, tuple[Lack, ...]]:
        collection = view.collection
        if collection.dimension == 0:
            if collection.embedder == collection.wanted_embedder:
                return None, ()
            why = f"{collection.wanted_embedder} was not there when {collection.key.resource} was made"
            return None, (_lack(f"{why}; once it is, delete the collection and ingest again"),)
        try:
            return await self._embedders.get(collection.embedder, collection.dimension), ()
        except WeftError as err:
            return None, (_lack(err.message),)


def find(view: View, query: Query, embedder: Embedder | None) -> tuple[Hit, ...]:
    """The hits of ``query`` in ``view``, best first. Pure but for the embedder's cache."""
    words = weighted(query.text)
    count = candidate_count(query.top_k * (_OVER_FETCH if query.max_per_document else 1))
    allowed = None if query.filter is None else view.matching(query.filter, query.filter.matches)
    cosines: Scores | None = None
    if embedder is not None and view.collection.dimension:
        vector = embedder.embed_query(query.text)
        near, cosines = view.search_dense(vector, count, allowed)
        slots, bm25 = view.search_words(words, count, allowed, also=near)
        cosines = np.concatenate((cosines, view.cosines_of(vector, slots[len(near) :])))
        # Fusing sums over the candidates: in an order that doesn't depend on their slots, it rounds alike everywhere.
        order = np.lexsort((bm25, cosines))
        slots, cosines, bm25 = slots[order], cosines[order], bm25[order]
        fused = fuse(cosines, bm25, embedder.knowledge(query.text))
    else:
        slots, bm25 = view.search_words(words, count, allowed)
        fused = bm25
    chosen = _chosen(view, query, slots, fused)
    if not query.explain:
        return tuple(Hit(*view.entry(slot), float(fused[at]), {}, ()) for at, slot in chosen)
    wanted = {word for word in words if view.share(word) < _TELLS_NOTHING} or set(words)
    return tuple(
        Hit(*view.entry(slot), float(fused[at]), _parts(at, cosines, bm25), _highlights(view, slot, wanted))
        for at, slot in chosen
    )


def _chosen(view: View, query: Query, slots: Slots, scores: Scores) -> list[tuple[int, int]]:
    """Places in ``slots`` and the slots there, best first, capped per document."""
    order = np.argsort(-scores, kind="stable").tolist()
    ranked = scores[order]
    if (ranked[1:] == ranked[:-1]).any():  # ties alike on every replica
        order.sort(key=lambda at: (-float(scores[at]), view.place(int(slots[at]))))
    chosen: list[tuple[int, int]] = []
    per_document: dict[bytes, int] = {}
    for at in order:
        slot = int(slots[at])
        if query.max_per_document:
            name, _ = view.place(slot)
            per_document[name] = per_document.get(name, 0) + 1
            if per_document[name] > query.max_per_document:
                continue
        chosen.append((at, slot))
        if len(chosen) == query.top_k:
            break
    return chosen


def _parts(at: int, cosines: Scores | None, bm25: Scores) -> Mapping[str, float]:
    parts = {"lexical": float(bm25[at])}
    if cosines is not None:
        parts["dense"] = float(cosines[at])
    return parts


def _highlights(view: View, slot: int, wanted: set[str]) -> tuple[tuple[int, int], ...]:
    _, chunk = view.entry(slot)
    return highlights(chunk.text, wanted)


def highlights(text: str, wanted: set[str]) -> tuple[tuple[int, int], ...]:
    """Spans of ``text`` whose terms are ``wanted``, in order, those that touch joined."""
    found: list[tuple[int, int]] = []
    for span in spans(text):
        if span.term not in wanted:
            continue
        if found and span.start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], span.end))
        elif len(found) == _MAX_HIGHLIGHTS:
            break
        else:
            found.append((span.start, span.end))
    return tuple(found)


def unknown_collection(key: CollectionKey) -> WeftError:
    """The error of a collection that isn't there."""
    return error(
        Reason.COLLECTION_NOT_FOUND,
        f"there is no {key.resource}; ingesting a document into it makes it, and so does CreateCollection",
        collection=key.resource,
    )


def _lack(why: str) -> Lack:
    return Lack("embedding", Reason.EMBEDDER_UNAVAILABLE, "lexical_only", f"words alone were compared: {why}")

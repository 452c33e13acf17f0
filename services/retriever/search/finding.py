"""Finds passages in a view: the best of each side, scored on both, fused, capped, explained. No waiting, no caches.

    terms and vector -> candidates: the nearest by cosine, the best by BM25 -> each scored on the other side, too
        -> fused -> best first, ties by document and chunk -> capped per document -> hits

A filter comes before all of that: what it leaves out is no candidate.

Where the vectors are in a shared index (``sharing``), the same goes in two steps, ``begun`` before it is asked and
``finished`` after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.retriever.ports import Place, Scores, Slots
from services.retriever.search.fusion import candidate_count, fuse
from services.retriever.search.queries import Asked
from services.retriever.segments.lexicon import spans, weighted
from services.retriever.segments.packed import Mask
from services.retriever.segments.view import View
from services.retriever.types import Hit, Query

_OVER_FETCH: Final = 4  # with a cap per document, hits that fall to it need others to take their place
_MOST_CANDIDATES: Final = 16_384
_MAX_HIGHLIGHTS: Final = 64
_MAX_NAMES: Final = 4_096  # of documents that a shared index is asked to look among
_TELLS_NOTHING: Final = 0.3  # a word in this share of all passages is not worth a highlight


def find(view: View, query: Query, asked: Asked | None) -> tuple[Hit, ...]:
    """The hits of ``query`` in ``view``, best first. Without ``asked`` by words alone."""
    words = weighted(query.text)
    count = candidate_count(query.top_k * (_OVER_FETCH if query.max_per_document else 1))
    allowed = None if query.filter is None else view.matching(query.filter, query.filter.matches)
    while True:
        hits, found = _found(view, query, asked, words, count, allowed)
        # The cap may have left too few: there are more where as many were found as were asked for.
        if not query.max_per_document or len(hits) == query.top_k or found < count or count > _MOST_CANDIDATES:
            return hits
        count *= _OVER_FETCH


def _found(
    view: View, query: Query, asked: Asked | None, words: Mapping[str, float], count: int, allowed: Mask | None
) -> tuple[tuple[Hit, ...], int]:
    """The hits among ``count`` candidates of each side, and how many candidates there were."""
    cosines: Scores | None = None
    if asked is not None and view.collection.dimension:
        near, cosines = view.search_dense(asked.vector, count, allowed)
        slots, bm25 = view.search_words(words, count, allowed, also=near)
        cosines = np.concatenate((cosines, view.cosines_of(asked.vector, slots[len(near) :])))
        # Fusing sums over the candidates: in an order that doesn't depend on their slots, it rounds alike everywhere.
        order = np.lexsort((bm25, cosines))
        slots, cosines, bm25 = slots[order], cosines[order], bm25[order]
        fused = fuse(cosines, bm25, asked.knowledge)
    else:
        slots, bm25 = view.search_words(words, count, allowed)
        fused = bm25
    return _hits(view, query, words, slots, fused, cosines, bm25), len(slots)


@dataclass(frozen=True, slots=True)
class Begun:
    """What is found without vectors, and what a shared index is to be asked."""

    words: Mapping[str, float]
    count: int  # candidates of each side
    allowed: Mask | None
    documents: Sequence[str] | None  # to look among; None: all, and what isn't ``allowed`` falls here
    fetched: int  # how many to ask for at first
    slots: Slots
    bm25: Scores
    places: tuple[Place, ...]  # of ``slots``


def begun(view: View, query: Query) -> Begun:
    """The first step: the words."""
    words = weighted(query.text)
    count = candidate_count(query.top_k * (_OVER_FETCH if query.max_per_document else 1))
    allowed = None if query.filter is None else view.matching(query.filter, query.filter.matches)
    slots, bm25 = view.search_words(words, count, allowed)
    places = []
    for slot in slots.tolist():
        document, chunk = view.entry(slot)
        places.append(Place(document.name, document.sequence, chunk.number))
    documents, fetched = None, count
    if allowed is not None:
        documents = view.names(allowed, _MAX_NAMES)
        if documents is None:
            fetched = count * len(allowed) // max(1, int(np.count_nonzero(allowed))) + 1
    return Begun(words, count, allowed, documents, fetched, slots, bm25, tuple(places))


def finished(
    view: View, query: Query, asked: Asked, start: Begun, near: Slots, near_cosines: Scores, own_cosines: Scores
) -> tuple[Hit, ...]:
    """The second: ``near`` passages with their cosines, and the cosines of what the words found, NaN if not known."""
    there = set(near.tolist())
    new = [at for at, slot in enumerate(start.slots.tolist()) if slot not in there]
    slots = np.concatenate((near, start.slots[new]))
    bm25 = np.concatenate((view.scores_of(start.words, near), start.bm25[new]))
    cosines = np.concatenate((near_cosines, own_cosines[new]))
    unknown = np.isnan(cosines)
    filled = np.where(unknown, cosines[~unknown].mean() if not unknown.all() else np.float32(0), cosines)
    order = np.lexsort((bm25, filled))
    slots, cosines, bm25 = slots[order], cosines[order], bm25[order]
    return _hits(view, query, start.words, slots, fuse(filled[order], bm25, asked.knowledge), cosines, bm25)


def _hits(
    view: View,
    query: Query,
    words: Mapping[str, float],
    slots: Slots,
    fused: Scores,
    cosines: Scores | None,
    bm25: Scores,
) -> tuple[Hit, ...]:
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
    if cosines is not None and not np.isnan(cosines[at]):
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

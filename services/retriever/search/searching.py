"""Answers a query: from the cache, or by finding it, once for all who ask the same at the same moment.

    min_epoch reached -> view -> remembered? -> being found by another? -> query embedded -> found (``finding``)
        -> reordered where that is asked for (``reranking``)

A search takes one ``State`` and stays with it. Its work runs on a bounded pool, one thread to a search, but for
small ones whose query is embedded already: those are over before a thread would have begun.

Answers are remembered by the collection's state (``View.version``), the query and all its options, so a change of
the collection makes all of them pass, and ``min_epoch`` holds for a remembered answer as for a new one. Of identical
searches at once one finds, the others wait for it; if its caller goes away, one of them goes on. Where the
collection's embedder or a shared index (``sharing``) is not to be had in time, the words alone answer, and the
answer says so; such an answer is neither remembered nor shared.

Errors: COLLECTION_NOT_FOUND; EPOCH_FOREIGN and EPOCH_NOT_REACHED; OVERLOADED when too many searches wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final, NamedTuple

from mesh.deadline import Deadline
from services.retriever.embedding import Embedders
from services.retriever.errors import unknown_collection
from services.retriever.ports import Embedder, Reranker
from services.retriever.replicas.replica import Replica
from services.retriever.search.caching import Lru
from services.retriever.search.finding import find
from services.retriever.search.queries import Asked, QueryVectors, ask
from services.retriever.search.reranking import deepened, reranked
from services.retriever.search.sharing import SharedSide
from services.retriever.segments.view import View
from services.retriever.types import Epoch, Found, Hit, Lack, Query
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError

# Up to here, and without embedding, a search takes about half a millisecond: less than handing it to a
# thread and back costs a busy process.
_INLINE_SLOTS: Final = 2_000
_EMBEDDING_SHARE: Final = 0.5  # of what is left to the deadline: the words need their time, too
MAX_ANSWERS: Final = 4_096
MAX_ANSWERS_BYTES: Final = 32 << 20
_HIT_BYTES: Final = 1_024  # about what a hit takes beside its texts


class _Shared(NamedTuple):
    """What one search has for those that wait for it: nothing, where it failed or its caller went away."""

    hits: tuple[Hit, ...] | None = None
    lacking: bool = False  # something was away


class Searcher:
    """Searches what the replica holds."""

    def __init__(
        self,
        replica: Replica,
        embedders: Embedders,
        workers: Workers,
        vectors: QueryVectors,
        reranker: Reranker | None = None,
        shared: SharedSide | None = None,
    ) -> None:
        self._replica, self._embedders, self._workers, self._vectors = replica, embedders, workers, vectors
        self._reranker, self._shared = reranker, shared
        self._answers: Lru[Hashable, tuple[Hit, ...]] = Lru(MAX_ANSWERS, MAX_ANSWERS_BYTES)
        self._being_found: dict[Hashable, asyncio.Future[_Shared]] = {}

    async def search(self, query: Query, deadline: Deadline) -> Found:
        """Answer ``query``."""
        if query.min_epoch is not None:
            await self._replica.reach(query.min_epoch, deadline)
        state, epoch = self._replica.state, self._replica.epoch
        view = state.views.get(query.key)
        if view is None:
            raise unknown_collection(query.key)
        key = _key(view, query)
        if self._shared is not None and view.collection.dimension:
            if query.min_epoch is not None and not await self._shared.reach(query.min_epoch.sequence, deadline):
                return Found(*await self._find(None, view, query, deadline, alone=True), epoch)
            epoch = Epoch(epoch.log_id, min(epoch.sequence, self._shared.sequence))
            if self._shared.sequence < view.collection.sequence:  # not all is there yet: not to be remembered
                return Found(*await self._find(None, view, query, deadline), epoch)
        if not query.allow_cached:
            return Found(*await self._find(key, view, query, deadline), epoch)
        while True:
            hits = self._answers.get(key)
            if hits is not None:
                return Found(hits, (), epoch, cached=True)
            other = self._being_found.get(key)
            if other is None:
                return Found(*await self._find_for_all(key, view, query, deadline), epoch)
            shared = await asyncio.shield(other)
            if shared.lacking:  # each for itself, and at once: one after the other they would run out of time
                return Found(*await self._find(key, view, query, deadline), epoch)
            if shared.hits is not None:
                return Found(shared.hits, (), epoch)

    async def _find_for_all(
        self, key: Hashable, view: View, query: Query, deadline: Deadline
    ) -> tuple[tuple[Hit, ...], tuple[Lack, ...]]:
        """Find, with others who may wait for it. They get nothing from one that failed or lacked something."""
        sharing = self._being_found[key] = asyncio.get_running_loop().create_future()
        shared = _Shared()
        try:
            found, lacks = await self._find(key, view, query, deadline)
            shared = _Shared(lacking=True) if lacks else _Shared(found)
            return found, lacks
        finally:
            del self._being_found[key]
            sharing.set_result(shared)

    async def _find(
        self, key: Hashable | None, view: View, query: Query, deadline: Deadline, *, alone: bool = False
    ) -> tuple[tuple[Hit, ...], tuple[Lack, ...]]:
        """Find, and remember under ``key``. ``alone``: the shared index is away, and the words have to do."""
        deep = deepened(query) if query.rerank else query
        lacks: tuple[Lack, ...]
        if alone and self._shared is not None:
            hits, lacks = await self._workers.run(find, view, deep, None), (self._shared.lack(),)
        else:
            hits, lacks = await self._fused(view, deep, deadline)
        if query.rerank:
            hits, missing = await reranked(self._reranker, self._workers, query, hits, deadline)
            lacks += missing
        if not lacks and key is not None:
            self._remember(key, hits)
        return hits, lacks

    async def _fused(self, view: View, query: Query, deadline: Deadline) -> tuple[tuple[Hit, ...], tuple[Lack, ...]]:
        embedder, lacks = await self._embedder(view)
        asked: Asked | None = None
        if embedder is not None:
            asked = self._vectors.known(embedder, query.text)
            if asked is None and embedder.query_batch == 1 and self._shared is not None:
                asked = await self._workers.run(ask, embedder, query.text)
                self._vectors.keep(embedder, query.text, asked)
            if asked is None and embedder.query_batch == 1:
                made, hits = await self._workers.run(_ask_and_find, view, query, embedder)
                self._vectors.keep(embedder, query.text, made)
                return hits, ()
            if asked is None:
                asked, lacks = await self._asked(embedder, query.text, deadline)
        if asked is not None and self._shared is not None and view.collection.dimension:
            far, lacks = await self._shared.find(view, query, asked, deadline)
            if far is not None:
                return far, ()
            asked = None
        if view.size <= _INLINE_SLOTS and query.filter is None:
            hits = find(view, query, asked)
        else:
            hits = await self._workers.run(find, view, query, asked)
        return hits, lacks

    async def _asked(self, embedder: Embedder, text: str, deadline: Deadline) -> tuple[Asked | None, tuple[Lack, ...]]:
        patience_s = max(0.0, deadline.remaining_s() * _EMBEDDING_SHARE)
        try:
            async with asyncio.timeout(patience_s):
                return await self._vectors.get(embedder, text), ()
        except TimeoutError:
            return None, (_lack(f"{embedder.url} did not answer within {patience_s:.1f} s"),)
        except WeftError as err:
            if err.reason != Reason.EMBEDDER_UNAVAILABLE:
                raise
            return None, (_lack(err.message),)

    async def _embedder(self, view: View) -> tuple[Embedder | None, tuple[Lack, ...]]:
        collection = view.collection
        if collection.dimension == 0:
            if collection.embedder == collection.wanted_embedder:
                return None, ()
            why = f"{collection.wanted_embedder} was not there when {collection.key.resource} was made"
            move = f"weft reindex {collection.key.name} --embedder {collection.wanted_embedder}"
            return None, (_lack(f"{why}; once it is, move it there: {move}"),)
        try:
            return await self._embedders.get(collection.embedder, collection.dimension), ()
        except WeftError as err:
            return None, (_lack(err.message),)

    def _remember(self, key: Hashable, hits: tuple[Hit, ...]) -> None:
        size_bytes = sum(
            _HIT_BYTES + 2 * len(hit.chunk.text) + len(repr(hit.document.metadata)) + 200 * len(hit.highlights)
            for hit in hits
        )
        self._answers.put(key, hits, _HIT_BYTES + size_bytes)


def _key(view: View, query: Query) -> Hashable:
    """All that an answer depends on. The tenant is in ``query.key``."""
    options = (query.top_k, query.max_per_document, query.explain, query.filter, query.rerank)
    return (query.key, view.version, query.text, options)


def _ask_and_find(view: View, query: Query, embedder: Embedder) -> tuple[Asked, tuple[Hit, ...]]:
    asked = ask(embedder, query.text)
    return asked, find(view, query, asked)


def _lack(why: str) -> Lack:
    return Lack("embedding", Reason.EMBEDDER_UNAVAILABLE, "lexical_only", f"words alone were compared: {why}")

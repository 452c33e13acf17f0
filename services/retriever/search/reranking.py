"""Reorders the best hits by a model that reads query and passage together, where the caller asks for it.

It costs a run of the model for each of ``DEPTH_PER_HIT`` times the hits that are wanted, so it is asked for, and
it takes no more time than is there: an answer that it came too late for, or that it failed on, keeps the fused
order and says so. Reranked hits have the model's own number as score; with ``explain`` the fused one is kept
in ``parts``.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from mesh.deadline import Deadline
from services.retriever.ports import Reranker
from services.retriever.types import Hit, Lack, Query
from services.retriever.workers import Workers
from weft.errors import Reason

DEPTH_PER_HIT: Final = 3
MAX_DEPTH: Final = 100
_SHARE: Final = 0.6  # of what is left to the deadline
_log = logging.getLogger(__name__)


def deepened(query: Query) -> Query:
    """The query that finds enough to choose from."""
    return replace(query, top_k=min(MAX_DEPTH, query.top_k * DEPTH_PER_HIT))


async def reranked(
    reranker: Reranker | None, workers: Workers, query: Query, hits: tuple[Hit, ...], deadline: Deadline
) -> tuple[tuple[Hit, ...], tuple[Lack, ...]]:
    """The best of ``hits`` in the reranker's order, at most as many as ``query`` wants."""
    if reranker is None:
        return hits[: query.top_k], (_lack("no reranker is set here: WEFT_RETRIEVER__RERANKER"),)
    texts = [hit.chunk.text for hit in hits]
    try:
        async with asyncio.timeout(max(0.0, deadline.remaining_s() * _SHARE)):
            scores = await workers.run(reranker.scores, query.text, texts)
    except TimeoutError:
        return hits[: query.top_k], (_lack("it would have taken longer than there was time"),)
    except Exception as exc:
        _log.exception("the reranker failed")
        return hits[: query.top_k], (_lack(f"it failed: {type(exc).__name__}"),)
    order = sorted(range(len(hits)), key=lambda at: -float(scores[at]))[: query.top_k]
    found = []
    for at in order:
        hit, score = hits[at], float(scores[at])
        parts = {**hit.parts, "fused": hit.score, "rerank": score} if query.explain else hit.parts
        found.append(replace(hit, score=score, parts=parts))
    return tuple(found), ()


def _lack(why: str) -> Lack:
    return Lack("reranking", Reason.DEPENDENCY_UNAVAILABLE, "fused_order", f"hits were not reranked: {why}")

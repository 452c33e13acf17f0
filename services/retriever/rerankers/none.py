"""``none:`` no reranker: the fused order stands."""

from __future__ import annotations

from mesh.plugins import Url
from services.retriever.ports import Reranker


def open(url: Url) -> Reranker | None:
    """There is none."""
    return None

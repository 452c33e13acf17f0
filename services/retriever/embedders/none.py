"""``none:`` no embedder: the collection is searched by words alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mesh.plugins import Url
from services.retriever.embedding import plain
from services.retriever.ports import EmbedderFiles
from services.retriever.types import Vectors


@dataclass(frozen=True, slots=True)
class NoEmbedder:
    """Vectors without columns."""

    url: str = "none:"
    dimension: int = 0
    query_batch: int = 1

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One empty row per text."""
        return np.zeros((len(texts), 0), np.float32)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """One empty row per query."""
        return self.embed(texts)

    def knowledge(self, text: str) -> float:
        """It knows nothing."""
        return 0.0

    def close(self) -> None:
        """There is nothing to let go of."""


def open(url: Url, files: EmbedderFiles) -> NoEmbedder:
    """Open ``none:``.

    Raises:
        WeftError: INVALID_FIELD when the URL says more than that.
    """
    plain(url)
    return NoEmbedder()

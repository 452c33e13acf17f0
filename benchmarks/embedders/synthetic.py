"""``synthetic:?rows=N`` vectors drawn from ``benchmarks.index.Clustered``, by a hash of the text: no model, no meaning.

A text always gets the same vector, of the kind that the collection of N passages was filled with. One costs about a
tenth of a millisecond, and a query's is remembered as with any embedder, so what is measured is the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

import numpy as np

from benchmarks.index import DIMENSION, SPREADS, Clustered
from mesh.plugins import Url
from services.retriever.ports import EmbedderFiles
from services.retriever.types import Vectors

SPREAD: Final = SPREADS["overlapping"]


class Synthetic:
    """Draws vectors about the centres of a collection of ``rows`` passages."""

    dimension = DIMENSION
    query_batch = 1

    def __init__(self, rows: int) -> None:
        self.url = f"synthetic:?rows={rows}"
        self._source = Clustered(rows, SPREAD)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text, of length 1."""
        return np.concatenate([self._source.draw(1, crc32(text.encode())) for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same."""
        return self.embed(texts)

    def knowledge(self, text: str) -> float:
        """It claims to know every word, so that both sides count alike."""
        return 1.0

    def close(self) -> None:
        """There is nothing to let go of."""


def open(url: Url, files: EmbedderFiles) -> Synthetic:
    """Open ``synthetic:?rows=N``."""
    return Synthetic(int(url.query["rows"]))

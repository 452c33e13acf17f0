"""A segment as it stands in a view: which of its documents were not deleted or replaced since.

What falls is whole documents. The segment keeps their rows until it is joined with others; here they are marked,
and counts are of what stands. Like everything in a view a part never changes; ``without`` makes the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.retriever.segments.packed import Mask
from services.retriever.segments.segment import Segment


@dataclass(frozen=True, slots=True)
class Part:
    """A segment in a view, with those of its documents that still stand."""

    segment: Segment
    documents: Mask | None  # None: all stand
    rows: Mask | None
    live_count: int  # rows that stand
    live_length: int  # terms in them
    _frequencies: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, segment: Segment, documents: Mask | None = None) -> Part:
        """A segment whose ``documents`` stand; None: all."""
        lengths = segment.words.lengths
        if documents is None or documents.all():
            return cls(segment, None, None, len(segment), int(lengths.sum(dtype=np.float64)))
        rows = segment.rows_of(documents)
        return cls(segment, documents, rows, int(rows.sum()), int(lengths[rows].sum(dtype=np.float64)))

    def without(self, numbers: Sequence[int]) -> Part:
        """This part without some documents."""
        standing = np.ones(len(self.segment.documents), np.bool_) if self.documents is None else self.documents
        if not standing[numbers].any():
            return self
        standing = standing.copy()
        standing[numbers] = False
        return Part.of(self.segment, standing)

    def on(self, segment: Segment) -> Part:
        """The same part on a segment that has the same rows elsewhere."""
        return replace(self, segment=segment)

    def allowed(self, chosen: Mask | None) -> Mask | None:
        """Rows that stand and are ``chosen``; None: all."""
        if chosen is None or self.rows is None:
            return self.rows if chosen is None else chosen
        return self.rows & chosen

    def frequencies(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """In how many rows that stand each term is."""
        return np.array([self._frequency(at) for at in self.segment.words.find(keys).tolist()], np.int64)

    def _frequency(self, at: int) -> int:
        if at < 0:
            return 0
        if self.rows is None:
            return self.segment.words.frequency(at, None)
        known = self._frequencies.get(at)
        if known is None:
            known = self._frequencies[at] = self.segment.words.frequency(at, self.rows)
        return known

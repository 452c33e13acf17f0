"""Joins segments into one, without what no longer stands in them.

Rows of the new segment stand in the order of document name and chunk number, as in every segment: the documents of
the old ones, each in that order already, are merged by name, and everything else follows from that order by
moving arrays. No text is read for its words again.

A join may run beside changes of the view that it is for. ``Joined`` tells where each document went, so that what
was deleted meanwhile can be marked in the new segment too (``standing``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import VectorIndex, VectorIndexes
from services.retriever.segments import bm25
from services.retriever.segments.packed import Mask, Rows, gathered_texts
from services.retriever.segments.part import Part
from services.retriever.segments.segment import Chunks, Documents, Segment

TAIL_ROWS: Final = 256  # segments up to this size are joined with the change that brings too many of them
TAIL_PARTS: Final = 8
MAX_PARTS: Final = 64
_VECTORS_AT_ONCE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Joined:
    """What was made of some segments."""

    sources: tuple[Segment, ...]
    segment: Segment | None  # None: nothing stood in them
    moved: tuple[NDArray[np.int32], ...]  # for each source, the new number of each document; -1: it stays behind

    def standing(self, parts: Sequence[Part]) -> Part | None:
        """The new segment as it has to stand in a view that now holds its sources as ``parts``, in their order."""
        if self.segment is None:
            return None
        standing = np.ones(len(self.segment.documents), np.bool_)
        for part, moved in zip(parts, self.moved, strict=True):
            if part.documents is not None:
                standing[moved[~part.documents & (moved >= 0)]] = False
        return Part.of(self.segment, standing)


def join(parts: Sequence[Part], indexes: VectorIndexes, *, settled: bool) -> Joined:
    """One segment of what stands in ``parts``."""
    sources = tuple(part.segment for part in parts)
    order = _by_name(parts)
    if not len(order):
        return Joined(sources, None, tuple(np.full(len(source.documents), -1, np.int32) for source in sources))
    counts = np.concatenate([np.diff(source.documents.firsts) for source in sources])[order]
    rows_before = np.cumsum([0, *map(len, sources)])
    begins = [source.documents.firsts[:-1] + before for source, before in zip(sources, rows_before, strict=False)]
    ends = np.cumsum(counts)
    rows = np.repeat(np.concatenate(begins)[order] - (ends - counts), counts) + np.arange(int(ends[-1]))
    moved_rows = _split(_inverse(rows, int(rows_before[-1])), [len(source) for source in sources])
    moved_documents = _split(_inverse(order, sum(_sizes(sources))), _sizes(sources))
    words = bm25.joined([(source.words, moved) for source, moved in zip(sources, moved_rows, strict=True)], len(rows))
    segment = Segment(
        _documents(sources, order, counts),
        _chunks(sources, rows, counts),
        words,
        _vectors(sources, moved_rows, len(rows), indexes, settled),
    )
    return Joined(sources, segment, tuple(moved_documents))


def tidied(parts: Sequence[Part], indexes: VectorIndexes) -> list[Part]:
    """Parts for the next view: where there are too many, the smallest are joined at once."""
    by_size = sorted(parts, key=lambda part: part.live_count)
    tail = [part for part in by_size if part.live_count <= TAIL_ROWS]
    chosen = tail if len(tail) >= TAIL_PARTS else by_size[: len(parts) // 2] if len(parts) > MAX_PARTS else []
    if not chosen:
        return list(parts)
    joined = join(chosen, indexes, settled=False).segment
    kept = [part for part in parts if not any(part is one for one in chosen)]
    return kept if joined is None else [*kept, Part.of(joined)]


def _by_name(parts: Sequence[Part]) -> NDArray[np.int64]:
    """Numbers of the standing documents, counted through all parts, in the order of their names."""

    def names(part: Part, before: int) -> Iterator[tuple[bytes, int]]:
        for number, name in enumerate(part.segment.documents.names.each()):
            if part.documents is None or part.documents[number]:
                yield name, before + number

    firsts = np.cumsum([0, *_sizes([part.segment for part in parts])]).tolist()
    merged = heapq.merge(*(names(part, before) for part, before in zip(parts, firsts, strict=False)))
    return np.fromiter((number for _, number in merged), np.int64)


def _documents(sources: Sequence[Segment], order: NDArray[np.int64], counts: NDArray[np.int32]) -> Documents:
    keys = np.empty(sum(_sizes(sources)), np.uint64)
    before = 0
    for source in sources:
        keys[before + source.documents.by_key] = source.documents.keys
        before += len(source.documents)
    keys = keys[order]
    by_key = np.argsort(keys, kind="stable").astype(np.int32)
    return Documents(
        gathered_texts([source.documents.names for source in sources], order),
        gathered_texts([source.documents.records for source in sources], order),
        np.cumsum(np.insert(counts, 0, 0)).astype(np.int32),
        keys[by_key],
        by_key,
    )


def _chunks(sources: Sequence[Segment], rows: NDArray[np.int64], counts: NDArray[np.int32]) -> Chunks:
    chunks = [source.chunks for source in sources]
    numbers: dict[bytes, int] = {}
    paths = [
        np.array([numbers.setdefault(path, len(numbers)) for path in one.paths.each()], np.int32) for one in chunks
    ]
    sections = np.concatenate([path[one.sections] for one, path in zip(chunks, paths, strict=True)])[rows]
    used, sections = np.unique(sections, return_inverse=True)
    first_with = {number: at for at, number in reversed(list(enumerate(np.concatenate(paths).tolist())))}
    return Chunks(
        gathered_texts([one.texts for one in chunks], rows),
        np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        np.concatenate([one.numbers for one in chunks])[rows],
        np.concatenate([one.starts for one in chunks])[rows],
        np.concatenate([one.ends for one in chunks])[rows],
        np.concatenate([one.pages for one in chunks])[rows],
        sections.astype(np.int32),
        gathered_texts([one.paths for one in chunks], np.array([first_with[int(n)] for n in used], np.int64)),
    )


def _vectors(
    sources: Sequence[Segment], moved: Sequence[Rows], size: int, indexes: VectorIndexes, settled: bool
) -> VectorIndex | None:
    if sources[0].dense is None:
        return None
    together = None
    for source, new_rows in zip(sources, moved, strict=True):
        if source.dense is None:
            continue
        stays = np.flatnonzero(new_rows >= 0).astype(np.int32)
        for first in range(0, len(stays), _VECTORS_AT_ONCE):
            some = stays[first : first + _VECTORS_AT_ONCE]
            vectors = source.dense.vectors(some)
            if together is None:
                together = np.empty((size, vectors.shape[1]), np.float32)
            together[new_rows[some]] = vectors
    return None if together is None else indexes.build(together, settled=settled)


def _sizes(sources: Sequence[Segment]) -> list[int]:
    return [len(source.documents) for source in sources]


def _inverse(order: NDArray[np.int64], size: int) -> NDArray[np.int32]:
    inverse = np.full(size, -1, np.int32)
    inverse[order] = np.arange(len(order), dtype=np.int32)
    return inverse


def _split(moved: Mask | NDArray[np.int32], sizes: Sequence[int]) -> list[NDArray[np.int32]]:
    return np.split(moved, np.cumsum(sizes)[:-1])

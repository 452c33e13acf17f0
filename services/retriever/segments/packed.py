"""Many strings in two arrays, and other arrays put into a new order: what segments are made of.

A list of a million Python strings costs some 60 MB beside its letters and can't be read from a file
without making each of them. ``Texts`` is one array of bytes and one of offsets: it lies in memory or in
a mapped file alike, and a string is made when somebody asks for it.

Joining moves megabytes. It goes in slabs, so that the interpreter's lock is never held for long: searches
run beside it. What works in Python itself goes through ``unhurried``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Mask = NDArray[np.bool_]
_SLAB: Final = 2_048
_BREATH_S: Final = 50e-6

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)


def unhurried(items: Iterable[T], every: int) -> Iterator[T]:
    """The same items; after each ``every`` of them the interpreter's lock is let go of for a moment.

    A thread that wants the lock gets it within 5 ms at the latest, and a call over gRPC wants it some five times:
    beside a thread that never lets go of it by itself, searches take 12 ms instead of 0.3. With a pause for each
    millisecond of work they take 2.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0:
            time.sleep(_BREATH_S)


def distinct(numbers: NDArray[Number]) -> NDArray[Number]:
    """Each once, in order. ``numbers``, which is spent, is sorted: ``numpy.unique`` hashes, and takes thirty times as
    long with the interpreter's lock in its hands."""
    numbers.sort()
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if len(numbers) else numbers


@dataclass(frozen=True, slots=True)
class Texts:
    """A sequence of strings that never changes."""

    letters: NDArray[np.uint8]  # UTF-8, one after the other
    ends: NDArray[np.int64]  # where each begins; one more, where the last ends

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Pack ``texts``."""
        return cls._of([text.encode("utf-8", "surrogatepass") for text in texts])

    @classmethod
    def _of(cls, encoded: Sequence[bytes]) -> Texts:
        ends = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=ends[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, at: int) -> str:
        return str(self.raw(at), "utf-8", "surrogatepass")

    def raw(self, at: int) -> bytes:
        """The string's bytes: they sort as the string's code points do."""
        return self.letters[self.ends[at] : self.ends[at + 1]].tobytes()

    def each(self) -> Iterator[bytes]:
        """The bytes of every string, in order."""
        for first in range(0, len(self), _SLAB):
            ends = self.ends[first : first + _SLAB + 1].tolist()
            block = self.letters[ends[0] : ends[-1]].tobytes()
            yield from (block[a - ends[0] : b - ends[0]] for a, b in pairwise(ends))


def gathered_texts(sources: Sequence[Texts], order: NDArray[np.int64]) -> Texts:
    """Strings of ``sources``, counted through one after the other, in a new order."""
    firsts = np.cumsum([0, *map(len, sources)])
    begins, lengths = [], []
    at = 0
    for source in sources:
        begins.append(source.ends[:-1] + at)
        lengths.append(np.diff(source.ends))
        at += len(source.letters)
    begin = np.concatenate(begins)[order] if begins else np.zeros(0, np.int64)
    length = np.concatenate(lengths)[order] if lengths else np.zeros(0, np.int64)
    ends = np.zeros(len(order) + 1, np.int64)
    np.cumsum(length, out=ends[1:])
    letters = np.empty(int(ends[-1]), np.uint8)
    starts = np.cumsum([0, *(len(source.letters) for source in sources)])
    views = [source.letters.data for source in sources]
    origin = np.searchsorted(firsts, order, side="right") - 1
    begin -= starts[origin]
    for first in range(0, len(order), _SLAB):
        last = min(first + _SLAB, len(order))
        pieces = zip(origin[first:last].tolist(), begin[first:last].tolist(), length[first:last].tolist(), strict=True)
        slab = b"".join([views[source][start : start + size] for source, start, size in pieces])
        letters[ends[first] : ends[last]] = np.frombuffer(slab, np.uint8)
    return Texts(letters, ends)

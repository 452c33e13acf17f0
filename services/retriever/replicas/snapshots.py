"""Snapshots: what a replica holds, on disk, so that the next start reads the log's tail and not all of it.

    DIR/<log id>/<n>/  lock   <name>.segment …   manifest-<sequence>-<number>

A snapshot is a *manifest*: the log's sequence, and for each collection its record, its segments and which of their
documents stand. Segments never change, so each is written once; a manifest is written after all that it names. The
two newest manifests are kept with their segments, the rest is removed.

Replicas that share a directory keep out of each other's way: each takes the first ``<n>`` whose lock is free and
writes there alone. At its start it loads the newest good snapshot of any of them; what it took from another
comes into its own place as a hard link, so it lives as long as somebody needs it. A place that nobody holds any more
is emptied, once there is another snapshot as new.

Once a segment lies in a file, the replica goes on with the mapped file in its place, and the memory is free.

What doesn't fit is passed over, newest first, until one does: damaged or missing files (every byte is checked),
another log, another layout, words that were read otherwise (the code that reads them has changed). If none is left
the log is read from its beginning: snapshots only save time.

Errors: ``OSError`` from ``save`` when the disk is full or away; nothing is harmed by that, try again later.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.retriever.ports import VectorIndexes
from services.retriever.replicas.replica import State
from services.retriever.segments import bundle, lexicon, stored_segments
from services.retriever.segments.bundle import Damaged
from services.retriever.segments.part import Part
from services.retriever.segments.segment import Segment, indexed_text
from services.retriever.segments.stored_segments import SUFFIX
from services.retriever.segments.view import View
from services.retriever.types import Collection, CollectionKey

_log = logging.getLogger(__name__)
LAYOUT: Final = 2  # raise it with every change of what a segment or a manifest holds
KEPT: Final = 2
_MANIFEST: Final = "manifest-"
_LOCK: Final = "lock"


class Snapshots:
    """A replica's own place for snapshots, beside those of others. Make it with ``claim``."""

    def __init__(self, root: Path, place: Path, lock: int, log_id: str, indexes: VectorIndexes) -> None:
        self._root, self._place, self._lock, self._indexes = root, place, lock, indexes
        self._fits = {"layout": LAYOUT, "words": _how_words_are_read(), "index": indexes.kind, "log_id": log_id}
        self.damaged = 0  # snapshots that ``load`` could not use

    @classmethod
    def claim(cls, directory: Path, log_id: str, indexes: VectorIndexes) -> Snapshots:
        """Take the first place in ``directory`` that nobody holds."""
        root = directory / log_id
        number = 0
        while True:
            place = root / str(number)
            place.mkdir(parents=True, exist_ok=True)
            lock = _locked(place)
            if lock is not None:
                return cls(root, place, lock, log_id, indexes)
            number += 1

    def close(self) -> None:
        """Leave the place to the next."""
        os.close(self._lock)

    # -- loading ----------------------------------------------------------------------------------------

    def load(self) -> State:
        """The newest snapshot that is whole and fits, of whomever; an empty state where there is none."""
        manifests = sorted(self._root.glob(f"*/{_MANIFEST}*"), key=lambda path: path.name, reverse=True)
        for path in manifests:
            try:
                meta, arrays = bundle.read(path)
                if self._fits.items() <= meta.items():
                    return self._state(path.parent, meta, arrays)
            except (Damaged, OSError, KeyError, TypeError, ValueError) as exc:
                if isinstance(exc, FileNotFoundError) and path.parent != self._place:
                    continue  # its owner has written a newer one meanwhile
                self.damaged += 1
                _log.warning("the snapshot %s is of no use: %s; the one before is tried, at last the log", path, exc)
        return State()

    def _state(self, place: Path, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> State:
        views = [self._view(place, record, arrays) for record in meta["views"]]
        return State(meta["sequence"], {view.collection.key: view for view in views})

    def _view(self, place: Path, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> View:
        collection = Collection(**{**record["collection"], "key": CollectionKey(*record["collection"]["key"])})
        parts = []
        for name in record["segments"]:
            try:
                segment = stored_segments.load(place / f"{name}{SUFFIX}", self._indexes, check=True)
            except (Damaged, OSError) as exc:
                raise type(exc)(f"segment {name}: {exc}") from exc
            standing = None
            if name in arrays:
                standing = np.unpackbits(arrays[name], count=len(segment.documents)).astype(np.bool_)
            parts.append(Part.of(segment, standing))
        return View.empty(collection, self._indexes).with_parts(parts)

    # -- saving -----------------------------------------------------------------------------------------

    def save(self, state: State) -> dict[str, Segment]:
        """Write what is not there yet of ``state``; returns its segments, by name, as they lie in files."""
        self._empty_others()  # it may be their room that is needed
        segments = {part.segment.name: part.segment for view in state.views.values() for part in view.parts}
        stored = {name: self._stored(segment) for name, segment in segments.items()}
        bundle.sync(self._place)
        numbers = [int(path.name.rsplit("-", 1)[1]) for path in self._manifests()]
        path = self._place / f"{_MANIFEST}{state.sequence:020}-{max(numbers, default=0) + 1:08}"
        standing = {
            part.segment.name: np.packbits(part.documents)
            for view in state.views.values()
            for part in view.parts
            if part.documents is not None
        }
        views = [_record(view) for view in state.views.values()]
        bundle.write(path, {**self._fits, "sequence": state.sequence, "views": views}, standing)
        self._tidy()
        self._empty_others()
        return stored

    def _stored(self, segment: Segment) -> Segment:
        path = self._place / f"{segment.name}{SUFFIX}"
        if segment.path == path:
            return segment
        if not path.exists():
            try:
                if segment.path is None:
                    raise FileNotFoundError
                os.link(segment.path, path)
            except OSError:  # it is in memory only, or its file has gone, or can't be linked to
                stored_segments.write(segment, self._place)
        return segment.mapped(stored_segments.load(path, self._indexes, check=False))

    def _manifests(self) -> list[Path]:
        """Those of this place, the newest first."""
        return sorted(self._place.glob(f"{_MANIFEST}*"), key=lambda path: path.name.rsplit("-", 1)[1], reverse=True)

    def _tidy(self) -> None:
        """Remove what the newest manifests don't lead to."""
        manifests = self._manifests()
        kept = {_LOCK, *(path.name for path in manifests[:KEPT])}
        for path in manifests[:KEPT]:
            with contextlib.suppress(Damaged):
                for view in bundle.read_meta(path)["views"]:
                    kept |= {f"{name}{SUFFIX}" for name in view["segments"]}
        _remove(path for path in self._place.iterdir() if path.name not in kept)

    def _empty_others(self) -> None:
        """Empty the places that were left behind, but for those with a newer snapshot than ours: it may be the only one
        of what we hold."""
        newest = _newest(self._place)
        for number, place in self._others():
            if _newest(place) <= newest:
                _log.info("snapshot place %s was left behind, emptying it", number)
                _remove(path for path in place.iterdir() if path.name != _LOCK)

    def _others(self) -> Iterator[tuple[str, Path]]:
        """Places that nobody holds, locked while they are looked at."""
        for place in self._root.iterdir():
            if place == self._place or (lock := _locked(place)) is None:
                continue
            try:
                if any(path.name != _LOCK for path in place.iterdir()):
                    yield place.name, place
            finally:
                os.close(lock)


def _newest(place: Path) -> int:
    """The sequence of a place's newest snapshot, -1 where there is none."""
    return max((int(path.name.split("-")[1]) for path in place.glob(f"{_MANIFEST}*")), default=-1)


def _locked(place: Path) -> int | None:
    """Hold a place's lock until the descriptor is closed, which the end of the process does too; None: it is held."""
    descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _how_words_are_read() -> str:
    """Another string for every change of the code that makes terms of a passage: postings must be made anew then."""
    source = inspect.getsource(lexicon) + inspect.getsource(indexed_text)
    return hashlib.sha256(source.encode()).hexdigest()


def _record(view: View) -> dict[str, Any]:
    collection = {field.name: getattr(view.collection, field.name) for field in fields(Collection)}
    return {"collection": collection, "segments": [part.segment.name for part in view.parts]}


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

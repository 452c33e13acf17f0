"""Segments in files, one ``bundle`` each, and back.

A segment's parts are nothing but arrays, so a file holds them by the names of their fields: ``chunks.texts.ends``,
``words.rows``, ``dense.matrix``. What is loaded lies in the mapped file.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from numpy.typing import NDArray

from services.retriever.ports import VectorIndexes
from services.retriever.segments import bundle
from services.retriever.segments.bm25 import Postings
from services.retriever.segments.segment import Chunks, Documents, Segment

T = TypeVar("T")
SUFFIX = ".segment"


def write(segment: Segment, directory: Path) -> None:
    """Put a segment into a directory."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("documents", "chunks", "words"):
        _flatten(name, getattr(segment, name), arrays)
    if segment.dense is not None:
        arrays |= {f"dense.{name}": array for name, array in segment.dense.arrays.items()}
    bundle.write(directory / f"{segment.name}{SUFFIX}", {}, arrays)


def load(path: Path, indexes: VectorIndexes, *, check: bool) -> Segment:
    """The segment in a file. ``check`` reads every byte first.

    Raises:
        Damaged: it is not what was written.
    """
    _, arrays = bundle.read(path, check=check)
    dense = {name.removeprefix("dense."): array for name, array in arrays.items() if name.startswith("dense.")}
    return Segment(
        _made(Documents, "documents", arrays),
        _made(Chunks, "chunks", arrays),
        _made(Postings, "words", arrays),
        indexes.load(dense) if dense else None,
        path.stem,
        path,
    )


def _flatten(name: str, value: object, arrays: dict[str, Any]) -> None:
    if not is_dataclass(value):
        arrays[name] = value
        return
    for field in fields(value):
        if not field.name.startswith("_"):
            _flatten(f"{name}.{field.name}", getattr(value, field.name), arrays)


def _made(of: type[T], name: str, arrays: dict[str, NDArray[Any]]) -> T:
    hints = get_type_hints(of)
    values: dict[str, Any] = {}
    for field in fields(of):  # type: ignore[arg-type]
        if not field.name.startswith("_"):
            inner = f"{name}.{field.name}"
            values[field.name] = (
                _made(hints[field.name], inner, arrays) if is_dataclass(hints[field.name]) else arrays[inner]
            )
    return of(**values)

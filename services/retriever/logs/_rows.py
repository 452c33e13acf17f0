"""Rows of a log's tables to values and back: SQLite's and PostgreSQL's rows are read alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import StoredDocument
from services.retriever.types import Chunk, Collection, CollectionKey, Document, Vectors

_DOCUMENT: Final = tuple(field.name for field in fields(Document))
_PATH_MARK: Final = "\x1f"  # between the headings of a section; no parser lets it into a text


class Row(Protocol):
    """A row by position and by column name; iterating gives its values."""

    def __getitem__(self, key: str, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


def to_collection(row: Row) -> Collection:
    """A row of ``collections``."""
    tenant, name, *rest = row
    return Collection(CollectionKey(tenant, name), *rest)


def to_document(row: Row) -> Document:
    """A row of ``documents``."""
    values = {name: row[name] for name in _DOCUMENT}
    return Document(**values | {"metadata": json.loads(row["metadata"])})


def to_stored(collection: Collection, document: Row, chunks: Sequence[Row]) -> StoredDocument:
    """A document with its chunks: number, text, start, end, section, page, vector."""
    joined = b"".join(row["vector"] for row in chunks)
    return StoredDocument(
        collection.key,
        collection.id,
        to_document(document),
        tuple(
            Chunk(number, text, start, end, tuple(section.split(_PATH_MARK)) if section else (), page)
            for number, text, start, end, section, page, *_ in chunks
        ),
        np.frombuffer(joined, "<f4").reshape(len(chunks), collection.dimension),
    )


def document_row(document: Document, batch: int) -> tuple[Any, ...]:
    """A document for ``documents``, without whose it is."""
    metadata = json.dumps(document.metadata, ensure_ascii=False, sort_keys=True)
    values = {name: getattr(document, name) for name in _DOCUMENT} | {"metadata": metadata}
    return (*values.values(), batch)


def chunk_rows(chunks: Iterable[Chunk], vectors: Vectors) -> list[tuple[Any, ...]]:
    """Chunks for ``chunks``, without whose they are and their batch."""
    return [_chunk_row(chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]


def _chunk_row(chunk: Chunk, vector: NDArray[np.float32]) -> tuple[Any, ...]:
    return (
        chunk.number,
        chunk.text,
        chunk.start_char,
        chunk.end_char,
        _PATH_MARK.join(chunk.section),
        chunk.page,
        vector.astype("<f4").tobytes(),
    )

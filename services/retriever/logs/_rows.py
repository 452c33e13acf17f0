"""Rows of the SQLite log to values and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retriever.ports import StoredDocument
from services.retriever.types import Chunk, Collection, CollectionKey, Document

_PATH_MARK: Final = "\x1f"  # between the headings of a section; no parser lets it into a text


def to_collection(row: sqlite3.Row) -> Collection:
    """A row of ``collections``."""
    tenant, name, *rest = row
    return Collection(CollectionKey(tenant, name), *rest)


def to_document(row: sqlite3.Row) -> Document:
    """A row of ``documents``."""
    values: dict[str, Any] = {key: row[key] for key in row.keys() if key != "batch"}  # noqa: SIM118 - a Row iterates values
    values["metadata"] = json.loads(values["metadata"])
    return Document(**values)


def to_stored(collection: Collection, document: sqlite3.Row, chunks: Sequence[sqlite3.Row]) -> StoredDocument:
    """A document with its chunks."""
    joined = b"".join(row["vector"] for row in chunks)
    return StoredDocument(
        collection.key,
        collection.id,
        to_document(document),
        tuple(
            Chunk(number, text, start, end, tuple(section.split(_PATH_MARK)) if section else (), page)
            for number, text, start, end, section, page, _ in chunks
        ),
        np.frombuffer(joined, "<f4").reshape(len(chunks), collection.dimension),
    )


def chunk_row(collection: Collection, chunk: Chunk, vector: NDArray[np.float32]) -> tuple[Any, ...]:
    """A chunk for ``chunks``, without its batch."""
    return (
        collection.key.tenant,
        chunk.number,
        chunk.text,
        chunk.start_char,
        chunk.end_char,
        _PATH_MARK.join(chunk.section),
        chunk.page,
        vector.astype("<f4").tobytes(),
    )

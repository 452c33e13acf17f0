"""A store with a filled collection, for benchmarks/retriever.py: ``python -m benchmarks.filling STORE ROWS``.

Documents go into the change log through its port, with vectors that are ready; a replica reads them from there,
joins its segments until nothing is due, and writes a snapshot. What a retriever finds when it starts on the store
is what it would have made itself; only parsing and embedding were left out.

Texts are 80 words in Zipf's distribution, 64 passages to a document, two fields of metadata; vectors are those of
``benchmarks.index``, overlapping clusters.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.embedders.synthetic import SPREAD, Synthetic
from benchmarks.index import DIMENSION, WORDS, Clustered, zipfian_words
from mesh.plugins import Url
from services.retriever.indexes import faiss
from services.retriever.logs import sqlite
from services.retriever.ports import Content
from services.retriever.replicas.merging import Merger
from services.retriever.replicas.replica import Replica
from services.retriever.replicas.snapshots import Snapshots
from services.retriever.types import Chunk, CollectionKey, Document, Vectors
from services.retriever.workers import Workers

KEY: Final = CollectionKey("default", "bench")
PASSAGES: Final = 64
QUERY_WORDS: Final = 8
_DOCUMENTS_AT_ONCE: Final = 64  # between two looks of the replica


def documents(rows: int) -> Iterator[tuple[Document, tuple[Chunk, ...], Vectors]]:
    """Documents that together have ``rows`` passages; the same ones for the same number."""
    words, weights = zipfian_words()
    share, known = np.cumsum(weights) / sum(weights), np.array(words, object)
    source = Clustered(rows, SPREAD)
    for first in range(0, rows, PASSAGES):
        count = min(PASSAGES, rows - first)
        chance = np.random.default_rng(first)
        texts = [" ".join(row) for row in known[np.searchsorted(share, chance.random((count, WORDS)))]]
        chunks = tuple(
            Chunk(at, text, at * 700, at * 700 + len(text), ("Guide", "Setup")) for at, text in enumerate(texts)
        )
        name = f"guide-md-{chance.integers(1 << 48):012x}"
        record = Document(
            name, f"docs/{first}/guide.md", "The guide", "text/markdown", f"{first:064x}", count * 700, count,
            metadata={"team": "platform", "year": 2026},
        )  # fmt: skip
        yield record, chunks, source.draw(count, first)


def queries(count: int) -> list[str]:
    """Questions in the words of the documents."""
    chance = random.Random(1)
    words, weights = zipfian_words()
    return [" ".join(chance.choices(words, weights, k=QUERY_WORDS)) for _ in range(count)]


async def fill(store: Path, rows: int) -> None:
    """Make ``store``."""
    log = await sqlite.open_file(store / "log.db")
    url = Synthetic(rows).url
    collection = await log.create_collection(KEY, url, url, DIMENSION)
    workers = Workers("fill", 1, 1)
    replica = Replica(log, faiss.open(Url.parse("faiss:")), workers)
    merger = Merger(replica, workers)
    for number, (record, chunks, vectors) in enumerate(documents(rows), 1):
        await log.publish(collection, [Content(record, chunks, vectors)])
        if number % _DOCUMENTS_AT_ONCE == 0:
            await replica.load()
            while await merger.step(quiet=False):
                pass
    await replica.load()
    while await merger.step(quiet=True):
        pass
    snapshots = Snapshots.claim(store / "snapshots", log.log_id, replica.indexes)
    snapshots.save(replica.state)
    snapshots.close()
    workers.close()
    await log.close()


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2])))

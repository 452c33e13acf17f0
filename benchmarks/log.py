"""How fast a replica reads the change log, and how fast documents are published, from each store.

python -m benchmarks.log [--chunks 10000] [--store sqlite:///DIR | postgresql://…]

Without ``--store``: SQLite in a directory of its own, and PostgreSQL where its binaries are there. Vectors have 384
columns, texts some 600 characters, documents 10 chunks. One line per store: chunks read a second in pages as
replicas read them, the largest page's time, documents published a second by one writer, each in a transaction
that survives a power cut.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from mesh import plugins
from mesh.plugins import Url
from services.retriever.ports import Content, Log
from services.retriever.types import Chunk, CollectionKey, Document
from tests.support.postgresql import PostgresqlServer

DIMENSION = 384
PER_DOCUMENT = 10
TEXT = "A sentence that says one thing, and another that says the next. " * 9


async def measure(url: Url, chunks: int) -> dict[str, float | str]:
    log: Log = await plugins.load("services.retriever.logs", url).open(url)
    try:
        collection = await log.create_collection(CollectionKey("bench", "log"), "none:", "none:", DIMENSION)
        rng = np.random.default_rng(1)
        began_s = time.perf_counter()
        for number in range(chunks // PER_DOCUMENT):
            pieces = [Chunk(n, f"{n} {TEXT}", n * 600, (n + 1) * 600) for n in range(PER_DOCUMENT)]
            vectors = rng.random((PER_DOCUMENT, DIMENSION), np.float32)
            record = Document(f"d{number}", f"d{number}.txt", "", "text/plain", f"{number:064x}", 6_000, PER_DOCUMENT)
            await log.publish(collection, [Content(record, pieces, vectors)])
        wrote_s = time.perf_counter() - began_s
        slowest_s, read, after, more = 0.0, 0, 0, True
        began_s = time.perf_counter()
        while more:
            page_s = time.perf_counter()
            page = await log.read(after)
            slowest_s = max(slowest_s, time.perf_counter() - page_s)
            after, more = page.sequence, page.more
            read += sum(len(stored.chunks) for stored in page.documents)
        read_s = time.perf_counter() - began_s
    finally:
        await log.close()
    assert read == chunks // PER_DOCUMENT * PER_DOCUMENT
    return {
        "store": url.scheme,
        "chunks": read,
        "read_chunks_per_s": round(read / read_s),
        "slowest_page_ms": round(slowest_s * 1e3, 1),
        "publish_documents_per_s": round(read / PER_DOCUMENT / wrote_s, 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="reading and writing the change log")
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--store", default="")
    arguments = parser.parse_args(argv)
    if arguments.store:
        print(json.dumps(asyncio.run(measure(Url.parse(arguments.store), arguments.chunks))))
        return
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(asyncio.run(measure(Url.parse(f"sqlite:///{place}"), arguments.chunks))))
    server = PostgresqlServer().start()
    try:
        url = Url.parse(asyncio.run(server.make_database()))
        print(json.dumps(asyncio.run(measure(url, arguments.chunks))))
    finally:
        server.close()


if __name__ == "__main__":
    main()

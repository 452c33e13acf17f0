"""What ``pgvector:`` costs: every row looked at, as it is done, and the graph (HNSW) that could be there instead.

    python -m benchmarks.shared_index --rows 100000

Starts a PostgreSQL of its own (``.ci/install-postgresql`` gets it) and fills a table as a retriever does. One caller,
vectors as in ``benchmarks.index`` (overlapping clusters), queries that are not among them. Exits with 1 where the scan,
which must be exact, finds less than 0.999 of the ten nearest.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
import numpy as np

from benchmarks.index import CANDIDATES, SPREADS, Clustered, K
from services.retriever.indexes import _pgvector_tables as sql
from services.retriever.types import Vectors
from tests.support.postgresql import PostgresqlServer

QUERIES, PAGE, ADDED = 100, 1_024, 1_000
DIMENSION = 384
NEAREST = (
    f"SELECT document FROM {sql.table(1)} ORDER BY vector <#> $1::real[]::vector LIMIT {CANDIDATES}"  # a graph's query
)


async def measured(connection: Any, name: str, vectors: Vectors, queries: Vectors, *, graph: bool) -> float:
    """Search, print a row, return recall@10."""
    took_s, found = [], 0
    for query in queries:
        wanted = set(np.argsort(-(vectors @ query))[:K].tolist())
        began_s = time.perf_counter()
        if graph:
            rows = await connection.fetch(NEAREST, query.tolist())
        else:
            statement = sql.search(1, filtered=False)
            rows = await connection.fetch(statement, query.tolist(), CANDIDATES, [], [], [])
        took_s.append(time.perf_counter() - began_s)
        found += len(wanted & {int(row["document"]) for row in rows[:K]})
    recall = found / (K * len(queries))
    print(f"{name:<16}{1_000 * float(np.median(took_s)):>8.1f} ms{recall:>8.3f}")
    return recall


async def fill(connection: Any, vectors: Vectors, first: int) -> float:
    """Put vectors in as a retriever does; rows a second."""
    began_s = time.perf_counter()
    for at in range(0, len(vectors), PAGE):
        page = enumerate(vectors[at : at + PAGE], first + at)
        async with connection.transaction():
            await connection.executemany(sql.put(1), ((f"{row:09}", 1, 0, vector.tolist()) for row, vector in page))
    return len(vectors) / (time.perf_counter() - began_s)


async def run(rows: int) -> int:
    """Measure one size."""
    server = PostgresqlServer()
    try:
        connection = await asyncpg.connect(await server.start().make_database())
        for statement in ("CREATE SCHEMA weft_index", *sql.SCHEMA.statements, *sql.create(1, DIMENSION)):
            await connection.execute(statement)
        source = Clustered(rows, SPREADS["overlapping"])
        vectors, queries = source.draw(rows, 0), source.draw(QUERIES, 1)
        print(f"{rows} rows, {await fill(connection, vectors, 0):.0f} a second without a graph")
        await connection.execute(f"ANALYZE {sql.table(1)}")
        exact = await measured(connection, "every row", vectors, queries, graph=False)
        began_s = time.perf_counter()
        await connection.execute("SET maintenance_work_mem = '512MB'")
        await connection.execute(f"CREATE INDEX ON {sql.table(1)} USING hnsw (vector vector_ip_ops)")
        print(f"graph made in {time.perf_counter() - began_s:.0f} s")
        await connection.execute("SET enable_seqscan = off")
        for depth in (60, 120, 200):
            await connection.execute(f"SET hnsw.ef_search = {depth}")
            await measured(connection, f"graph {depth}", vectors, queries, graph=True)
        print(f"{await fill(connection, source.draw(ADDED, 2), rows):.0f} rows a second into the graph")
        await connection.close()
    finally:
        server.close()
    return 0 if exact >= 0.999 else 1


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    return asyncio.run(run(parser.parse_args(argv).rows))


if __name__ == "__main__":
    sys.exit(main())

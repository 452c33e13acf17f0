"""A replica whose snapshots lie on a disk that is full, then isn't: ``python -m tests.support.full_disk DIRECTORY``.

``DIRECTORY/snapshots`` is to be a small file system of its own.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path

from mesh.deadline import Deadline
from services.retriever.types import Query
from tests.support.retrieval import KEY
from tests.unit.test_retriever_snapshots import fill, kept_house, place


def fill_up(ballast: Path) -> None:
    """Leave no room beside ``ballast``."""
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 4_096):
                pass
    except OSError as exc:
        assert exc.errno == errno.ENOSPC, exc


async def main(directory: Path) -> None:
    """See the module."""
    query = Query(KEY, "w3")
    async with kept_house(directory) as (one, keeper, registry):
        await fill(one, 0, 20)
        ballast = directory / "snapshots" / "ballast"
        fill_up(ballast)
        before = await one.searcher.search(query, Deadline.after(5))
        assert not await keeper.step()
        assert registry.get_sample_value("weft_retriever_snapshot_failures_total") == 1
        assert (await one.searcher.search(query, Deadline.after(5))).hits == before.hits
        await fill(one, 20, 1)
        ballast.unlink()
        assert await keeper.step()
        log_id = one.log.log_id
    with place(directory / "snapshots", log_id) as snapshots:
        assert snapshots.load().views[KEY].live_count == 21


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

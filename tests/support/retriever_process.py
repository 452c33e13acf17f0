"""A retriever process over a store, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

START_TIMEOUT_S = 30


@asynccontextmanager
async def process(place: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A retriever process over the store in ``place``, and its port."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.retriever"),
        env={
            **os.environ,
            "WEFT_STORE": f"sqlite:///{place}",
            "WEFT_RETRIEVER__EMBEDDER": "none:",
            "WEFT_MESH": "127.0.0.1:9",  # nobody there: it serves all the same
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert started.stdout is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (found := re.search(rb"serving on 127\.0\.0\.1:(\d+)", line := await started.stdout.readline())):
                assert line, "the process ended before it served"
        reading = asyncio.create_task(started.stdout.read())  # or a full pipe would hold it up
        yield started, int(found.group(1))
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        if reading is not None:
            await reading

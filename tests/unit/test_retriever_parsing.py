"""Reading in processes of their own: a document that hangs, crashes or eats memory costs itself only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from services.retriever.documents import reading
from services.retriever.documents.limits import Limits, problem_of
from services.retriever.documents.parsing import Parsers
from weft.errors import WeftError

MIB = 1 << 20
HOSTILE = "tests.support.hostile_parsers"
GOOD = b"The Title\n\nA good document."


@asynccontextmanager
async def parsers(processes: int = 1, module: str = HOSTILE, **limits: float) -> AsyncIterator[Parsers]:
    pool = Parsers(Limits(**limits), processes, module=module)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.close()


async def failure(pool: Parsers, data: bytes) -> WeftError:
    with pytest.raises(WeftError) as caught:
        await pool.parse(data, "text/plain")
    return caught.value


async def test_a_document_read_in_a_process_comes_out_as_if_read_here() -> None:
    text = "\n\n".join(f"Paragraph {number}. " + "It is long, é and 中文. " * 40 for number in range(300))
    async with parsers(module="services.retriever.documents.parsing_child") as pool:
        for kind in ("text/plain", "text/markdown"):
            assert await pool.parse(text.encode(), kind) == reading.cut(text.encode(), kind, "", Limits())
        assert await pool.parse(b"# Top\n\n## Deep\n\ntext", "text/markdown") == reading.cut(
            b"# Top\n\n## Deep\n\ntext", "text/markdown", "", Limits()
        )


async def test_a_process_starts_with_the_first_document_and_is_kept() -> None:
    async with parsers(processes=2) as pool:
        assert pool.process_ids == ()
        await pool.parse(GOOD, "text/plain")
        first = pool.process_ids
        await pool.parse(GOOD, "text/plain")
        assert len(first) == 1
        assert pool.process_ids == first


async def test_no_more_processes_than_allowed_read_at_once() -> None:
    async with parsers(processes=2) as pool:
        reads = [asyncio.create_task(pool.parse(b"sleep 0.1", "text/plain")) for _ in range(6)]
        await asyncio.wait(reads)
        assert len(pool.process_ids) == 2


@pytest.mark.parametrize(
    ("order", "reason", "says"),
    [
        (b"sleep 600", "DOCUMENT_TOO_LARGE", "1.5 s"),
        (b"allocate 300000000", "DOCUMENT_TOO_LARGE", f"{64 * MIB} bytes of memory"),
        (b"segfault", "DOCUMENT_UNREADABLE", "SIGSEGV"),
        (b"exit 3", "DOCUMENT_UNREADABLE", "exit code 3"),
        (b"recurse", "DOCUMENT_UNREADABLE", "RecursionError"),
        (b"raise", "DOCUMENT_UNREADABLE", 'KeyError: "a parser\'s own mistake"'),
        (b"", "DOCUMENT_EMPTY", "no text"),
    ],
)
async def test_a_hostile_document_fails_alone_and_the_next_is_read(order: bytes, reason: str, says: str) -> None:
    async with parsers(timeout_s=1.5, max_memory_bytes=64 * MIB) as pool:
        await pool.parse(GOOD, "text/plain")
        err = await failure(pool, order)
        assert err.reason == reason
        assert says in err.message
        title, chunks = await pool.parse(GOOD, "text/plain")
        assert (title, [chunk.text for chunk in chunks]) == ("The Title", ["The Title\n\nA good document."])
        assert len(pool.process_ids) == 1


def test_what_a_library_says_is_shown_on_one_bounded_printable_line() -> None:
    told = problem_of(ValueError("a\nbell \x07 and \x1b[31m, 中 " + "x" * 500))
    assert told.startswith("ValueError: a bell and [31m, \\u4e2d xxx")
    assert told.isprintable()
    assert len(told) <= 160


async def test_memory_within_the_limit_is_had() -> None:
    async with parsers(max_memory_bytes=64 * MIB) as pool:
        assert (await pool.parse(b"allocate 40000000", "text/plain"))[0] == "40000000"


async def test_what_a_library_prints_does_not_get_among_the_answers() -> None:
    async with parsers() as pool:
        assert (await pool.parse(b"chatter", "text/plain"))[1][0].text == "chatter"


async def test_more_passages_than_allowed_are_refused_with_both_figures() -> None:
    text = "\n\n".join("A paragraph of its own. " * 30 for _ in range(5))
    async with parsers(max_chunks=4) as pool:
        err = await failure(pool, text.encode())
    assert err.reason == "DOCUMENT_TOO_LARGE"
    assert (err.metadata["limit"], err.metadata["chunks"], err.metadata["max_chunks"]) == ("chunks", "5", "4")


async def test_a_caller_that_goes_away_takes_the_process_along() -> None:
    async with parsers() as pool:
        await pool.parse(GOOD, "text/plain")
        (pid,) = pool.process_ids
        read = asyncio.create_task(pool.parse(b"sleep 600", "text/plain"))
        await asyncio.sleep(0.1)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        assert not psutil.pid_exists(pid)
        await pool.parse(GOOD, "text/plain")


async def test_a_process_killed_while_idle_is_replaced_unnoticed() -> None:
    async with parsers() as pool:
        await pool.parse(GOOD, "text/plain")
        (pid,) = pool.process_ids
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while pool.process_ids:  # noqa: ASYNC110 - a process tells nobody that it ended
                await asyncio.sleep(0.01)
        assert (await pool.parse(GOOD, "text/plain"))[0] == "The Title"


async def test_closing_ends_what_is_under_way_and_blames_no_document() -> None:
    async with parsers() as pool:
        await pool.parse(GOOD, "text/plain")
        (pid,) = pool.process_ids
        read = asyncio.create_task(pool.parse(b"sleep 600", "text/plain"))
        await asyncio.sleep(0.1)
        await pool.close()
        with pytest.raises(WeftError, match="shutting down"):
            await read
        assert not psutil.pid_exists(pid)
        assert (await failure(pool, GOOD)).reason == "SHUTTING_DOWN"


async def test_processes_that_cannot_start_are_told_as_such() -> None:
    async with parsers(module="tests.support.no_such_module") as pool:
        assert (await failure(pool, GOOD)).reason == "OVERLOADED"


_SERVICE = f"""
import asyncio
from services.retriever.documents.limits import Limits, problem_of
from services.retriever.documents.parsing import Parsers
async def main():
    pool = Parsers(Limits(), 1, module={HOSTILE!r})
    await pool.parse(b"parent", "text/plain")
    print(*pool.process_ids, flush=True)
    await pool.parse(b"sleep 600", "text/plain")
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process at work ends with its document")
def test_a_service_that_is_killed_takes_its_processes_along() -> None:
    service = subprocess.Popen([sys.executable, "-c", _SERVICE], stdout=subprocess.PIPE)
    assert service.stdout is not None
    with service, service.stdout:
        child = psutil.Process(int(service.stdout.readline()))
        service.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []

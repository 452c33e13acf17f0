"""Reads documents in processes of their own, so that a hostile one harms nothing but itself.

    idle ──take──> at work ──answer──> idle
                      └──hung, out of memory, crashed, caller gone──> killed; the next document starts a new one

A parser runs on bytes that a stranger wrote. It may hang, ask for all memory, recurse without end or crash
outright, in Python or in a library's C. In its own process (``parsing_child``) that costs one document: it
fails with DOCUMENT_TOO_LARGE or DOCUMENT_UNREADABLE, and the others of its batch go in. Processes are
started when they are needed, at most so many, and kept: starting one takes a few hundred milliseconds,
asking a warm one about one. They are spawned, never forked, since gRPC's threads do not survive a fork.

Both sides talk in frames: four bytes of length, then JSON. A question is a frame with the document's kind
and size, then its bytes; the answer is frames of chunks and one last that ends it. Nothing that comes back is
code (as pickles are), and no frame is so long that decoding it would hold the event loop up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict
from typing import Any, Final

import psutil

from services.retriever.documents.limits import Limits
from services.retriever.types import Chunk
from weft.errors import Reason, WeftError, error

_log = logging.getLogger(__name__)
CHILD: Final = "services.retriever.documents.parsing_child"
MAX_FRAME_BYTES: Final = 8 << 20
LENGTH_BYTES: Final = 4
_MAX_WAITING: Final = 256
_RETRY_AFTER_S: Final = 2.0
_START_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_S: Final = 5.0
_PART_BYTES: Final = 1 << 18

Cut = tuple[str, list[Chunk]]


class Parsers:
    """A bounded set of reading processes. Close it with ``close``."""

    def __init__(self, limits: Limits, processes: int, *, module: str = CHILD) -> None:
        self._limits, self._module = limits, module
        self._free = asyncio.Semaphore(processes)
        self._most = processes + _MAX_WAITING
        self._pending = 0
        self._idle: list[_Child] = []  # the one used last is taken first
        self._all: set[_Child] = set()
        self._closed = False

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the processes that are up."""
        return tuple(child.pid for child in self._all if child.lives)

    async def parse(self, data: bytes, kind: str, charset: str = "") -> Cut:
        """The title and the chunks of a document of MIME type ``kind``; ``charset`` as declared, if it was.

        Raises:
            WeftError: DOCUMENT_UNREADABLE, DOCUMENT_EMPTY, DOCUMENT_TOO_LARGE naming the limit; OVERLOADED
                when too many wait already or no process can be started; SHUTTING_DOWN.
        """
        if self._pending >= self._most:
            raise _overloaded(f"{self._pending} documents are read or wait for it, which is the limit")
        self._pending += 1
        try:
            async with self._free:
                child = await self._take()
                try:
                    async with asyncio.timeout(self._limits.timeout_s):
                        return await child.read(data, kind, charset)
                except TimeoutError:
                    raise self._limits.out_of_time() from None
                except WeftError:
                    if self._closed:  # rather than blame the document
                        raise _shutting_down() from None
                    raise
                finally:
                    await self._give_back(child)
        finally:
            self._pending -= 1

    async def close(self) -> None:
        """End all processes, whatever they are at."""
        self._closed = True
        self._idle.clear()
        await asyncio.gather(*(child.end() for child in self._all))
        self._all.clear()

    async def _take(self) -> _Child:
        if self._closed:
            raise _shutting_down()
        while self._idle:
            child = self._idle.pop()
            if child.lives:
                return child
            await self._drop(child)
        try:
            child = await _Child.start(self._module, self._limits)
        except OSError as exc:
            raise _overloaded(f"no process can be started to read documents: {exc}") from exc
        self._all.add(child)
        return child

    async def _give_back(self, child: _Child) -> None:
        if child.ready:
            self._idle.append(child)
        else:
            await self._drop(child)

    async def _drop(self, child: _Child) -> None:
        self._all.discard(child)
        await child.end()


class _Child:
    """One process. ``ready`` is whether it can be asked: it is not from a question until the whole answer."""

    def __init__(self, process: Process) -> None:
        self._process = process
        # asyncio's own kill() may reap a process that just ended, and its exit code is lost then
        self._handle = psutil.Process(process.pid)
        self.ready = False

    @classmethod
    async def start(cls, module: str, limits: Limits) -> _Child:
        """Start one and wait until it has imported what it needs.

        Raises:
            OSError: it could not be started, or said nothing in time.
        """
        arguments = (sys.executable, "-m", module, str(os.getpid()), json.dumps(asdict(limits)))
        process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)
        try:
            child = cls(process)
        except psutil.NoSuchProcess:
            raise OSError(f"{module} ended at once") from None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await child._receive()
        except (asyncio.IncompleteReadError, TimeoutError) as exc:
            await child.end()
            raise OSError(f"{module} ended or hung before it was ready") from exc
        except BaseException:
            await child.end()
            raise
        child.ready = True
        return child

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def read(self, data: bytes, kind: str, charset: str) -> Cut:
        """One document. Whatever ends this early leaves the process unready."""
        self.ready = False
        chunks: list[Chunk] = []
        try:
            await self._send(data, kind, charset)
            while True:
                frame = await self._receive()
                if "chunks" in frame:
                    chunks += [Chunk(len(chunks) + at, *_chunk(row)) for at, row in enumerate(frame["chunks"])]
                    continue
                self.ready = not frame["last"]
                if "error" in frame:
                    raise _failure(frame["error"])
                return frame["title"], chunks
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._crashed(kind) from None

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.ready = False
        with contextlib.suppress(psutil.NoSuchProcess):
            self._handle.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):  # in a kernel call that even SIGKILL waits for
            await asyncio.wait_for(self._process.wait(), _END_TIMEOUT_S)

    async def _send(self, data: bytes, kind: str, charset: str) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        question = json.dumps({"kind": kind, "charset": charset, "size": len(data)}).encode()
        pipe.write(len(question).to_bytes(LENGTH_BYTES) + question)
        view = memoryview(data)
        for start in range(0, len(data), _PART_BYTES):
            pipe.write(view[start : start + _PART_BYTES])
            await pipe.drain()

    async def _receive(self) -> Any:
        pipe = self._process.stdout
        assert pipe is not None
        size = int.from_bytes(await pipe.readexactly(LENGTH_BYTES))
        if size > MAX_FRAME_BYTES:
            raise ConnectionError(f"a frame of {size} bytes")
        return json.loads(await pipe.readexactly(size))

    async def _crashed(self, kind: str) -> WeftError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_TIMEOUT_S)  # how it ended by itself
        await self.end()
        code = self._process.returncode
        how = f"exit code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        _log.warning("a process that read a document of type %s ended: %s", kind, how)
        return error(
            Reason.DOCUMENT_UNREADABLE,
            f"the document could not be read as {kind}: it ended the process that read it ({how}); "
            "save it anew, or send it as text/plain",
            mime_type=kind,
            problem=how,
        )


def _chunk(row: list[Any]) -> tuple[str, int, int, tuple[str, ...], int]:
    text, start_char, end_char, section, page = row
    return text, start_char, end_char, tuple(section), page


def _failure(told: dict[str, Any]) -> WeftError:
    if told["trace"]:  # the parser's own fault rather than the document's: an operator may want to know
        _log.warning("a parser failed: %s\n%s", told["message"], told["trace"])
    return error(Reason(told["reason"]), told["message"], **told["metadata"])


def _shutting_down() -> WeftError:
    return error(Reason.SHUTTING_DOWN, "this retriever is shutting down; send the document again")


def _overloaded(problem: str) -> WeftError:
    return error(Reason.OVERLOADED, f"{problem}; try again in {_RETRY_AFTER_S:g} s", retry_after_s=_RETRY_AFTER_S)

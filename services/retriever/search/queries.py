"""Queries as vectors: each embedded once, those of a moment together where that gains anything.

    known? ──yes──> the vector
       └─no─> already on its way? ──yes──> wait for that one
                     └─no─> next batch -> embedded on a thread -> kept -> everybody who waits

An embedder says how many queries it gains from at once (``query_batch``). With 1, as for a model on this
processor, there is nothing to wait for: the search embeds on the thread it runs on anyway. A remote one answers
sixteen in about the time of one: what arrives while a call is under way waits for company, ``MAX_WAIT_S`` at the
most; where none is, a query goes at once, with those that came in the same turn of the loop.

Somebody who gives up waiting takes nothing from the others. After a failure the embedder is left alone for
``REST_S``: searches say at once that they do without it, instead of each finding out again.

Errors: what the embedder raises, EMBEDDER_UNAVAILABLE; OVERLOADED when too many wait for a thread.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from services.retriever.ports import Embedder
from services.retriever.search.caching import Lru
from services.retriever.types import Vectors
from services.retriever.workers import Workers
from weft.errors import Reason, WeftError, error

MAX_WAIT_S: Final = 0.002
REST_S: Final = 1.0
MAX_KEPT: Final = 8_192
MAX_KEPT_BYTES: Final = 16 << 20
_OVERHEAD_BYTES: Final = 512  # of a kept query beside its vector and its text


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as its collection's embedder sees it: one row, and how much of its words the embedder knows."""

    vector: Vectors
    knowledge: float


@dataclass(slots=True)
class _Line:
    """What waits for one embedder."""

    waiting: dict[str, asyncio.Future[Asked]] = field(default_factory=dict)
    calls: int = 0  # under way
    timer: asyncio.Handle | None = None
    failure: WeftError | None = None
    failed_s: float = 0.0


def ask(embedder: Embedder, text: str) -> Asked:
    """Embed one query, on this thread."""
    return Asked(embedder.embed_queries([text]), embedder.knowledge(text))


class QueryVectors:
    """Vectors of queries for all embedders of a process. Belongs to one event loop."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._kept: Lru[tuple[str, str], Asked] = Lru(MAX_KEPT, MAX_KEPT_BYTES)
        self._lines: dict[str, _Line] = {}
        self._on_their_way: dict[tuple[str, str], asyncio.Future[Asked]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def known(self, embedder: Embedder, text: str) -> Asked | None:
        """The query if it is at hand."""
        return self._kept.get((embedder.url, text))

    def keep(self, embedder: Embedder, text: str, asked: Asked) -> None:
        """Remember a query that was embedded elsewhere."""
        size_bytes = asked.vector.nbytes + 2 * len(text) + _OVERHEAD_BYTES
        self._kept.put((embedder.url, text), asked, size_bytes)

    async def get(self, embedder: Embedder, text: str) -> Asked:
        """The query, embedded with others of the moment."""
        asked = self.known(embedder, text)
        if asked is not None:
            return asked
        key = (embedder.url, text)
        coming = self._on_their_way.get(key)
        if coming is None:
            line = self._lines.setdefault(embedder.url, _Line())
            if line.failure is not None and time.monotonic() - line.failed_s < REST_S:
                raise error(Reason.EMBEDDER_UNAVAILABLE, line.failure.message, embedder=embedder.url)
            coming = asyncio.get_running_loop().create_future()
            coming.add_done_callback(_seen)
            self._on_their_way[key] = line.waiting[text] = coming
            self._arrange(embedder, line)
        return await asyncio.shield(coming)

    async def close(self) -> None:
        """Drop what is under way."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for coming in [*self._on_their_way.values()]:
            coming.cancel()

    def _arrange(self, embedder: Embedder, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        if len(line.waiting) >= embedder.query_batch:
            self._send(embedder, line)
        elif line.timer is None and line.calls:
            line.timer = loop.call_later(MAX_WAIT_S, self._send, embedder, line)
        elif line.timer is None:
            line.timer = loop.call_soon(self._send, embedder, line)

    def _send(self, embedder: Embedder, line: _Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        batch, line.waiting = line.waiting, {}
        if batch:
            line.calls += 1
            call = asyncio.get_running_loop().create_task(self._call(embedder, line, batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, embedder: Embedder, line: _Line, batch: dict[str, asyncio.Future[Asked]]) -> None:
        try:
            found = await self._workers.run(_embedded, embedder, list(batch))
            line.failure = None
            for (text, coming), asked in zip(batch.items(), found, strict=True):
                self.keep(embedder, text, asked)
                if not coming.done():
                    coming.set_result(asked)
        except Exception as exc:
            if isinstance(exc, WeftError) and exc.reason == Reason.EMBEDDER_UNAVAILABLE:
                line.failure, line.failed_s = exc, time.monotonic()
            for coming in batch.values():
                if not coming.done():
                    coming.set_exception(exc)
        finally:
            line.calls -= 1
            for text, coming in batch.items():
                self._on_their_way.pop((embedder.url, text), None)
                coming.cancel()  # only where the process ends


def _embedded(embedder: Embedder, texts: list[str]) -> list[Asked]:
    rows = embedder.embed_queries(texts)
    return [Asked(rows[at : at + 1], embedder.knowledge(text)) for at, text in enumerate(texts)]


def _seen(coming: asyncio.Future[Asked]) -> None:
    """Take note of a failure that nobody waited for."""
    if not coming.cancelled():
        coming.exception()

"""One run of a model that everybody reads who asked the same at the same time.

    begun -> said … -> over     every reader: what was said so far, then what is said next, as it comes
      └── the last reader left: the model is stopped before that reader's close returns

A run belongs to all its readers and to none of them: it goes on when the one who began it leaves. An error of the
model reaches each reader after all that was said, as an exception of its own. A run has the deadline, tenant and
trace of who began it.

Readers are given what they have not read from memory, so a slow one holds up nobody. Beyond MAX_BYTES a run takes no
further readers, and what all have read is let go of; it then waits for the slowest when that one is
MAX_BEHIND_EVENTS behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from services.generator.caching.answers import MAX_BYTES, kept
from services.generator.coalesce import MAX_WAITING_EVENTS as MAX_BEHIND_EVENTS
from services.generator.types import End, ModelEvent, Piece
from weft.errors import Reason, WeftError, error

_EVENT_BYTES = 100  # of an event beside its text and its ids
_ID_BYTES = 32

_log = logging.getLogger(__name__)


class Reader:
    """How far somebody has read."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = 0


class Flight:
    """See the module. One task runs the model from beginning to end.

    Attributes:
        open: whether it takes further readers.
        deadline_s: on the event loop's clock, of who began it; infinite without.
    """

    def __init__(
        self,
        events: AsyncGenerator[ModelEvent, None],
        deadline_s: float,
        keep: Callable[[Sequence[ModelEvent]], Awaitable[None]],
        on_closed: Callable[[], None],
    ) -> None:
        """Begin. ``keep`` is given a whole answer; ``on_closed`` is called once, when no one may join any more."""
        self.open = True
        self.deadline_s = deadline_s
        self._keep, self._on_closed = keep, on_closed
        self._said: deque[ModelEvent] = deque()
        self._dropped = 0  # events that all have read
        self._bytes = 0
        self._readers: set[Reader] = set()
        self._more, self._less = asyncio.Event(), asyncio.Event()
        self._over = self._billed = False
        self._failure: BaseException | None = None
        self.task = asyncio.create_task(self._run(events))

    def join(self) -> Reader:
        """Become a reader. Whoever joins must iterate over ``read``, which also leaves."""
        reader = Reader()
        self._readers.add(reader)
        return reader

    async def read(self, reader: Reader) -> AsyncGenerator[ModelEvent, None]:
        """All that is said, from the beginning. The first to read the end has it as it is; for the others nothing
        was computed, and their end says so."""
        try:
            while True:
                while (index := reader.position - self._dropped) < len(self._said):
                    event = self._said[index]
                    reader.position += 1
                    if not self.open and not self._over:
                        self._let_go()
                    if isinstance(event, End):
                        event = kept(event) if self._billed else event
                        self._billed = True
                    yield event
                if self._over:
                    break
                await self._more.wait()
            if self._failure is not None:
                raise _own(self._failure)
        finally:
            await self._leave(reader)

    async def close(self) -> None:
        """Stop, whoever reads."""
        self._shut()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if not self._over:  # cancelled before its first step
            self._failure = asyncio.CancelledError()
            self._end()

    async def _leave(self, reader: Reader) -> None:
        self._readers.discard(reader)
        if not self._over and not self._readers:
            await self.close()
        self._less.set()

    async def _run(self, events: AsyncGenerator[ModelEvent, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._add(event)
                    if not self.open:
                        await self._wait_for_the_slowest()
        except BaseException as exc:
            self._failure = exc
            if not isinstance(exc, (WeftError, asyncio.CancelledError)):
                _log.error("a model failed unexpectedly", exc_info=exc)
            self._end()
            self._shut()
            if isinstance(exc, asyncio.CancelledError):
                raise
            return
        self._end()
        try:
            if self.open:
                await self._keep(self._said)
        except Exception:
            _log.exception("an answer could not be kept")
        finally:
            self._shut()

    def _add(self, event: ModelEvent) -> None:
        self._said.append(event)
        self._bytes += _EVENT_BYTES
        if isinstance(event, Piece):
            self._bytes += len(event.text) + _ID_BYTES * len(event.token_ids)
        if isinstance(event, End):
            self._over = True  # what the model does after its end is nobody's to wait for
        elif self._bytes > MAX_BYTES:
            self._shut()
        self._wake()

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()  # all who wait now
        self._more.clear()

    def _shut(self) -> None:
        if self.open:
            self.open = False
            self._on_closed()

    def _let_go(self) -> None:
        slowest = min(reader.position for reader in self._readers)
        while self._dropped < slowest:
            self._said.popleft()
            self._dropped += 1
        self._less.set()

    async def _wait_for_the_slowest(self) -> None:
        while len(self._said) >= MAX_BEHIND_EVENTS and not self._over:
            self._less.clear()
            await self._less.wait()
            if self._readers:
                self._let_go()


def _own(failure: BaseException) -> WeftError:
    """The failure of a run as one reader's own: what is raised is written to on its way."""
    if isinstance(failure, WeftError):
        err = type(failure)(
            failure.reason,
            failure.message,
            metadata=failure.metadata,
            retry_after_s=failure.retry_after_s,
            field=failure.field,
            code=failure.code,
            trace_id=failure.trace_id,
        )
    elif isinstance(failure, asyncio.CancelledError):
        err = error(Reason.SHUTTING_DOWN, "the model was closed while it answered; ask another replica")
    else:
        kind = type(failure).__name__
        err = error(Reason.INTERNAL, f"the model failed unexpectedly ({kind}); the log tells more", error=kind)
    err.__cause__ = failure
    return err

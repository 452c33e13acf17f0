"""Fewer, larger pieces: on a stream every message costs about as much as a small call.

The first piece passes at once, so that the caller sees the answer begin. Later ones are gathered and passed at most
once an interval, which may change as the answer goes on, and what is left passes as soon as the model is done: nobody
reads faster than that.

One task runs the model from beginning to end: a generator must not be resumed in one task and closed in another. It
belongs to the reader. When the reader stops, for whatever reason, the task is cancelled and the model's generator
closed before the reader's own close returns. What waits is bounded: a reader that doesn't keep up stops the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from services.generator.types import ModelEvent, Piece

MAX_WAITING_EVENTS: Final = 1_024


async def coalesced(
    events: AsyncGenerator[ModelEvent, None], interval_s: Callable[[], float]
) -> AsyncGenerator[ModelEvent, None]:
    """Yield what `events` yields, pieces joined. An error of the model comes after all that it gave before."""
    loop = asyncio.get_running_loop()
    gathering = _Gathering(loop)
    task = asyncio.create_task(gathering.run(events))
    task.add_done_callback(lambda _: gathering.due.set())
    try:
        while gathering.waiting or not task.done():
            await gathering.due.wait()
            ready = _joined(gathering.take())
            if not task.done():
                gathering.due.clear()
            if any(isinstance(event, Piece) for event in ready):
                gathering.silent_until_s = loop.time() + interval_s()
            for event in ready:
                yield event
        task.result()
    finally:
        task.cancel()
        gathering.close()
        await asyncio.gather(task, return_exceptions=True)


class _Gathering:
    """What the model has given and the reader has not taken yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._taken = asyncio.Event()
        self.waiting: list[ModelEvent] = []
        self.due = asyncio.Event()
        self.silent_until_s = 0.0

    async def run(self, events: AsyncGenerator[ModelEvent, None]) -> None:
        """Run the model."""
        begun = False
        async with aclosing(events):
            async for event in events:
                self.waiting.append(event)
                self._ring()
                if isinstance(event, Piece) and not begun:
                    begun = True
                    await asyncio.sleep(0)  # the reader's turn: a quick model would hand over the whole answer as one
                elif len(self.waiting) >= MAX_WAITING_EVENTS:
                    self._taken.clear()
                    await self._taken.wait()

    def take(self) -> list[ModelEvent]:
        """Everything, in order."""
        waiting, self.waiting = self.waiting, []
        self._taken.set()
        return waiting

    def close(self) -> None:
        """Wake nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        if self._timer is None and not self.due.is_set():
            if self._loop.time() >= self.silent_until_s:
                self.due.set()
            else:  # one timer for all that comes meanwhile: much cheaper than a wait with a timeout
                self._timer = self._loop.call_at(self.silent_until_s, self._over)

    def _over(self) -> None:
        self._timer = None
        self.due.set()


def _joined(events: list[ModelEvent]) -> list[ModelEvent]:
    """Join neighbouring pieces."""
    joined: list[ModelEvent] = []
    run: list[Piece] = []
    for event in events:
        if isinstance(event, Piece):
            run.append(event)
            continue
        joined += _one(run)
        run = []
        joined.append(event)
    return joined + _one(run)


def _one(pieces: list[Piece]) -> list[Piece]:
    if len(pieces) <= 1:
        return pieces
    text = "".join(piece.text for piece in pieces)
    return [Piece(text, tuple(token_id for piece in pieces for token_id in piece.token_ids))]

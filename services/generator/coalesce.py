"""Fewer, larger pieces: on a stream every message costs about as much as a small call.

The first piece passes at once, so that the caller sees the answer begin. Later ones are gathered and passed at most
once an interval, and what is left passes as soon as the model is done.

One task runs the model from beginning to end: a generator must not be resumed in one task and closed in another. It
belongs to the reader. When the reader stops, for whatever reason, the task is cancelled and the model's generator
closed before the reader's own close returns. What waits is bounded: a reader that doesn't keep up stops the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from services.generator.types import ModelEvent, Piece

MAX_WAITING_EVENTS: Final = 1_024


async def coalesced(events: AsyncGenerator[ModelEvent, None], interval_s: float) -> AsyncGenerator[ModelEvent, None]:
    """Yield what `events` yields, pieces joined. An error of the model comes after all that it gave before."""
    waiting: list[ModelEvent] = []
    arrived, taken = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(_run(events, waiting, arrived, taken))
    task.add_done_callback(lambda _: arrived.set())
    loop = asyncio.get_running_loop()
    silent_until_s = 0.0
    try:
        while waiting or not task.done():
            await arrived.wait()
            silence_s = silent_until_s - loop.time()
            if silence_s > 0 and not task.done():
                await asyncio.wait({task}, timeout=silence_s)
            ready = _joined(waiting)
            waiting.clear()
            taken.set()
            if not task.done():
                arrived.clear()
            for event in ready:
                yield event
                if isinstance(event, Piece):
                    silent_until_s = loop.time() + interval_s
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(
    events: AsyncGenerator[ModelEvent, None], waiting: list[ModelEvent], arrived: asyncio.Event, taken: asyncio.Event
) -> None:
    begun = False
    async with aclosing(events):
        async for event in events:
            waiting.append(event)
            arrived.set()
            if isinstance(event, Piece) and not begun:
                begun = True
                await asyncio.sleep(0)  # the reader's turn: a quick model would hand over the whole answer as one
            elif len(waiting) >= MAX_WAITING_EVENTS:
                taken.clear()
                await taken.wait()


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

"""Unary calls that may be left half-way, without growing by each.

A call that ``grpc.aio`` (1.85) is told to cancel never frees what the core had prepared for it: request, metadata,
and the read buffer that a reply just arrived in. That is about 4 KB for each turn that is stopped while it searches
(grpc/grpc#43360); a stream loses a tenth of it, with nothing to send and seldom anything to take.

So a call whose caller is cancelled goes on alone for a moment, since nearly all end within it, and is cancelled only
then. Its caller doesn't wait for that.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_GRACE_S: Final = 0.25


async def result(call: Any) -> Any:
    """The reply of a unary call; raises what the call ends with."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_call: object) -> None:
        if not done.done():
            done.set_result(None)

    call.add_done_callback(tell)  # cheaper than a shielded task
    try:
        await done
    except asyncio.CancelledError:
        if not call.done():
            timer = asyncio.get_running_loop().call_later(_GRACE_S, call.cancel)
            call.add_done_callback(lambda _call: timer.cancel())
        raise
    return await call

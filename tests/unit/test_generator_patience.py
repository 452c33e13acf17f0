"""How long an upstream's answer may take, and whose time it is."""

from __future__ import annotations

import asyncio

import pytest

from services.generator.patience import Patience, Timeouts
from weft.errors import Reason, WeftError

TOKEN_S = 0.3


def patience(**more: float) -> Patience:
    return Patience(
        "the server", Timeouts(**{"connect_s": 1, "first_token_s": 1, "token_s": TOKEN_S, "total_s": 60, **more})
    )


async def test_a_reader_who_takes_their_time_is_not_the_servers_silence() -> None:
    clock = patience()
    clock.heard()
    for _ in range(2):
        await asyncio.sleep(2 * TOKEN_S)  # our caller reads nothing
        async with clock.waiting():
            await asyncio.sleep(0)  # it was there all the while
        clock.heard()


async def test_what_comes_between_tokens_does_not_prolong_the_silence() -> None:
    clock = patience()
    clock.heard()

    async def comments() -> None:
        while True:
            async with clock.waiting():
                await asyncio.sleep(TOKEN_S / 10)  # to keep the connection open

    with pytest.raises(WeftError, match=r"said nothing more for 0\.3 s") as caught:
        await asyncio.wait_for(comments(), 20)
    assert caught.value.reason == Reason.MODEL_UNAVAILABLE


async def test_the_first_token_and_the_whole_have_ends_of_their_own() -> None:
    with pytest.raises(WeftError, match=r"said nothing for 0\.1 s"):
        async with patience(first_token_s=0.1).waiting():
            await asyncio.sleep(20)
    clock = patience(total_s=0.1)
    clock.heard()
    with pytest.raises(WeftError, match=r"was not done after 0\.1 s"):
        async with clock.waiting():
            await asyncio.sleep(20)
    clock = patience(token_s=20)
    clock.heard()
    clock.ending(0.1)
    with pytest.raises(WeftError):
        async with clock.waiting():
            await asyncio.sleep(20)

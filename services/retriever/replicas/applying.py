"""Brings a shared index up to the log: one replica of all does, whoever holds the lease.

    claim -> watermark -> (read a page of the log after it -> apply -> prolong)* -> give up

Every replica runs this; those without the lease ask for it now and then, so when its holder dies another goes on
within ``LEASE_S``, from the watermark. ``SharedIndex.apply`` names the fence and the watermark that the page begins
at, so a holder that was paused for longer than its lease changes nothing when it wakes up.

A log that ends before the watermark was set back to a backup: the index forgets all and is filled anew.

Errors: an index or a log that is away is tried again, with a warning. STORE_CORRUPT of the log and INVALID_FIELD end
``run``, and the process should end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import Final

from services.retriever.ports import Changes, Log, SharedIndex, WriteLease
from weft.errors import Reason, WeftError

_log = logging.getLogger(__name__)
LEASE_S: Final = 9.0
_RETRY_S: Final = 1.0
_GIVE_UP_S: Final = 1.0
_PAGE_CHUNKS: Final = 1_024  # small, since vectors are made ready for the store on the event loop


class Applier:
    """Owns a replica's part in filling a shared index."""

    def __init__(self, log: Log, index: SharedIndex) -> None:
        self._log, self._index = log, index
        self._owner = uuid.uuid4().hex  # a process that begins again is another owner

    async def run(self) -> None:
        """Take the lease when it is free, and apply what there is, until cancelled.

        Raises:
            WeftError: STORE_CORRUPT of the log; INVALID_FIELD when the index became another log's.
        """
        while True:
            try:
                lease = await self._claim()
                if lease is not None:
                    await self._hold(lease)
            except WeftError as err:
                if err.reason == Reason.INVALID_FIELD:
                    raise
                _log.warning("the shared index cannot be brought up to the log, trying again: %s", err)
            except _LogDamaged as damaged:
                raise damaged.error from damaged
            await asyncio.sleep(_RETRY_S)

    async def _hold(self, lease: WriteLease) -> None:
        """Apply until the lease is lost."""
        try:
            reached = await self._index.watermark(-1, 0.0)
            while await self._claim() == lease:
                changes = await self._read(lease, reached)
                if changes is None:
                    reached = 0
                    continue
                if changes.sequence > reached:
                    if not await self._index.apply(lease, reached, changes):
                        return
                    reached = changes.sequence
                if not changes.more:
                    await self._log.wait_changed(reached, LEASE_S / 3)
        finally:
            with contextlib.suppress(WeftError, TimeoutError):
                async with asyncio.timeout(_GIVE_UP_S):
                    await self._index.give_up(lease)

    async def _claim(self) -> WriteLease | None:
        return await self._index.claim(self._owner, LEASE_S)

    async def _read(self, lease: WriteLease, reached: int) -> Changes | None:
        """The next page; None where the log ends before ``reached``, and the index was emptied for that."""
        try:
            return await self._log.read(reached, _PAGE_CHUNKS)
        except WeftError as err:
            if err.reason != Reason.STORE_CORRUPT:
                raise
        try:
            await self._log.read(0, 1)
        except WeftError as err:
            if err.reason == Reason.STORE_CORRUPT:
                raise _LogDamaged(err) from err
            raise
        _log.warning(
            "the change log ends before sequence %d, which the shared index has seen: filling it anew", reached
        )
        await self._index.clear(lease)
        return None


class _LogDamaged(Exception):
    """Tells the log's own damage from that of an index, which is only tried again."""

    def __init__(self, error: WeftError) -> None:
        super().__init__(error.message)
        self.error = error

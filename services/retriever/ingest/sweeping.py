"""Removes what deletion, replacement and crashes left behind, a little at a time, as long as the process runs.

In the log: chunks that nothing leads to. Of uploads: the bytes of jobs that have ended, however they did, and
after a while the list of what they were made of. Of reindexing: half-made collections that no job is at any more,
since it was given up, or cancelled while no worker had it. Every replica sweeps; what one did, the others find done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Final

from mesh.jobs import Jobs
from services.retriever.ingest import ingesting, reindex
from services.retriever.ingest.uploads import Blobs, Intake
from services.retriever.ports import Log
from services.retriever.replicas.replica import Replica
from services.retriever.types import CollectionKey
from weft.errors import Reason, ResourceExhausted, WeftError

_log = logging.getLogger(__name__)
_EVERY_S: Final = 60.0
_UPLOADS_EVERY_S: Final = 10.0
_PAUSE_S: Final = 0.2
_PAGE: Final = 50


async def sweep_log(log: Log) -> None:
    """Sweep the change log until cancelled.

    Raises:
        WeftError: STORE_CORRUPT.
    """
    while True:
        try:
            more = await log.sweep()
        except WeftError as err:
            _passing(err, "the change log")
            more = False
        await asyncio.sleep(_PAUSE_S if more else _EVERY_S)


async def sweep_uploads(jobs: Jobs, intake: Intake, blobs: Blobs) -> None:
    """Sweep what uploads left until cancelled.

    Raises:
        WeftError: STORE_CORRUPT.
    """
    while True:
        try:
            await let_go_of_ended(jobs, intake, blobs)
            await blobs.sweep()
            more = await intake.sweep(jobs.limits.kept_s)
        except WeftError as err:
            _passing(err, "the store of uploads")
            more = False
        await asyncio.sleep(_PAUSE_S if more else _UPLOADS_EVERY_S)


async def let_go_of_ended(jobs: Jobs, intake: Intake, blobs: Blobs) -> None:
    """Remove the bytes of uploads whose jobs have ended. One that gave up just as the rest came in goes on instead."""
    place = 0
    while page := await intake.held(place, _PAGE):
        for held in page:
            place = held.place
            job = await jobs.get(held.tenant, held.job)
            if job is not None and not job.state.ended:
                continue
            if job is not None and ingesting.gave_up(job) and held.complete:
                with contextlib.suppress(ResourceExhausted):  # the queue is full: next time
                    await jobs.retry(held.tenant, held.job)
            elif await intake.let_go(held):
                for upload in held.uploads:
                    await blobs.remove_upload(held.tenant, upload)
                await intake.let_gone(held)
        await asyncio.sleep(_PAUSE_S)


async def sweep_half_made(jobs: Jobs, log: Log, replica: Replica) -> None:
    """Sweep what reindexing left until cancelled.

    Raises:
        WeftError: STORE_CORRUPT.
    """
    while True:
        try:
            await remove_half_made(jobs, log, replica.state.views)
        except WeftError as err:
            _passing(err, "half-made collections")
        await asyncio.sleep(_EVERY_S)


async def remove_half_made(jobs: Jobs, log: Log, keys: Iterable[CollectionKey]) -> None:
    """Remove those of ``keys`` that are half-made collections without a job. One that begins just now starts anew."""
    for key in [key for key in keys if reindex.is_aside(key)]:
        if await reindex.under_way(jobs, reindex.finished_name(key)) is None:
            _log.warning("%s was left by a job that has ended; it is removed", key.resource)
            await log.delete_collection(key)


def _passing(err: WeftError, what: str) -> None:
    if err.reason == Reason.STORE_CORRUPT:
        raise err
    _log.warning("the sweep of %s waits: %s", what, err)

"""Removes what deletion, replacement and crashes left behind, a little at a time, as long as the process runs.

In the log: chunks that nothing leads to. Of uploads: the bytes of jobs that have ended, however they did, and
after a while the list of what they were made of. Every replica sweeps; what one did, the others find done.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mesh.jobs import Jobs
from services.retriever.ingest.uploads import Blobs, Intake
from services.retriever.ports import Log
from weft.errors import Reason, WeftError

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
    """Remove the bytes of uploads whose jobs have ended."""
    place = 0
    while page := await intake.held(place, _PAGE):
        for upload in page:
            place = upload.place
            job = await jobs.get(upload.tenant, upload.job)
            if job is None or job.state.ended:
                await intake.let_go(upload.tenant, upload.job)
                await blobs.remove_job(upload.tenant, upload.job)
        await asyncio.sleep(_PAUSE_S)


def _passing(err: WeftError, what: str) -> None:
    if err.reason == Reason.STORE_CORRUPT:
        raise err
    _log.warning("the sweep of %s waits: %s", what, err)

"""The queue in Prometheus's words: what an autoscaler of workers looks at.

    weft_jobs_waiting{kind}    jobs that wait for a worker, of all tenants: the backlog
    weft_jobs_running{kind}    jobs that a worker has

Every process with a worker shows the same numbers, those of the queue: take one of them, or the maximum.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from mesh.jobs import Jobs
from weft import names
from weft.errors import Reason, WeftError

_log = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 2.0
_SWEEP_EVERY: Final = 30  # looks


async def watch(jobs: Jobs, kinds: Iterable[str], registry: CollectorRegistry) -> None:
    """Keep the gauges up to date until cancelled, and now and then sweep out jobs that ended long ago.

    Raises:
        WeftError: STORE_CORRUPT.
    """
    waiting = Gauge(names.METRIC_JOBS_WAITING, "Jobs that wait for a worker", ["kind"], registry=registry)
    running = Gauge(names.METRIC_JOBS_RUNNING, "Jobs that a worker has", ["kind"], registry=registry)
    known, looks = set(kinds), 0
    while True:
        try:
            backlog = await jobs.backlog()
            if looks % _SWEEP_EVERY == 0:
                await jobs.sweep()
        except WeftError as err:
            if err.reason == Reason.STORE_CORRUPT:
                raise
            _log.warning("the job queue cannot be counted: %s", err)
        else:
            looks += 1
            for kind in known | backlog.keys():
                counts = backlog.get(kind, (0, 0))
                waiting.labels(kind).set(counts[0])
                running.labels(kind).set(counts[1])
        await asyncio.sleep(_LOOK_EVERY_S)

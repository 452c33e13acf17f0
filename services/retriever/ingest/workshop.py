"""Puts the side of a retriever together that takes uploads and works jobs off: queue, stores, worker, sweeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from mesh import plugins
from mesh.app import Runtime
from mesh.jobs import Jobs, Limits
from mesh.jobs.metrics import watch
from mesh.jobs.worker import Worker
from mesh.plugins import Url
from services.retriever.embedding import Embedders
from services.retriever.ingest import ingesting, reindex, results
from services.retriever.ingest.ingesting import Ingestor
from services.retriever.ingest.preparing import Preparer
from services.retriever.ingest.receiving import Receiver
from services.retriever.ingest.reindex import Reindexer
from services.retriever.ingest.sweeping import sweep_uploads
from services.retriever.ingest.uploads import Blobs, Intake
from services.retriever.ports import Log
from services.retriever.settings import BLOBS, INTAKES, QUEUES, Settings

_JOBS_AT_ONCE: Final = 4  # each may hold three documents, or groups of small ones, in memory


@dataclass(frozen=True, slots=True)
class Workshop:
    """What came of it. ``duties`` are to be run, each by a task of its own, until the block is left."""

    jobs: Jobs
    receiver: Receiver
    duties: tuple[Coroutine[Any, Any, None], ...]


@asynccontextmanager
async def workshop(
    settings: Settings, runtime: Runtime, log: Log, embedders: Embedders, preparer: Preparer
) -> AsyncIterator[Workshop]:
    """Open the queue and the stores of uploads beside the log. On the way out, jobs under way are given back."""
    options, url = settings.retriever, Url.parse(settings.store)
    async with AsyncExitStack() as stack:
        jobs: Jobs = await plugins.load(QUEUES, url).open(url, Limits(options.max_queued_jobs))
        stack.push_async_callback(jobs.close)
        intake: Intake = await plugins.load(INTAKES, url).open(url)
        stack.push_async_callback(intake.close)
        blobs: Blobs = await plugins.load(BLOBS, url).open(url)
        stack.push_async_callback(blobs.close)
        receiver = Receiver(jobs, intake, blobs, log.log_id, options.bounds)
        stack.push_async_callback(receiver.close)
        handlers = {
            ingesting.KIND: results.of_ingest(Ingestor(log, embedders, preparer, intake, blobs)),
            reindex.KIND: results.of_reindex(Reindexer(log, embedders, preparer)),
        }
        worker = Worker(
            jobs,
            handlers,
            owner=runtime.instance_id,
            slots=_JOBS_AT_ONCE,
            tracer=runtime.tracer,
            stopping=runtime.stopping,
        )
        stack.push_async_callback(worker.close)
        duties = (worker.run(), watch(jobs, handlers, runtime.registry), sweep_uploads(jobs, intake, blobs))
        yield Workshop(jobs, receiver, duties)

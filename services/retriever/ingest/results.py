"""What jobs of the retriever hand back: their handlers, with the outcome as a message of the contract."""

from __future__ import annotations

from mesh.jobs.worker import Handler, Running
from services.retriever import messages
from services.retriever.ingest.ingesting import Ingestor
from services.retriever.ingest.reindex import Reindexer


def of_ingest(ingestor: Ingestor) -> Handler:
    """The handler of "ingest"; its result is an ``IngestFinished``."""

    async def handle(running: Running) -> bytes:
        return messages.packed(messages.finished(await ingestor.run(running)))

    return handle


def of_reindex(reindexer: Reindexer) -> Handler:
    """The handler of "reindex"; its result is the ``Collection``."""

    async def handle(running: Running) -> bytes:
        moved = await reindexer.run(running)
        return messages.packed(messages.collection(moved.collection, moved.epoch.log_id))

    return handle

"""What jobs of the retriever hand back: their handlers, with the outcome as a message of the contract."""

from __future__ import annotations

from mesh.jobs.worker import Handler, Running
from services.retriever import messages
from services.retriever.ingest import Ingestor


def of_ingest(ingestor: Ingestor) -> Handler:
    """The handler of "ingest"; its result is an ``IngestFinished``."""

    async def handle(running: Running) -> bytes:
        return messages.packed(messages.finished(await ingestor.run(running)))

    return handle

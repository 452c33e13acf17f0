"""A retriever process that is killed while it takes documents in: what it acknowledged is there, and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.support.retriever_process import process
from tests.support.retriever_server import header, served, start
from weft.retriever.v1 import retriever_pb2 as pb
from weft.retriever.v1 import retriever_pb2_grpc

CHUNKS = 40  # more than one group, so that documents are staged before they are published


def text(number: int) -> str:
    return "\n\n".join(f"doc{number} part{part}. " + "It goes on. " * 70 for part in range(CHUNKS))


async def test_killed_in_the_middle_of_an_ingest_it_loses_and_halves_nothing(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}

    async def messages() -> AsyncIterator[pb.IngestDocumentsRequest]:
        yield start()
        for number in range(500):
            yield header(f"{number}.txt")
            yield pb.IngestDocumentsRequest(data=text(number).encode())

    async with process(tmp_path) as (killed, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = retriever_pb2_grpc.RetrieverServiceStub(channel).IngestDocuments(messages(), timeout=60)

            async def watch() -> None:
                async for message in call:
                    acknowledged[message.progress.source] = message.progress.epoch.sequence
                    if len(acknowledged) == 12:
                        killed.kill()

            with pytest.raises(grpc.aio.AioRpcError):
                await watch()
        await killed.wait()

    async with served(tmp_path) as survivor:
        listed = (await survivor.stub.ListDocuments(pb.ListDocumentsRequest(page_size=1_000), timeout=5)).documents
        assert set(acknowledged) <= {document.source for document in listed}
        assert len(listed) < 500
        assert {document.chunk_count for document in listed} == {CHUNKS}
        for document in listed:
            number = document.source.removesuffix(".txt")
            response = await survivor.search(f"doc{number}", top_k=100)
            found = [hit.passage.name for hit in response.hits if f"doc{number} " in hit.passage.text]
            assert len(found) == len(set(found)) == CHUNKS
        # Sent again from the first document that was not acknowledged, nothing is there twice.
        again = await survivor.ingest({document.source: text(int(document.source[:-4])) for document in listed})
        assert again.finished.unchanged == len(listed)

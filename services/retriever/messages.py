"""Domain values to protobuf."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.jobs import Job, JobState
from services.retriever.ingest.ingesting import Summary
from services.retriever.types import (
    Collection,
    CollectionKey,
    Document,
    Epoch,
    Found,
    Hit,
    Outcome,
    Progress,
)
from weft.common.v1 import accounting_pb2, epoch_pb2, passage_pb2
from weft.errors import to_proto
from weft.retriever.v1 import retriever_pb2 as pb

SECTION_MARK = " § "
_OUTCOMES: Mapping[Outcome, pb.IngestOutcome] = {
    Outcome.INDEXED: pb.INGEST_OUTCOME_INDEXED,
    Outcome.UNCHANGED: pb.INGEST_OUTCOME_UNCHANGED,
    Outcome.FAILED: pb.INGEST_OUTCOME_FAILED,
}


def epoch(value: Epoch) -> epoch_pb2.Epoch:
    """A position in the log."""
    return epoch_pb2.Epoch(log_id=value.log_id, sequence=value.sequence)


def collection(value: Collection, log_id: str) -> pb.Collection:
    """A collection's record."""
    return pb.Collection(
        name=value.key.resource,
        embedder=value.embedder,
        dimension=value.dimension,
        document_count=value.document_count,
        chunk_count=value.chunk_count,
        epoch=epoch(Epoch(log_id, value.sequence)),
        create_time=_time(value.created_s),
    )


def document(key: CollectionKey, value: Document, log_id: str) -> pb.Document:
    """A document's record."""
    return pb.Document(
        name=f"{key.resource}/documents/{value.name}",
        source=value.source,
        title=value.title,
        mime_type=value.mime_type,
        sha256=value.sha256,
        size_bytes=value.size_bytes,
        chunk_count=value.chunk_count,
        metadata=_struct(value.metadata),
        update_time=_time(value.updated_s),
        epoch=epoch(Epoch(log_id, value.sequence)),
    )


def found(key: CollectionKey, value: Found) -> pb.SearchResponse:
    """The answer to a search."""
    return pb.SearchResponse(
        hits=[_hit(key, hit) for hit in value.hits],
        epoch=epoch(value.epoch),
        degraded=[
            accounting_pb2.Degradation(stage=lack.stage, reason=lack.reason, fallback=lack.fallback, detail=lack.detail)
            for lack in value.lacks
        ],
        cached=value.cached,
    )


def progress(value: Progress) -> pb.IngestProgress:
    """What became of a document."""
    return pb.IngestProgress(
        source=value.source,
        outcome=_OUTCOMES[value.outcome],
        chunks=value.chunks,
        epoch=epoch(value.epoch),
        error=to_proto(value.error) if value.error else None,
        documents_done=value.documents_done,
        bytes_done=value.bytes_done,
    )


def finished(value: Summary) -> pb.IngestFinished:
    """What became of an ingest."""
    return pb.IngestFinished(
        documents=value.documents,
        unchanged=value.unchanged,
        chunks=value.chunks,
        epoch=epoch(value.epoch),
        failed=[progress(failed) for failed in value.failed],
    )


def packed(message: Message) -> bytes:
    """A message as the result of a job."""
    result = AnyMessage()
    result.Pack(message)
    return result.SerializeToString()


def ingested(job: Job, so_far: Epoch) -> pb.IngestFinished:
    """How an ingest's job ended, or where it goes on."""
    if job.state is not JobState.SUCCEEDED:
        return pb.IngestFinished(epoch=epoch(so_far), job=f"jobs/{job.id}")
    done = pb.IngestFinished()
    AnyMessage.FromString(job.result).Unpack(done)
    return done


def _hit(key: CollectionKey, value: Hit) -> pb.Hit:
    piece, record = value.chunk, value.document
    return pb.Hit(
        passage=passage_pb2.Passage(
            name=f"{key.resource}/documents/{record.name}/chunks/{piece.number}",
            text=piece.text,
            title=record.title,
            section=SECTION_MARK.join(piece.section),
            page=piece.page,
            source=record.source,
            metadata=_struct(record.metadata),
            start_char=piece.start_char,
            end_char=piece.end_char,
        ),
        score=value.score,
        parts=dict(value.parts),
        highlights=[pb.Highlight(start_char=start, end_char=end) for start, end in value.highlights],
    )


def _struct(metadata: Mapping[str, object]) -> Struct | None:
    return ParseDict(dict(metadata), Struct()) if metadata else None


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp

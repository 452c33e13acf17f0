"""From the services' replies to the SDK's dataclasses, one function a type, no decisions. See also ``weft.wire``."""

from __future__ import annotations

from weft import answers, wire
from weft.errors import from_proto
from weft.generator.v1 import generator_pb2
from weft.jobs.v1 import jobs_pb2
from weft.orchestrator.v1 import orchestrator_pb2
from weft.retriever.v1 import retriever_pb2


def hit(message: retriever_pb2.Hit) -> answers.Hit:
    found = wire.passage(message.passage)
    return answers.Hit(
        text=found.text,
        score=message.score,
        document=found.document,
        metadata=found.metadata,
        passage=found.name,
        title=found.title,
        section=found.section,
        page=found.page,
        source=found.source,
        highlights=tuple((span.start_char, span.end_char) for span in message.highlights),
        parts=dict(message.parts),
    )


def search_result(message: retriever_pb2.SearchResponse) -> answers.SearchResult:
    return answers.SearchResult(
        hits=tuple(hit(m) for m in message.hits),
        epoch=wire.epoch(message.epoch),
        degraded=wire.degraded(message.degraded),
        cached=message.cached,
    )


def document(message: retriever_pb2.Document) -> answers.StoredDocument:
    return answers.StoredDocument(
        name=message.name,
        source=message.source,
        title=message.title,
        mime_type=message.mime_type,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        chunks=message.chunk_count,
        metadata=wire.from_struct(message.metadata),
        updated_s=message.update_time.ToNanoseconds() / 1e9,
    )


def collection(message: retriever_pb2.Collection) -> answers.Collection:
    return answers.Collection(
        name=message.name,
        embedder=message.embedder,
        dimension=message.dimension,
        documents=message.document_count,
        chunks=message.chunk_count,
        created_s=message.create_time.ToNanoseconds() / 1e9,
    )


def started(message: orchestrator_pb2.Started) -> answers.Started:
    return answers.Started(message.session, message.turn, message.trace_id, dict(message.versions), message.replayed)


def retrieved(message: orchestrator_pb2.Retrieved) -> answers.Retrieved:
    return answers.Retrieved(tuple(map(wire.passage, message.passages)), wire.epoch(message.epoch), message.query)


def tool_call(message: orchestrator_pb2.ToolCallStarted) -> answers.ToolCall:
    return answers.ToolCall(message.call_id, message.tool, wire.from_struct(message.arguments))


def tool_result(message: orchestrator_pb2.ToolResult) -> answers.ToolResult:
    failed = message.HasField("error")
    return answers.ToolResult(
        call_id=message.call_id,
        tool=message.tool,
        result=None if failed else wire.from_struct(message.result),
        text=message.text,
        error=from_proto(message.error) if failed else None,
        duration_s=message.duration.ToNanoseconds() / 1e9,
    )


def finish_reason(value: int) -> str:
    return generator_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_").lower()


def job(message: jobs_pb2.Job) -> answers.Job:
    done = retriever_pb2.IngestFinished()
    progress = message.progress
    return answers.Job(
        name=message.name,
        kind=message.kind,
        state=jobs_pb2.JobState.Name(message.state).removeprefix("JOB_STATE_").lower(),
        progress=answers.JobProgress(progress.done, progress.total, progress.unit, progress.message),
        attempts=message.attempts,
        created_s=message.create_time.ToNanoseconds() / 1e9,
        updated_s=message.update_time.ToNanoseconds() / 1e9,
        error=from_proto(message.error) if message.HasField("error") else None,
        result=ingest_result(done) if message.result.Unpack(done) else None,
    )


def ingest_result(message: retriever_pb2.IngestFinished) -> answers.IngestResult:
    return answers.IngestResult(
        documents=message.documents,
        unchanged=message.unchanged,
        chunks=message.chunks,
        epoch=wire.epoch(message.epoch),
        failed=tuple(answers.FailedDocument(failed.source, from_proto(failed.error)) for failed in message.failed),
        job=message.job,
    )

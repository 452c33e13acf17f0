"""Rows of an intake's tables to values and back: SQLite's and PostgreSQL's rows are read alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from services.retriever.ingest.uploads import Fenced, Held, Item, Receipt, let_go_meanwhile
from services.retriever.types import Outcome
from weft.common.v1 import error_pb2
from weft.errors import Reason, WeftError, error, from_proto, to_proto


class Row(Protocol):
    """A row by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


def content(item: Item) -> tuple[Any, ...]:
    """What makes a document the same."""
    return item.source, item.title, item.mime_type, item.metadata, item.sha256, item.size_bytes


def reused(job: str, what: str) -> WeftError:
    """The error for a request that came with other documents before."""
    return error(
        Reason.REQUEST_ID_REUSED,
        f"this request_id began jobs/{job} with other documents: {what}; use a new request_id for a new ingest",
        job=f"jobs/{job}",
        difference=what,
    )


def check_total(job: str, upload: Row, received: int, total: int) -> None:
    """Refuse another ``total`` than an earlier one, or fewer than were ``received``.

    Raises:
        WeftError: REQUEST_ID_REUSED.
    """
    before = upload["total"] if upload["total"] is not None else max(total, upload["count"], received)
    if before != total:
        raise reused(job, f"it had {before} documents then, and has {total} now")


def error_bytes(failure: WeftError | None) -> bytes | None:
    """A failure for ``error``."""
    return to_proto(failure).SerializeToString() if failure is not None else None


def upload_name(job: str, generation: int) -> str:
    """By which the bytes of documents go."""
    return f"{job}.{generation}"


def check_upload(job: str, row: Row, upload: str, waiting: Sequence[bool], total: int | None) -> None:
    """Refuse what is to come in by an ``upload`` that was let go. What changes nothing may pass.

    Raises:
        WeftError: UPLOAD_INCOMPLETE.
    """
    changes = any(waiting) or (total is not None and row["total"] is None)
    if changes and upload != upload_name(job, row["generation"]):
        raise let_go_meanwhile(job)


def to_held(row: Row) -> Held:
    """A row of ``uploads``."""
    uploads = tuple(upload_name(row["job"], number) for number in range(row["oldest"], row["generation"] + 1))
    return Held(row["place"], row["tenant"], row["job"], row["sender"], row["total"] is not None, uploads)


def generation_of(held: Held) -> int:
    """Of the upload that went on when it was looked up."""
    return int(held.uploads[-1].rpartition(".")[2])


def check_settling(job: str, row: Row | None, fence: int, items: Sequence[Item] = ()) -> None:
    """Refuse a worker that somebody has taken over from, or whose documents were let go.

    Raises:
        Fenced: so it is.
    """
    if row is None:
        return
    if row["fence"] > fence:
        raise Fenced(f"jobs/{job}: fence {fence} came after {row['fence']}")
    upload = upload_name(job, row["generation"])
    if any(item.upload != upload for item in items):
        raise Fenced(f"jobs/{job}: its documents were let go; {upload} goes on")


def still_held(held: Held, upload: Row | None) -> bool:
    """Whether a row of ``uploads`` is as it was when it was looked up, its sender above all."""
    return upload is not None and upload["held"] and to_held(upload) == held


def to_row(tenant: str, job: str, upload: str, item: Item) -> tuple[object, ...]:
    """For ``PUT``, but for the time. What has its outcome already holds no bytes."""
    outcome = item.outcome.name if item.outcome else None
    metadata = json.dumps(item.metadata, ensure_ascii=False, sort_keys=True)
    return (
        *(tenant, job, item.number, upload, item.source),
        *(item.title, item.mime_type, metadata, item.sha256, item.size_bytes),
        *(0 if outcome else item.size_bytes, outcome, error_bytes(item.error)),
    )


def fate(item: Item) -> tuple[str | None, int, int, bytes | None]:
    """What became of a document: outcome, chunks, sequence and error."""
    return item.outcome.name if item.outcome else None, item.chunks, item.sequence, error_bytes(item.error)


def to_receipt(row: Row, now_s: float) -> Receipt:
    """How far a row of ``uploads`` is."""
    silent_s = max(0.0, now_s - row["sign_s"])
    return Receipt(row["count"], row["total"] is not None, bool(row["broken"]), silent_s)


def to_item(row: Row) -> Item:
    """A row of ``items``."""
    return Item(
        number=row["number"],
        source=row["source"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        upload=row["upload"],
        arrived_s=row["arrived_s"],
        title=row["title"],
        mime_type=row["mime_type"],
        metadata=json.loads(row["metadata"]),
        outcome=Outcome[row["outcome"]] if row["outcome"] is not None else None,
        chunks=row["chunks"],
        sequence=row["sequence"],
        error=from_proto(error_pb2.Error.FromString(row["error"])) if row["error"] is not None else None,
    )

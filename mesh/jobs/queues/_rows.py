"""Rows of a queue's table to values and back: SQLite's and PostgreSQL's rows are read alike."""

from __future__ import annotations

from typing import Any, Protocol

from mesh.jobs import Job, JobProgress, JobState
from weft.common.v1 import error_pb2
from weft.errors import WeftError, from_proto, to_proto


class Row(Protocol):
    """A row by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


def error_bytes(failure: WeftError) -> bytes:
    """A failure for ``error``."""
    return to_proto(failure).SerializeToString()


def some_job(row: Row | None) -> Job | None:
    """The job of a row that may be missing."""
    return None if row is None else to_job(row)


def to_job(row: Row) -> Job:
    """The job of a row."""
    return Job(
        tenant=row["tenant"],
        id=row["id"],
        kind=row["kind"],
        key=row["key"],
        payload=row["payload"],
        state=JobState(row["state"]),
        progress=JobProgress(row["done"], row["total"], row["unit"], row["message"]),
        attempts=row["attempts"],
        created_s=row["created_s"],
        updated_s=row["updated_s"],
        cancelling=bool(row["cancelling"]),
        error=from_proto(error_pb2.Error.FromString(row["error"])) if row["error"] is not None else None,
        result=row["result"],
        traceparent=row["traceparent"],
        max_strikes=row["max_strikes"],
    )

"""The upload: paths become documents, documents become a stream, progress becomes a result.

    paths ──collect──> files and Documents ──stream──> start, header, data…, header, data… ──> progress…, finished

Folders are walked for the kinds of file that the retriever reads; hidden ones are left out, others are told
by ``passed_over``, and a file that is named outright is sent whatever its ending, so that the service can say
why it won't do. The
source of a file is its path as it was given: ingest it from the same directory again and it is the
same document.

A stream that breaks is sent again from the first document that was not yet answered. That is safe:
content that is in already is recognised and changes nothing.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from google.protobuf import json_format

from weft import answers, convert, wire
from weft.answers import Document, IngestProgress, IngestResult
from weft.errors import Reason, WeftError, error, from_proto
from weft.retriever.v1 import retriever_pb2

READABLE_ENDINGS: Final = (".md", ".markdown", ".mdx", ".txt", ".text", ".html", ".htm", ".xhtml", ".pdf", ".docx")
_PART_BYTES: Final = 512 * 1024  # a data part may hold 1 MiB

Source = str | os.PathLike[str] | Document
OnProgress = Callable[[IngestProgress], None]
IngestRequest = retriever_pb2.IngestDocumentsRequest


@dataclass(frozen=True, slots=True)
class Upload:
    """One document that waits to be sent."""

    source: str
    size_bytes: int
    path: Path
    document: Document | None = None
    """Set where the bytes are in memory; ``path`` means nothing then."""

    def header(self) -> IngestRequest:
        """What announces it."""
        header = retriever_pb2.DocumentHeader(source=self.source, size_bytes=self.size_bytes)
        if self.document is not None:
            header.title, header.mime_type = self.document.title, self.document.mime_type
            if self.document.metadata:
                json_format.ParseDict(dict(self.document.metadata), header.metadata)
        return IngestRequest(document=header)

    def open(self) -> BinaryIO:
        """Its bytes. Blocking, as is reading a file."""
        return io.BytesIO(_content(self.document)) if self.document is not None else self.path.open("rb")


def collect(sources: Source | Iterable[Source]) -> list[Upload]:
    """Everything to send, each source once, in the order given and folders by name.

    Blocking: it walks the file system.

    Raises:
        InvalidArgument: INVALID_FIELD for a path that isn't there, and for a folder without readable files.
    """
    given: Sequence[Source] = [sources] if isinstance(sources, (str, os.PathLike, Document)) else list(sources)
    found: dict[str, Upload] = {}
    for source in given:
        for upload in _uploads(source):
            found.setdefault(upload.source, upload)
    if not found:
        raise error(
            Reason.INVALID_FIELD, "there is nothing to ingest: no path and no document was given", field="paths"
        )
    return list(found.values())


def passed_over(sources: Iterable[Source]) -> Counter[str]:
    """How many files of each ending ``collect`` leaves out of the folders among ``sources``. Blocking, too."""
    folders = [Path(source) for source in sources if not isinstance(source, Document) and Path(source).is_dir()]
    endings = (path.suffix.lower() for folder in folders for path in _walk(folder))
    return Counter(ending for ending in endings if ending not in READABLE_ENDINGS)


def _uploads(source: Source) -> list[Upload]:
    if isinstance(source, Document):
        return [Upload(source.source, len(_content(source)), Path(), source)]
    path = Path(source)
    if path.is_dir():
        files = [_file(file) for file in _walk(path) if file.suffix.lower() in READABLE_ENDINGS]
        if not files:
            raise _bad_path(path, f"holds no readable files; readable are {', '.join(READABLE_ENDINGS)}")
        return files
    if not path.exists():
        raise _bad_path(path, "does not exist")
    if not path.is_file():
        raise _bad_path(path, "is neither a file nor a folder")
    return [_file(path)]


def _file(path: Path) -> Upload:
    return Upload(Path(os.path.normpath(path)).as_posix(), path.stat().st_size, path)


def _walk(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # not even looked into
        for name in sorted(files):
            path = Path(directory, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _bad_path(path: Path, problem: str) -> WeftError:
    return error(Reason.INVALID_FIELD, f"{path} {problem}", field="paths", path=path)


def _content(document: Document) -> bytes:
    if isinstance(document.content, bytes):
        return document.content
    return document.content.encode("utf-8", "surrogatepass")  # a lone surrogate is refused by the service, by name


class Progress:
    """Counts what the service has answered, over all streams of one ingest."""

    def __init__(self, uploads: Sequence[Upload], on_progress: OnProgress | None) -> None:
        self._waiting = {upload.source: upload for upload in uploads}
        self._total = len(uploads)
        self._bytes_total = sum(upload.size_bytes for upload in uploads)
        self._bytes_done = 0
        self._on_progress = on_progress
        self._counts = Counter[str]()
        self._chunks = 0
        self._failed: list[answers.FailedDocument] = []
        self._epoch: answers.Epoch | None = None
        self.finished: retriever_pb2.IngestFinished | None = None
        """What the service said when it was through."""
        self.read_error: WeftError | None = None
        """Why a file stopped in the middle of being sent."""

    @property
    def waiting(self) -> list[Upload]:
        """Documents that have no answer yet."""
        return list(self._waiting.values())

    def take(self, message: retriever_pb2.IngestDocumentsResponse) -> None:
        """Count one answer."""
        if message.WhichOneof("event") == "progress":
            self._one(message.progress)
        elif message.WhichOneof("event") == "finished":
            self.finished = message.finished
            for failed in message.finished.failed:
                self._one(failed)  # those that were told of already are no longer waiting
            self._reach(message.finished.epoch)

    def unreadable(self, upload: Upload, exc: OSError) -> None:
        """Count a file that this side can't open."""
        failure = error(
            Reason.DOCUMENT_UNREADABLE, f"{upload.source} cannot be read: {exc.strerror or exc}", source=upload.source
        )
        self._done(upload, "failed", 0, failure)

    def result(self) -> IngestResult:
        """What came of it all; of a detached ingest, what its job has done, or the job."""
        if self.finished is not None and self._waiting:
            detached = convert.ingest_result(self.finished)
            unread = self._failed if self.finished.job else [*detached.failed, *self._failed]
            return replace(detached, epoch=None if self.finished.job else detached.epoch, failed=tuple(unread))
        return IngestResult(
            documents=self._counts["indexed"] + self._counts["unchanged"],
            unchanged=self._counts["unchanged"],
            chunks=self._chunks,
            epoch=self._epoch,
            failed=tuple(self._failed),
        )

    def _one(self, message: retriever_pb2.IngestProgress) -> None:
        upload = self._waiting.get(message.source)
        if upload is None:
            return
        outcome = retriever_pb2.IngestOutcome.Name(message.outcome).removeprefix("INGEST_OUTCOME_").lower()
        self._reach(message.epoch)
        self._done(upload, outcome, message.chunks, from_proto(message.error) if outcome == "failed" else None)

    def _done(self, upload: Upload, outcome: str, chunks: int, failure: WeftError | None) -> None:
        del self._waiting[upload.source]
        self._counts[outcome] += 1
        self._chunks += chunks
        self._bytes_done += upload.size_bytes
        if failure is not None:
            self._failed.append(answers.FailedDocument(upload.source, failure))
        if self._on_progress is not None:
            done = self._total - len(self._waiting)
            self._on_progress(
                IngestProgress(
                    *(upload.source, outcome, chunks, failure),
                    *(done, self._total, self._bytes_done, self._bytes_total),
                )
            )

    def _reach(self, message: Any) -> None:
        epoch = wire.epoch(message)
        if epoch is not None and (self._epoch is None or epoch.sequence >= self._epoch.sequence):
            self._epoch = epoch


async def requests(
    progress: Progress, collection: str, request_id: str, *, detach: bool
) -> AsyncIterator[IngestRequest]:
    """The stream of one upload: all that has no answer yet."""
    start = retriever_pb2.IngestStart(collection=collection, request_id=request_id, detach=detach)
    yield IngestRequest(start=start)
    for upload in progress.waiting:
        try:
            file = await asyncio.to_thread(upload.open)
        except OSError as exc:
            progress.unreadable(upload, exc)
            continue
        with file:
            yield upload.header()
            try:
                while part := await asyncio.to_thread(file.read, _PART_BYTES):
                    yield IngestRequest(data=part)
            except OSError as exc:  # half of it is sent: the whole upload has to end
                progress.read_error = error(
                    Reason.DOCUMENT_UNREADABLE,
                    f"{upload.source} cannot be read to its end: {exc}",
                    source=upload.source,
                )
                raise

"""The upload side of an ingest: documents off the wire into the blob store, and what became of each back.

    header, data… -> blob -> item in the intake ─┐
                                                 ├─> job "ingest" (``ingest``), on this replica or another
    report <- items as they are settled <────────┘

What becomes whole while the store is at work is stored next, all at once: small documents cost little each, and one
by itself doesn't wait for others.

The job is asked for with the first document that is whole, or too large to wait for in memory, and keyed by the
caller's request_id. So the same request again, whole or after its stream broke, finds the same job: documents are
compared number by number with those that came before, what is new goes in, and the outcomes are told from the first
on. REQUEST_ID_REUSED is the answer to other documents under an old request_id; the documents of a job that ended are
remembered for a day.

A job that ended for want of a sender is set going again by the next one. It begins, so that the job finds a sender;
sets the job going; and begins once more: a sweep that saw the job ended can't have seen this sender (``uploads``).

With ``detach`` the upload is all that is waited for; it then survives a power cut, too. Without, a caller that
goes away after the last document changes nothing: the job goes on. One that goes away before leaves a job
that takes in what arrived and says UPLOAD_INCOMPLETE.

Bounds: documents per ingest; bytes that wait in the store, of all tenants: a sender waits for room, by HTTP/2's
own flow control, and is refused with OVERLOADED where none comes; the job queue's own bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mesh.jobs import Job, Jobs, JobState, Submission, unknown_job
from mesh.jobs.worker import traceparent
from mesh.validation import invalid
from services.retriever.ingest import ingesting
from services.retriever.ingest.ingesting import IDLE_S, SILENCE_S, Tally
from services.retriever.ingest.uploads import SMALL_BYTES, BlobKey, Blobs, BlobWriter, Intake, Item, let_go_meanwhile
from services.retriever.types import Collection, Incoming, Outcome, Progress
from weft.errors import Reason, WeftError, error

_SIGN_EVERY_S: Final = SILENCE_S / 3
_ROOM_S: Final = 30.0  # a sender waits so long for room
_ROOM_RETRY_S: Final = 10.0
_LOOKS: Final = 16  # for room: every so many documents, and every such share of what may wait
_PAGE: Final = 64
_AT_ONCE: Final = 8
_TOGETHER_S: Final = 0.02
_SHELF: Final = 32  # documents, most of them small, that wait to be stored
_FOR_EVER_S: Final = 86_400.0  # the call's own deadline comes first

Report = Callable[[Progress], Awaitable[None]]
Part = Incoming | bytes | WeftError  # a document begins; bytes of it; it is refused after all


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an ingest may take up."""

    max_documents: int
    max_waiting_bytes: int


class Receiver:
    """Takes uploads in."""

    def __init__(self, jobs: Jobs, intake: Intake, blobs: Blobs, log_id: str, bounds: Bounds) -> None:
        self.jobs, self.intake, self.blobs, self.log_id, self.bounds = jobs, intake, blobs, log_id, bounds
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def run(
        self, collection: Collection, request_id: str, parts: AsyncIterator[Part], report: Report, *, detach: bool
    ) -> Job:
        """Take an upload in and return its job: ended well, or, with ``detach``, as it stands.

        Raises:
            WeftError: REQUEST_ID_REUSED, OVERLOADED, JOB_CANCELLED, or what the job failed with.
        """
        upload = _Upload(self, collection, request_id, report, detach)
        try:
            async with asyncio.TaskGroup() as tasks:
                await upload.receive(parts, tasks)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return await upload.outcome()

    async def say_goodbye(self, tenant: str, job: str, sender: str) -> None:
        """Note that a sender is gone, even if we are cancelled over it."""
        task = asyncio.ensure_future(self.intake.break_off(tenant, job, sender))
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)
        with contextlib.suppress(WeftError):  # it shows by its silence, then
            await asyncio.shield(task)

    async def close(self) -> None:
        """See the last goodbyes through."""
        await asyncio.gather(*self._goodbyes, return_exceptions=True)


@dataclass(slots=True)
class _Open:
    """A document that is being received, or was and is not stored yet: in memory while it is small."""

    number: int
    header: Incoming
    refused: WeftError | None
    data: bytearray = field(default_factory=bytearray)
    writer: BlobWriter | None = None
    size_bytes: int = 0

    async def drop(self) -> None:
        """Forget its bytes."""
        self.data.clear()
        if self.writer is not None:
            await self.writer.drop()


class _Upload:
    def __init__(self, house: Receiver, collection: Collection, request_id: str, report: Report, detach: bool) -> None:
        self._jobs, self._intake, self._blobs, self._bounds = house.jobs, house.intake, house.blobs, house.bounds
        self._house, self._collection, self._request_id = house, collection, request_id
        self._report, self._detach = report, detach
        self._tenant, self._sender = collection.key.tenant, ""
        self._upload = ""  # where the bytes go; '' before it has begun
        self._job: Job | None = None
        self._open: _Open | None = None
        self._shelf: list[_Open] = []  # whole, and to be stored next, all at once
        self._storing: asyncio.Task[None] | None = None
        self._count = 0
        self._since_look_bytes = 0
        self._ended = False
        self._complete = False
        self._tasks: asyncio.TaskGroup
        self._signing: asyncio.Task[None] | None = None
        self._last_put_s = time.monotonic()

    async def receive(self, parts: AsyncIterator[Part], tasks: asyncio.TaskGroup) -> None:
        """Take all documents in. What else belongs to it, reporting included, runs in ``tasks``."""
        self._tasks = tasks
        try:
            async for part in parts:
                if isinstance(part, Incoming):
                    await self._shut()
                    await self._next(part)
                elif self._open is not None:
                    await self._add(self._open, part)
            self._ended = True
            await self._shut()
            await self._stored()
        except BaseException:
            if self._job is not None and self._sender:
                await self._house.say_goodbye(self._tenant, self._job.id, self._sender)
            raise
        finally:
            if self._signing is not None:
                self._signing.cancel()
            for document in (*self._shelf, *((self._open,) if self._open else ())):
                await document.drop()

    async def outcome(self) -> Job:
        """The job, when it has ended well; with ``detach``, as it stands."""
        assert self._job is not None
        job_id = self._job.id
        while True:
            job = await self._jobs.wait(self._tenant, job_id, 0.0 if self._detach else _FOR_EVER_S)
            if job is None:
                raise unknown_job(job_id)
            if not ingesting.gave_up(job):
                return _checked(job)
            await self._set_going(job)  # it gave up on an earlier sender, just when we began

    async def _submit(self) -> Job:
        payload = ingesting.payload(self._collection.key)
        wanted = Submission(
            self._tenant, ingesting.KIND, self._request_id, payload, durable=self._detach, traceparent=traceparent()
        )
        job = await self._jobs.submit(wanted)
        if job.state is JobState.CANCELLED:
            raise _cancelled(job)
        return job

    async def _begin(self) -> Job:
        """Ask for the job, and be its sender, who can be waited for from now on."""
        job = self._job = await self._submit()
        upload = await self._sign_on(job)
        if job.state is JobState.FAILED:
            upload = await self._sign_on(job, retry=True)
        self._upload = upload
        self._signing = self._tasks.create_task(self._sign())
        if not self._detach:
            self._tasks.create_task(self._follow())
        return job

    async def _sign_on(self, job: Job, *, retry: bool = False) -> str:
        if retry:
            await self._jobs.retry(self._tenant, job.id)
        self._sender = uuid.uuid4().hex
        return await self._intake.begin(self._tenant, job.id, self._sender, self._collection.key.name)

    async def _set_going(self, job: Job) -> None:
        """The job gave up on its sender, but here we are."""
        if await self._sign_on(job, retry=True) != self._upload:
            await self._house.say_goodbye(self._tenant, job.id, self._sender)
            raise let_go_meanwhile(job.id)

    async def _next(self, header: Incoming) -> None:
        self._count += 1
        if self._count > self._bounds.max_documents:
            limit = self._bounds.max_documents
            raise invalid("document", f"is one more than the {limit} documents that one ingest may have", limit=limit)
        self._open = _Open(self._count, header, header.refused)
        if self._since_look_bytes * _LOOKS >= self._bounds.max_waiting_bytes or self._count % _LOOKS == 1:
            self._since_look_bytes = 0
            await self._room()

    async def _add(self, document: _Open, part: bytes | WeftError) -> None:
        if isinstance(part, bytes):
            document.size_bytes += len(part)
            self._since_look_bytes += len(part)
            if document.refused is not None:
                return
            if document.writer is None:
                document.data += part
                if len(document.data) <= SMALL_BYTES:
                    return
                if self._storing is None:
                    await self._begin()
                part, document.writer = bytes(document.data), self._blobs.writer()
                document.data.clear()
            await document.writer.write(part)
        elif document.refused is None:
            document.refused = part
            await document.drop()

    async def _shut(self) -> None:
        """The open document is whole: have it stored, with those that are whole by the time the store is free."""
        if self._open is None:
            return
        self._shelf.append(self._open)
        self._open = None
        if self._storing is None or self._storing.done():
            self._storing = self._tasks.create_task(self._store())
        if len(self._shelf) >= _SHELF:
            await self._storing

    async def _stored(self) -> None:
        """Wait until all is stored, and that it is all."""
        if self._storing is None or self._storing.done():
            self._storing = self._tasks.create_task(self._store())
        await self._storing

    async def _store(self) -> None:
        while self._shelf or (self._ended and not self._complete):
            documents, self._shelf, last = self._shelf, [], self._ended
            try:
                await self._put(documents, last)
            finally:
                for document in documents:
                    await document.drop()
            self._complete = last

    async def _put(self, documents: Sequence[_Open], last: bool) -> None:
        """Keep documents, and list them. With ``last``, no more come."""
        job = self._job if self._job is not None and self._upload else await self._begin()
        taken = [document for document in documents if document.refused is None]
        small = {document.number: bytes(document.data) for document in taken if document.writer is None}
        keys = await self._blobs.put(self._tenant, self._upload, small, durable=self._detach) if small else {}
        for document in taken:
            if document.writer is not None:
                number = document.number
                keys[number] = await document.writer.keep(self._tenant, self._upload, number, durable=self._detach)
        items = [_item(document, keys.get(document.number)) for document in documents]
        try:
            wanted = await self._intake.put(
                *(self._tenant, job.id, self._upload, items),
                total=self._count if last else None,
                durable=self._detach and last,
            )
        except WeftError as err:
            # Else the bytes stay, until the job has ended: they may be those of an earlier sender.
            if err.reason == Reason.UPLOAD_INCOMPLETE:
                await self._blobs.remove([*keys.values()])
                if (ended := await self._jobs.get(self._tenant, job.id)) is not None and not ingesting.gave_up(ended):
                    _checked(ended)
            raise
        done = [
            keys[item.number] for item, waits in zip(items, wanted, strict=True) if not waits and item.number in keys
        ]
        if done:
            await self._blobs.remove(done)
        now_s = time.monotonic()
        if now_s - self._last_put_s > IDLE_S / 2:  # the job may have been parked meanwhile
            await self._jobs.hurry(self._tenant, job.id)
        self._last_put_s = now_s

    async def _room(self) -> None:
        """Wait until the store has room for more."""
        until_s, seen, limit = time.monotonic() + _ROOM_S, 0, self._bounds.max_waiting_bytes
        while True:
            seen = await self._intake.changed(seen, 0.0)
            waiting = await self._intake.waiting_bytes()
            if waiting < limit:
                return
            if time.monotonic() > until_s:
                raise error(
                    Reason.OVERLOADED,
                    f"{waiting} bytes of documents wait to be indexed, the limit is {limit}, and there was no room for "
                    f"{_ROOM_S:.0f} s; try again in {_ROOM_RETRY_S:.0f} s, with the same request_id to go on",
                    retry_after_s=_ROOM_RETRY_S,
                    waiting_bytes=waiting,
                    limit_bytes=limit,
                )
            await self._intake.changed(seen, 1.0)

    async def _sign(self) -> None:
        assert self._job is not None
        while True:
            await asyncio.sleep(_SIGN_EVERY_S)
            with contextlib.suppress(WeftError):
                await self._intake.sign(self._tenant, self._job.id, self._sender)
            if self._detach:
                await self._look(self._job.id)

    async def _look(self, job_id: str) -> None:
        """See whether the job still waits for us: without reports nobody else does."""
        try:
            job = await self._jobs.get(self._tenant, job_id)
            if job is not None and ingesting.gave_up(job):
                await self._set_going(job)
        except WeftError as err:
            if err.reason == Reason.UPLOAD_INCOMPLETE:
                raise

    async def _follow(self) -> None:
        """Report each document when it and all before it are settled."""
        assert self._job is not None
        tally, seen = Tally(self._house.log_id, self._collection.sequence), 0
        while not (self._complete and tally.settled == self._count):
            seen = await self._intake.changed(seen, 0.0)
            page = await self._intake.items(self._tenant, self._job.id, tally.settled, _PAGE)
            told = 0
            for item in page:
                if item.outcome is None or item.number != tally.settled + 1:
                    break
                await self._report(tally.add(item))
                told += 1
            if told:
                if tally.settled > _AT_ONCE:  # of many, look for the next few together
                    await asyncio.sleep(_TOGETHER_S)
                continue
            if await self._intake.changed(seen, 1.0) == seen and await self._is_over():
                return

    async def _is_over(self) -> bool:
        """Nothing has changed for a while: see whether the job is to blame. True when it has ended well."""
        assert self._job is not None
        job = await self._jobs.get(self._tenant, self._job.id)
        if job is None:
            raise unknown_job(self._job.id)
        if ingesting.gave_up(job):
            await self._set_going(job)
        elif job.state.ended:
            return _checked(job).state is JobState.SUCCEEDED and self._complete
        return False


def _item(document: _Open, key: BlobKey | None) -> Item:
    header, refused = document.header, document.refused
    return Item(
        *(document.number, header.source, key.sha256 if key else "", document.size_bytes),
        *(header.title, header.mime_type),
        metadata=header.metadata,
        outcome=Outcome.FAILED if refused else None,
        error=refused,
    )


def _checked(job: Job) -> Job:
    if job.state is JobState.CANCELLED:
        raise _cancelled(job)
    if job.error is not None:
        raise job.error
    return job


def _cancelled(job: Job) -> WeftError:
    return error(
        Reason.JOB_CANCELLED,
        f"jobs/{job.id}, which does this ingest, was cancelled; what was in by then is in. Use a new request_id to "
        "ingest again",
        job=f"jobs/{job.id}",
    )

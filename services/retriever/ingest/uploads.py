"""Documents between their upload and their indexing: the ports that keep them, beside those in ``ports``.

The bytes of each uploaded document lie in ``Blobs``; ``Intake`` has the list of what an ingest is made of and
what became of each. Both are by tenant and job. Forms: the modules of ``blobs``
and ``intakes``.

    received -> put (blob kept, item listed) -> settled (indexed, unchanged, failed; blob removed) -> forgotten

Small documents go by the group, since each call costs more than they do.

A sender that begins again, after its stream broke or since it doesn't know what became of it, sends its
documents from the first: number by number they are what they were, or the request is another one.

What a job that has ended leaves behind is *let go*: its bytes are removed, and what waited is forgotten. From then on
bytes for that job go by the name of another *upload*, and a sender that began before is refused. So a sweep that is
slow takes nothing from a sender that is back: it lets go only of what is as it was when it looked, its sender above
all, and removes only what it let go. A worker that has documents of an upload that was let go can settle none of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from services.retriever.types import Outcome
from weft.errors import Reason, WeftError, error

SMALL_BYTES: Final = 64 << 10


class BlobKey(NamedTuple):
    """Where the bytes of an uploaded document lie. The hash in it is what they must have.

    A blob belongs to one document of one upload, so removing it can't take from another what it still needs.
    """

    tenant: str
    upload: str
    number: int
    sha256: str


class BlobWriter(Protocol):
    """One blob on its way in. Nobody sees it before ``keep``."""

    async def write(self, data: bytes) -> None:
        """Add to it."""

    async def keep(self, tenant: str, upload: str, number: int, *, durable: bool) -> BlobKey:
        """Put it in its place, whole. ``durable``: it survives a power cut from then on."""

    async def drop(self) -> None:
        """Forget what was written. After ``keep`` it does nothing."""


class Blobs(Protocol):
    """Bytes of documents between their upload and their indexing. May raise DEPENDENCY_UNAVAILABLE."""

    def writer(self) -> BlobWriter:
        """Begin a blob."""

    async def put(self, tenant: str, upload: str, blobs: Mapping[int, bytes], *, durable: bool) -> dict[int, BlobKey]:
        """Keep small ones, by their numbers, each whole. ``durable`` as for a writer's."""

    async def get(self, keys: Sequence[BlobKey]) -> list[bytes | WeftError]:
        """The bytes of small ones, or what is wrong with them: STORE_CORRUPT as for ``parts``."""

    def parts(self, key: BlobKey) -> AsyncIterator[bytes]:
        """Its bytes, in parts of at most 1 MiB.

        Raises:
            WeftError: STORE_CORRUPT when they are not there or not those of its hash.
        """

    async def remove(self, keys: Sequence[BlobKey]) -> None:
        """Remove those that are there."""

    async def remove_upload(self, tenant: str, upload: str) -> None:
        """Remove all of an upload."""

    async def sweep(self) -> None:
        """Remove what writers that died left behind."""

    async def close(self) -> None:
        """Let go of threads and connections."""


@dataclass(frozen=True, slots=True)
class Item:
    """A document of an ingest: as it came in, and what became of it. ``outcome`` None while it waits."""

    number: int  # from 1, in the order in which they came
    source: str
    sha256: str = ""  # '' where it was refused before its bytes were taken
    size_bytes: int = 0  # received, kept or not
    title: str = ""
    mime_type: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    outcome: Outcome | None = None
    chunks: int = 0
    sequence: int = 0  # of the log, from which on it is searchable
    error: WeftError | None = None
    upload: str = ""  # by whose name its bytes lie; set when it is listed
    arrived_s: float = 0.0  # when it was listed, by the store's clock


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far the upload of an ingest is."""

    count: int  # documents received whole
    complete: bool  # nothing more comes
    broken: bool  # its sender went away before it was complete
    silent_s: float  # since the last sign of its sender


class Held(NamedTuple):
    """An ingest that may still have blobs, as it stood when it was looked up."""

    place: int  # in the list of them
    tenant: str
    job: str
    sender: str
    complete: bool  # nothing more comes
    uploads: tuple[str, ...]  # by whose names there may be blobs, the last one that which goes on


class Intake(Protocol):
    """The documents of ingests, by (tenant, job). Every method may raise STORE_CORRUPT or DEPENDENCY_UNAVAILABLE.

    An ingest has one *sender* at a time, the last that began; what an earlier one still says about its end
    doesn't count. A worker's writes name its fence (``mesh.jobs``) and are refused below the highest seen.
    """

    async def begin(self, tenant: str, job: str, sender: str, collection: str) -> str:
        """A sender begins, or begins again from its first document; returns the upload, by which its bytes go."""

    async def put(
        self,
        tenant: str,
        job: str,
        upload: str,
        items: Sequence[Item],
        *,
        total: int | None = None,
        durable: bool = False,
    ) -> list[bool]:
        """Add documents, all or none, their numbers without gaps; returns of each whether it waits for its bytes to be
        worked on (False: it was settled before).

        The last call says how many there are in ``total``, and where it is ``durable``, all of it survives a power
        cut.

        Raises:
            WeftError: REQUEST_ID_REUSED when a number came with another content before, or all had come without it,
                or with another ``total``. UPLOAD_INCOMPLETE when ``upload`` was let go and one of them would wait.
        """

    async def sign(self, tenant: str, job: str, sender: str) -> None:
        """The sender is still there."""

    async def break_off(self, tenant: str, job: str, sender: str) -> None:
        """The sender is gone and the rest won't come."""

    async def receipt(self, tenant: str, job: str) -> Receipt | None:
        """How far the upload is; None where none began."""

    async def items(self, tenant: str, job: str, after: int, limit: int) -> list[Item]:
        """Documents by number, from the first past ``after``."""

    async def take(self, tenant: str, job: str, fence: int) -> None:
        """A worker begins: from now on lower fences are refused.

        Raises:
            Fenced: a higher one was seen.
        """

    async def settle(self, tenant: str, job: str, fence: int, items: Sequence[Item]) -> None:
        """Note what became of documents.

        Raises:
            Fenced: a higher one was seen, or the upload of one of them was let go.
        """

    async def waiting_bytes(self) -> int:
        """Bytes in the blob store that wait, of all tenants."""

    async def held(self, after: int, limit: int) -> list[Held]:
        """Ingests that may still have blobs, oldest first, from the first past the place ``after``."""

    async def let_go(self, held: Held) -> bool:
        """The job had ended after ``held`` was looked up: forget documents that still wait, whose bytes are to go.

        What was settled stays, for whoever asks again. A sender that begins again sends the rest again. Returns
        False, and nothing is done, where another sender has begun, the rest has come, or it was let go meanwhile.
        """

    async def let_gone(self, held: Held) -> None:
        """The bytes of what was let go are removed; until then it stays among the ``held``."""

    async def sweep(self, older_than_s: float) -> bool:
        """Forget a few ingests that were let go and that nobody touched for so long; whether there may be more."""

    async def changed(self, seen: int, timeout_s: float) -> int:
        """Wait until anything changed since ``seen`` (0 at first), or the time is up; returns the new ``seen``."""

    async def close(self) -> None:
        """Let go of the store."""


class Fenced(Exception):
    """Somebody else works on the job by now: write nothing more."""


def let_go_meanwhile(job: str) -> WeftError:
    """The error for a sender whose upload was let go: its job had ended, and nothing was heard of it."""
    return error(
        Reason.UPLOAD_INCOMPLETE,
        f"jobs/{job} had ended before all of the upload came; what was indexed by then is in. Send it again with the "
        "same request_id to go on",
        job=f"jobs/{job}",
    )


def damaged_blob(key: BlobKey, problem: str) -> WeftError:
    """The error of uploaded bytes that can't be used."""
    return error(
        Reason.STORE_CORRUPT,
        f"the uploaded bytes of document {key.number} of upload {key.upload} can't be used: {problem}; send it again",
        upload=key.upload,
        number=key.number,
        problem=problem,
    )

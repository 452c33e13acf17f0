"""Blobs of a store on SQLite: files below its directory, ``DIR/blobs/TENANT/UPLOAD/NUMBER-SHA256``.

A blob is written aside, in ``.incoming``, hashed on the way, and renamed to its place when it is whole: it is
there entirely or not at all. ``durable`` adds the fsync of the file and of its directory. What writers that
died left aside is removed after an hour.

Errors: DEPENDENCY_UNAVAILABLE when the disk is full or the directory can't be used; STORE_CORRUPT when a blob
is gone or its bytes aren't those of its hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from mesh.plugins import Url
from mesh.settings import directory_of
from services.retriever.ingest.uploads import BlobKey, damaged_blob
from weft.errors import Reason, WeftError, error

PART_BYTES: Final = 1 << 20
_THREADS: Final = 2
_LEFT_OVER_S: Final = 3_600.0

T = TypeVar("T")


class FileBlobs:
    """``Blobs`` in a directory. Make it with ``open``."""

    def __init__(self, root: Path) -> None:
        self._root, self._aside = root, root / ".incoming"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="weft-blobs")

    def writer(self) -> FileWriter:
        """Begin a blob."""
        return FileWriter(self)

    async def parts(self, key: BlobKey) -> AsyncIterator[bytes]:
        """Its bytes, in parts of at most 1 MiB, checked against its hash at the end."""
        digest, file = hashlib.sha256(), None
        try:
            file, part = await self.on_thread(lambda: self._first(key))
            while part:
                digest.update(part)
                yield part
                part = await self.on_thread(file.read, PART_BYTES) if len(part) == PART_BYTES else b""
        finally:
            if file is not None:
                file.close()
        if digest.hexdigest() != key.sha256:
            raise damaged_blob(key, "its bytes are not those that were sent")

    async def put(self, tenant: str, upload: str, blobs: Mapping[int, bytes], *, durable: bool) -> dict[int, BlobKey]:
        """Keep small ones, by their numbers, each whole."""

        def work() -> dict[int, BlobKey]:
            keys = {
                number: BlobKey(tenant, upload, number, hashlib.sha256(data).hexdigest())
                for number, data in blobs.items()
            }
            place = self._root / tenant / upload
            place.mkdir(parents=True, exist_ok=True)
            for number, data in blobs.items():
                aside = self.new_aside()
                with aside.open("wb") as file:
                    file.write(data)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                aside.replace(self.path(keys[number]))
            if durable:
                _sync_directory(place)
            return keys

        return await self.on_thread(work)

    async def get(self, keys: Sequence[BlobKey]) -> list[bytes | WeftError]:
        """The bytes of small ones, or what is wrong with them."""

        def one(key: BlobKey) -> bytes | WeftError:
            try:
                data = self.path(key).read_bytes()
            except FileNotFoundError:
                return damaged_blob(key, "it is gone")
            right = hashlib.sha256(data).hexdigest() == key.sha256
            return data if right else damaged_blob(key, "its bytes are not those that were sent")

        return await self.on_thread(lambda: [one(key) for key in keys])

    async def remove(self, keys: Sequence[BlobKey]) -> None:
        """Remove those that are there."""

        def work() -> None:
            for key in keys:
                self.path(key).unlink(missing_ok=True)

        await self.on_thread(work)

    async def remove_upload(self, tenant: str, upload: str) -> None:
        """Remove all of an upload."""
        await self.on_thread(shutil.rmtree, self._root / tenant / upload, True)

    async def sweep(self) -> None:
        """Remove what writers that died left behind."""

        def work() -> None:
            before_s = time.time() - _LEFT_OVER_S
            for path in self._aside.iterdir() if self._aside.is_dir() else ():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before_s:
                        path.unlink()

        await self.on_thread(work)

    async def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def path(self, key: BlobKey) -> Path:
        """Where a blob lies."""
        return self._root / key.tenant / key.upload / f"{key.number}-{key.sha256}"

    def new_aside(self) -> Path:
        """A place to write to."""
        self._aside.mkdir(parents=True, exist_ok=True)
        return self._aside / uuid.uuid4().hex

    async def on_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking ``work``; the system's errors in our words."""

        def guarded() -> T:
            with _told(self._root):
                return work(*args)

        return await asyncio.wrap_future(self._threads.submit(guarded))

    def _first(self, key: BlobKey) -> tuple[BinaryIO, bytes]:
        try:
            file = self.path(key).open("rb")
        except FileNotFoundError:
            raise damaged_blob(key, "it is gone") from None
        try:
            return file, file.read(PART_BYTES)
        except BaseException:
            file.close()
            raise


class FileWriter:
    """One blob on its way in."""

    def __init__(self, blobs: FileBlobs) -> None:
        self._blobs = blobs
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._digest = hashlib.sha256()
        self._aside: Path | None = None

    async def write(self, data: bytes) -> None:
        """Add to it."""
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= PART_BYTES:
            await self._blobs.on_thread(self._flush, False)

    async def keep(self, tenant: str, upload: str, number: int, *, durable: bool) -> BlobKey:
        """Put it in its place, whole."""

        def work() -> BlobKey:
            self._flush(durable)
            key = BlobKey(tenant, upload, number, self._digest.hexdigest())
            place = self._blobs.path(key)
            assert self._aside is not None
            place.parent.mkdir(parents=True, exist_ok=True)
            self._aside.replace(place)
            self._aside = None
            if durable:
                _sync_directory(place.parent)
            return key

        return await self._blobs.on_thread(work)

    async def drop(self) -> None:
        """Forget what was written. After ``keep`` it does nothing."""
        self._buffer.clear()
        aside, self._aside = self._aside, None
        if aside is not None:
            await self._blobs.on_thread(lambda: aside.unlink(missing_ok=True))

    def _flush(self, durable: bool) -> None:
        if self._aside is None:
            self._aside = self._blobs.new_aside()
        with self._aside.open("ab") as file:
            for part in self._buffer:
                self._digest.update(part)
                file.write(part)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        self._buffer.clear()
        self._buffered_bytes = 0


async def open(url: Url) -> FileBlobs:
    """The blobs of ``sqlite:///DIR``, in ``DIR/blobs``, which is made when the first comes."""
    return FileBlobs(directory_of(url) / "blobs")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise error(
            Reason.DEPENDENCY_UNAVAILABLE,
            f"the blob store {root} cannot be used now: {exc.strerror or exc}; check that the disk has room and that "
            "the directory may be written",
            path=root,
            problem=exc.strerror or exc,
        ) from exc

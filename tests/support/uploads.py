"""Stores of uploads for tests, ``Blobs`` and ``Intake``. A backend joins by its name in ``BACKENDS``.

Two openings of one URL are what two replicas have.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh import plugins
from mesh.plugins import Url
from services.retriever.ingest.uploads import BlobKey, Blobs, Held, Intake, Item
from services.retriever.types import Outcome
from tests.support.postgresql import PostgresqlServer
from weft.errors import WeftError

T, J = "tenant", "a" * 32
SENDER = "sender"


class Store(NamedTuple):
    """What one replica has open."""

    blobs: Blobs
    intake: Intake


async def open_store(url: Url) -> Store:
    """Both, as a replica opens them."""
    blobs = await plugins.load("services.retriever.blobs", url).open(url)
    return Store(blobs, await plugins.load("services.retriever.intakes", url).open(url))


BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=BACKENDS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two openings of one store."""
    url = Url.parse(f"sqlite:///{tmp_path}")
    if request.param == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        url = Url.parse(await server.make_database())
    opened = [await open_store(url) for _ in range(2)]
    yield opened[0], opened[1]
    for store in opened:
        await store.intake.close()
        await store.blobs.close()


async def keep(blobs: Blobs, data: bytes, number: int = 1, upload: str = J, part_bytes: int = 700_000) -> BlobKey:
    writer = blobs.writer()
    for at in range(0, len(data), part_bytes):
        await writer.write(data[at : at + part_bytes])
    return await writer.keep(T, upload, number, durable=number % 2 == 0)


async def content(blobs: Blobs, key: BlobKey) -> bytes:
    return b"".join([part async for part in blobs.parts(key)])


async def refused(blobs: Blobs, key: BlobKey) -> str:
    with pytest.raises(WeftError) as caught:
        await content(blobs, key)
    return caught.value.reason


def item(number: int, source: str = "", **fields: object) -> Item:
    source = source or f"{number}.txt"
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    return Item(**{"number": number, "source": source, "sha256": sha256, "size_bytes": 100} | fields)  # type: ignore[arg-type]


async def begin(intake: Intake, job: str = J, sender: str = SENDER) -> str:
    return await intake.begin(T, job, sender, "c")


async def put(intake: Intake, *items: Item, job: str = J) -> list[bool]:
    return await intake.put(T, job, await begin(intake, job), items)


async def held(intake: Intake, job: str = J) -> Held:
    (found,) = [one for one in await intake.held(0, 10) if one.job == job]
    return found


async def settle(intake: Intake, one: Item, outcome: Outcome = Outcome.INDEXED, job: str = J, fence: int = 1) -> None:
    (there,) = [there for there in await intake.items(T, job, 0, 100) if there.number == one.number]
    await intake.settle(T, job, fence, [replace(there, outcome=outcome, chunks=2, sequence=one.number + 10)])

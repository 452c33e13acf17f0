"""Change logs of every backend for tests: the fixtures `url` and `logs`. A backend joins `BACKENDS`.

Two logs opened by one URL are what two replicas have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mesh import plugins
from mesh.plugins import Url
from services.retriever.ports import Log
from services.retriever.types import Collection, CollectionKey
from tests.support.postgresql import PostgresqlServer
from tests.support.retrieval import DIMENSION, KEY

BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=BACKENDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> Url:
    """A store with nothing in it."""
    if request.param == "sqlite":
        return Url.parse(f"sqlite:///{tmp_path}")
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    return Url.parse(await server.make_database())


async def opened(url: Url) -> Log:
    log: Log = await plugins.load("services.retriever.logs", url).open(url)
    return log


@pytest.fixture
async def logs(url: Url) -> AsyncIterator[tuple[Log, Log]]:
    """Two logs of one store."""
    async with AsyncExitStack() as stack:
        one, other = await opened(url), await opened(url)
        for log in (one, other):
            stack.push_async_callback(log.close)
        yield one, other


async def collection(log: Log, key: CollectionKey = KEY) -> Collection:
    return await log.create_collection(key, "bag:", "bag:", DIMENSION)

"""Both registries for tests, the built-in one and a real Consul agent: started, killed, emptied, watched."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from opentelemetry.trace import NoOpTracer

from mesh import plugins
from mesh.controlplane.leases import open_leases
from mesh.controlplane.registry_service import RegistryServicer
from mesh.load import LoadMeter
from mesh.plugins import Url
from mesh.registry import Announcer, Catalogue, Instance, Method, Registry
from mesh.server import MeshServer
from mesh.settings import LoadWeights, ServiceSettings
from mesh.telemetry import Metrics
from tests.support.consul import ConsulAgent
from tests.support.mesh import free_port

METHODS = (Method("/weft.test.v1.TestService/Read", True), Method("/weft.test.v1.TestService/Write", False))
BACK_S = 15.0  # an emptied registry knows everybody again within this


class Backend(ABC):
    """One registry under test."""

    url = ""
    gone_s = 0.0  # a dead instance has left within this
    seen_s = 2.0  # a change is seen within this; usually some 30 ms

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = AsyncExitStack()

    @abstractmethod
    async def start(self) -> None:
        """Start it, or start it again, empty."""

    @abstractmethod
    async def kill(self) -> None:
        """Take it away without a word."""

    @abstractmethod
    async def registry(self) -> Registry:
        """The control plane's side of what runs now."""

    def settings(self) -> ServiceSettings:
        return ServiceSettings()

    def announcer(self) -> Announcer:
        """An instance's side; closed with the backend."""
        url = Url.parse(self.url)
        announcer: Announcer = plugins.load("mesh.registry", url).open(url, self.settings())
        self._stack.push_async_callback(announcer.close)
        return announcer

    async def close(self) -> None:
        await self._stack.aclose()
        await self.kill()


class Builtin(Backend):
    """The built-in registry, served as the control plane serves it."""

    url = "builtin:"
    gone_s = 2.0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._port = free_port()
        self._lives = 0
        self._running: AsyncExitStack | None = None
        self._leases: Any = None

    @property
    def database(self) -> Path:
        return self.directory / f"life-{self._lives}" / "mesh.db"

    async def start(self) -> None:
        self._lives += 1
        self._running = AsyncExitStack()
        self._leases = await self._running.enter_async_context(open_leases(self.database.parent, ttl_s=1.0))
        server = MeshServer(
            tracer=NoOpTracer(), metrics=Metrics(service="t", instance_id="t", version="v1"),
            load=LoadMeter(LoadWeights()),
        )  # fmt: skip
        self._running.push_async_callback(server.stop, 0)
        await server.start("127.0.0.1", self._port, [RegistryServicer(self._leases).binding()])

    async def kill(self) -> None:
        if self._running is not None:
            await self._running.aclose()
            self._running = None

    async def registry(self) -> Registry:
        return self._leases

    def settings(self) -> ServiceSettings:
        return ServiceSettings(mesh=(f"127.0.0.1:{self._port}",))


class Consul(Backend):
    """A real agent."""

    gone_s = 10.0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.agent = ConsulAgent(directory)

    async def start(self) -> None:
        await asyncio.to_thread(self.agent.start)
        self.url = self.agent.url

    async def kill(self) -> None:
        await asyncio.to_thread(self.agent.kill)

    async def registry(self) -> Registry:
        registry: Any = self.announcer()
        return registry


class Process:
    """What stands for an instance's process: a port with a health service behind it."""

    def __init__(self, server: grpc.aio.Server, health: Any, instance: Instance) -> None:
        self._server, self._health, self.instance = server, health, instance

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)

    async def die(self) -> None:
        await self._server.stop(0)


@asynccontextmanager
async def process(name: str, service: str = "retriever", **fields: Any) -> AsyncIterator[Process]:
    server, health = grpc.aio.server(), health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    instance = Instance(
        service=service, id=name, host="127.0.0.1", port=port, methods=METHODS,
        started_unix_s=1_700_000_000.25, **fields,
    )  # fmt: skip
    made = Process(server, health, instance)
    await made.set_serving(True)
    try:
        yield made
    finally:
        await server.stop(0)


class Watcher:
    """Follows a registry and keeps all that it said."""

    def __init__(self) -> None:
        self.seen: list[Catalogue] = []
        self._news = asyncio.Event()

    async def follow(self, registry: Registry) -> None:
        async for catalogue in registry.watch():
            self.seen.append(catalogue)
            self._news.set()

    async def until(self, check: Callable[[Catalogue], bool], *, within_s: float, what: str) -> Catalogue:
        """Wait for a catalogue that passes; returns it."""
        try:
            async with asyncio.timeout(within_s):
                while not (self.seen and check(self.seen[-1])):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {what}; last {self.seen[-1:]}") from None
        return self.seen[-1]


@asynccontextmanager
async def watching(backend: Backend) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    task = asyncio.create_task(watcher.follow(await backend.registry()))
    try:
        await watcher.until(lambda c: c.warm, within_s=20, what="a warm catalogue")
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def live(catalogue: Catalogue) -> set[str]:
    """Ids that callers may be sent to."""
    return {instance.id for instance in catalogue.instances} - catalogue.failing


@asynccontextmanager
async def store_away(backend: Backend) -> AsyncIterator[None]:
    """Consul: killed. SQLite: somebody keeps the file locked."""
    if isinstance(backend, Builtin):
        other = sqlite3.connect(backend.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.close()
    else:
        await backend.kill()
        yield

"""The life of an instance, the same for every service.

    settings -> telemetry -> build -> bind and serve -> SERVING -> register -> wait
        -> NOT_SERVING and deregister -> let the change travel -> finish what runs -> stop

``run`` is all that a service's ``__main__`` calls. ``build`` is an async context manager that turns
settings into the servicers to bind; what it opened it closes on the way out. SIGTERM and SIGINT begin
the drain, a second one cuts the grace short. ``Runtime.fail`` is for what cannot be mended (a model's
engine that died): the instance goes NOT_SERVING at once and exits with 1, and the mesh moves on.

Exit codes: 0 stopped as asked, 1 failed, 2 the configuration is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
from opentelemetry.trace import Tracer

from mesh import plugins
from mesh.age import age_s
from mesh.http import http_endpoint
from mesh.interceptors.outgoing import prepare
from mesh.load import LoadMeter
from mesh.plugins import Url
from mesh.registry import Instance, Registration
from mesh.server import Binding, MeshServer
from mesh.settings import ServiceSettings, load, masked
from mesh.telemetry import Telemetry, setup
from weft.channel import Dial, open_service
from weft.errors import WeftError
from weft.tracing import traced

_log = logging.getLogger(__name__)
_TELEMETRY_FLUSH_S: Final = 2.0
_MESH_WITHIN_S: Final = 60.0
_MESH_LOOK_S: Final = 1.0
_MESH_PAUSE_S: Final = 0.1
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})

S = TypeVar("S", bound=ServiceSettings)


class Runtime:
    """What a service's ``build`` may use of its process.

    Attributes:
        service: name under which the process registers.
        instance_id: unique id of the process.
        version: version label for routes.
        telemetry: tracer provider, metrics and logs.
        load: the load meter; a service may add what waits in its queues.
        generic_handlers: further gRPC handlers without descriptors of ours (ADS).
    """

    def __init__(self, service: str, instance_id: str, settings: ServiceSettings, telemetry: Telemetry) -> None:
        self.service = service
        self.settings = settings
        self.instance_id = instance_id
        self.version = settings.version
        self.telemetry = telemetry
        self.load = LoadMeter(settings.load)
        self.generic_handlers: list[grpc.GenericRpcHandler] = []
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.stopping = asyncio.Event()
        self.forced = asyncio.Event()  # told to stop twice: no more grace
        self.failure: BaseException | None = None

    @property
    def tracer(self) -> Tracer:
        """The tracer of this service's own spans."""
        return self.telemetry.tracer(f"weft.{self.service}")

    @property
    def registry(self) -> Any:
        """The process's prometheus CollectorRegistry."""
        return self.telemetry.metrics.registry

    def channel(self, service: str) -> grpc.aio.Channel:
        """The process's channel to another service of the mesh: balanced, traced, carrying each call's
        tenant, request id, bucket, route headers and remaining deadline. Shared; don't close it."""
        channel = self._channels.get(service)
        if channel is None:
            tracer = self.telemetry.tracer("weft.rpc")
            channel = self._channels[service] = traced(open_service(service, self._dial()), tracer, prepare)
        return channel

    async def mesh_up(self) -> None:
        """Wait until the control plane takes connections, a minute at most. Who calls a peer unasked waits for this
        first: gRPC's xDS client, refused once, tries again only after seconds, and until then every call fails."""
        if not self.settings.target.startswith("xds:"):
            return
        until_s = time.monotonic() + _MESH_WITHIN_S
        while time.monotonic() < until_s:
            for address in self.settings.mesh:
                host, _, port = address.rpartition(":")
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_MESH_LOOK_S):
                        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                    writer.close()
                    return
            await asyncio.sleep(_MESH_PAUSE_S)

    def fail(self, failure: BaseException) -> None:
        """Give up: NOT_SERVING now, exit with 1 after the drain."""
        if self.failure is None:
            self.failure = failure
            _log.error("giving up: %s", failure, exc_info=failure)
        self.stopping.set()

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()

    def _dial(self) -> Dial:
        settings = self.settings
        return Dial(
            mesh=settings.mesh,
            target=settings.target,
            zone=settings.zone,
            node_id=self.instance_id,
            max_message_bytes=settings.max_message_bytes,
        )


Build = Callable[[S, Runtime], AbstractAsyncContextManager[Sequence[Binding]]]


def run(settings_class: type[S], build: Build[S], *, register: bool = True, argv: Sequence[str] | None = None) -> None:
    """Run one service until it is told to stop, then exit the process.

    ``argv`` may ask for ``config`` (print the settings, secrets masked) or ``config --check``.
    """
    service = settings_class.__module__.split(".")[-2]
    arguments = _arguments(service, argv)
    try:
        settings = load(settings_class)
    except WeftError as err:
        print(f"weft {service}: {err.message}", file=sys.stderr)
        raise SystemExit(2) from None
    if arguments.command == "config":
        if not arguments.check:
            print(json.dumps(masked(settings), indent=2))
        raise SystemExit(0)
    raise SystemExit(asyncio.run(serve(service, settings, build, register=register)))


def _arguments(service: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"weft {service}", description=f"Run one {service} process of a Weft mesh.")
    commands = parser.add_subparsers(dest="command")
    config = commands.add_parser("config", help="print the settings as JSON, secrets masked, and exit")
    config.add_argument("--check", action="store_true", help="print nothing; exit with 2 if they are wrong")
    config.add_argument("--json", action="store_true", help="the default, for symmetry with `weft config`")
    return parser.parse_args(argv)


async def serve(service: str, settings: S, build: Build[S], *, register: bool = True) -> int:
    """Live the life of one instance; returns the process's exit code."""
    instance_id = settings.instance_id or f"{service}-{uuid.uuid4().hex[:12]}"
    telemetry = setup(
        service=service,
        instance_id=instance_id,
        version=settings.version,
        zone=settings.zone,
        otlp_endpoint=settings.otlp_endpoint or None,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )
    runtime = Runtime(service, instance_id, settings, telemetry)
    _stop_on_signals(runtime)
    code = 0
    try:
        await _live(runtime, settings, build, register)
    except (WeftError, OSError) as err:
        _log.error("cannot run: %s", err)
        code = 1
    except Exception:
        _log.exception("failed unexpectedly")
        code = 1
    finally:
        await runtime.close()
        await telemetry.shutdown(_TELEMETRY_FLUSH_S)
    return 1 if runtime.failure is not None else code


async def _live(runtime: Runtime, settings: S, build: Build[S], register: bool) -> None:
    serving = False
    host, port = settings.listen
    async with AsyncExitStack() as stack:
        metrics = runtime.telemetry.metrics
        metrics_port = await stack.enter_async_context(
            http_endpoint(host, settings.metrics_port, metrics.registry, lambda: serving)
        )
        bindings = await stack.enter_async_context(build(settings, runtime))
        server = MeshServer(
            tracer=runtime.telemetry.tracer("weft.rpc"),
            metrics=metrics,
            load=runtime.load,
            default_deadline_s=settings.default_deadline_s,
            max_concurrent_calls=settings.max_concurrent_calls,
            max_message_bytes=settings.max_message_bytes,
        )
        bound_port = await server.start(host, port, bindings, runtime.generic_handlers)
        stack.push_async_callback(server.stop, 0)
        _settle_memory()
        await server.set_serving(True)
        serving = True
        started_s = age_s()
        metrics.took_to_start(started_s)
        registration: Registration | None = None
        if register:
            registration = await _register(runtime, settings, stack, server, bound_port, metrics_port)
        # From now on only: what loading a model takes, or libraries, harms no caller.
        await stack.enter_async_context(_background(metrics.watch_loop()))
        _log.info(
            "serving on %s:%d, metrics on %s:%d, %.2f s after exec", host, bound_port, host, metrics_port, started_s
        )
        await runtime.stopping.wait()
        serving = False
        await server.set_serving(False)
        if registration is not None:
            await registration.deregister()
            # Callers learn of it by the control plane's next push; until then they may still call.
            await _sleep_unless_forced(runtime, settings.drain_travel_s)
        _log.info("draining: %d calls under way", runtime.load.pending)
        await server.stop(0 if runtime.forced.is_set() else settings.drain_grace_s)


async def _register(
    runtime: Runtime, settings: ServiceSettings, stack: AsyncExitStack, server: MeshServer, port: int, metrics_port: int
) -> Registration:
    url = Url.parse(settings.registry)
    registry = plugins.load("mesh.registry", url).open(url, settings)
    stack.push_async_callback(registry.close)
    registration: Registration = await registry.register(
        Instance(
            service=runtime.service,
            id=runtime.instance_id,
            host=settings.advertise or _reachable_host(settings),
            port=port,
            metrics_port=metrics_port,
            version=settings.version,
            zone=settings.zone,
            tags=settings.tags,
            methods=server.methods,
            started_unix_s=time.time(),
        )
    )
    stack.push_async_callback(registration.close)
    return registration


def _settle_memory() -> None:
    """Tell the garbage collector that what is loaded now stays, and to look less often for cycles among
    what calls leave behind: 4 to 5 % of a turn's CPU otherwise (benchmarks/turns.py)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)


def _reachable_host(settings: ServiceSettings) -> str:
    """Where others reach us: the address listened on; where that is all of them, ours on the way to the
    mesh (endpoints in xDS are IP addresses, so a host name would not do)."""
    if settings.host not in _WILDCARDS:
        return settings.host
    family = socket.AF_INET6 if settings.host == "::" else socket.AF_INET
    host, _, port = settings.mesh[0].rpartition(":")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def _stop_on_signals(runtime: Runtime) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if runtime.stopping.is_set():
            runtime.forced.set()
        runtime.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _sleep_unless_forced(runtime: Runtime, seconds: float) -> None:
    try:
        await asyncio.wait_for(runtime.forced.wait(), seconds)
    except TimeoutError:
        return


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    """Own a task for as long as the block runs."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

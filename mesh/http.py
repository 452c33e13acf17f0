"""``/metrics`` and ``/healthz`` on one HTTP port, in the process's own event loop.

    GET /healthz   200 {"status":"SERVING"}, or 503 {"status":"NOT_SERVING"}
    GET /metrics   Prometheus text format 0.0.4 (OpenMetrics when the scraper asks for it)

It is meant for probes and scrapers inside: no access log, no endless headers, few connections at once,
and signals stay with the application. When the block ends, the port is closed first and running
answers get a second to finish.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weft.errors import Reason, error

_MAX_HEADER_BYTES: Final = 8 * 1024
_MAX_CONNECTIONS: Final = 64
_IDLE_S: Final = 65  # longer than the usual scrape interval of 15 to 60 s, so that connections are kept
_BACKLOG: Final = 64
_GRACE_S: Final = 1


@asynccontextmanager
async def http_endpoint(
    host: str, port: int, registry: CollectorRegistry, healthy: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve within the block; yields the port, which is the system's choice where ``port`` is 0.

    Args:
        healthy: whether this process serves; asked at each request, must not block.

    Raises:
        WeftError: INVALID_FIELD when the address can't be had.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        _application(registry, healthy),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn without its hands on SIGINT and SIGTERM: the application decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise error(
            Reason.INVALID_FIELD,
            f"cannot listen on {host}:{port} for /metrics and /healthz: {exc.strerror}; choose another with "
            "WEFT_METRICS_PORT, 0 takes a free one",
            address=f"{host}:{port}",
        ) from exc
    return listener


def _application(registry: CollectorRegistry, healthy: Callable[[], bool]) -> Starlette:
    async def healthz(_: Request) -> Response:
        if healthy():
            return JSONResponse({"status": "SERVING"})
        return JSONResponse({"status": "NOT_SERVING"}, status_code=503)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])

"""An HTTP server that says exactly the bytes it is told to, and no more: for servers that behave badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Says = Callable[[asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """What it says, and what it saw.

    Attributes:
        says: what the next requests are answered with, in order; the last one answers all that follow.
        heads, bodies: of the requests so far.
        left: set when a caller has closed its connection.
    """

    def __init__(self) -> None:
        self.port = 0
        self.says: list[Says] = []
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.left = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, more: str = "") -> str:
        return f"openai://127.0.0.1:{self.port}/v1?model=m{more}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = [
                line.partition(":")[2] for line in head.lower().split("\r\n") if line.startswith("content-length")
            ]
            body = await reader.readexactly(int(length[0])) if length else b""
            self.heads.append(head)
            self.bodies.append(json.loads(body) if body else None)
            says = self.says.pop(0) if len(self.says) > 1 else self.says[0]
            speaking = asyncio.ensure_future(says(writer))
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.left.set()
            for each in (speaking, leaving):
                each.cancel()
            await asyncio.gather(speaking, leaving, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def raw_server(*says: Says) -> AsyncIterator[RawServer]:
    """Serve on a free port, in the test's own loop. Every connection is for one request."""
    raw = RawServer()
    raw.says = list(says)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        await raw.stop()


def raw(*parts: bytes | float) -> Says:
    """Say these bytes; a number is a pause in seconds."""

    async def say(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)

    return say


def http(status: int, body: bytes | str = b"", kind: str = "application/json", **headers: str) -> bytes:
    """A whole response."""
    content = body.encode() if isinstance(body, str) else body
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n"
        f"connection: close\r\n{more}\r\n"
    ).encode() + content


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n"
CHUNKED = STREAM[:-2] + b"transfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(told: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a body that comes in chunks."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def said(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """A piece of a chat's answer."""
    if text is not None:
        delta["content"] = text
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def used(prompt: int, completion: int, **more: Any) -> bytes:
    """The usage, which comes after all else."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}})


WHOLE = said("Nine ") + said("o'clock") + said(finish="stop") + used(7, 3) + DONE

"""A plain HTTP client for probes and scrapes, without manners that would hide the server's."""

from __future__ import annotations

import asyncio


async def get(port: int, path: str, headers: str = "", host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Status, head and body of one plain HTTP request."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head.lower(), body

"""A small server with OpenAI's embeddings API, whose vectors another embedder makes. It can be made to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from services.retriever.ports import Embedder


class EmbeddingServer:
    """What the server does and what it saw.

    Attributes:
        faults: statuses that the next requests are answered with.
        garbled: bytes that answer instead of vectors.
        requests: bodies of the requests so far.
        keys: their authorization headers.
    """

    def __init__(self, model: Embedder) -> None:
        self.model = model
        self.faults: list[int] = []
        self.garbled = b""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.port = 0

    def url(self, more: str = "") -> str:
        """Its URL as an embedder's."""
        return f"openai://127.0.0.1:{self.port}/v1?model=small&dimension={self.model.dimension}{more}"

    def answer(self, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, bytes]:
        self.requests.append(body)
        self.keys.append(key)
        if self.faults:
            return self.faults.pop(0), b'{"error": "not now"}'
        if self.garbled:
            return 200, self.garbled
        if path != "/v1/embeddings" or body["model"] != "small" or not all(body["input"]):
            return 404, b"no such model"
        rows = 3.0 * self.model.embed(body["input"])  # not of length 1, as some servers' are
        data = [{"index": at, "embedding": row.tolist()} for at, row in enumerate(rows)]
        return 200, json.dumps({"object": "list", "data": data[::-1]}).encode()  # in no order


@contextmanager
def embedding_server(model: Embedder) -> Iterator[EmbeddingServer]:
    """Serve on a free port."""
    server = EmbeddingServer(model)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer = server.answer(self.path, self.headers.get("authorization"), body)
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """It says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()

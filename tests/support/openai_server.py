"""A real HTTP server with OpenAI's chat API and vLLM's token ids, on a free port, with a scripted model behind it.

A model's name is a `scripted:` URL, so that a test says in its own URL what the server's model does. Chat is answered
by that model. Completions are of token ids: here every byte of a text is a token, 256 ends an answer, and two tokens
come at a time, so that what a test cuts off is often cut within a character.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mesh.plugins import Url
from services.generator.models import scripted
from services.generator.types import End, Message, Piece, Request, Role, Sampling
from weft.errors import Reason, WeftError

END_TOKEN = 256
TOKENS_AT_ONCE = 2
MAX_CONTEXT = 100_000
PLAIN_TEXT = "one two three four five six seven eight nine ten"


class OpenAiServer:
    """What the server saw.

    Attributes:
        port: where it listens.
        bodies: of the requests so far, by path.
        keys: their authorization headers.
        connections: from which they came.
        running: answers that are being streamed.
    """

    def __init__(self) -> None:
        self.port = 0
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.connections: set[object] = set()
        self.running = 0
        self._prompts: set[tuple[int, ...]] = set()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/detokenize", self._detokenize, methods=["POST"]),
            ]
        )

    def url(self, model: str, more: str = "") -> str:
        """URL of one of its models, a `scripted:` URL."""
        return f"openai://127.0.0.1:{self.port}/v1?model={quote(model, safe='')}{more}"

    async def _read(self, request: HttpRequest) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append((request.url.path, body))
        self.keys.append(request.headers.get("authorization"))
        self.connections.add(request.client)
        return body

    async def _models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "scripted:", "object": "model"}]})

    # -- chat ------------------------------------------------------------------------------------------------

    async def _chat(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        events = scripted.open(Url.parse(body["model"])).generate(_asked(body))
        try:
            given = [await anext(events), await anext(events)]  # what fails before it begins has a status
        except WeftError as err:
            await events.aclose()
            return _refused(err)
        return self._streamed(_chat_chunks(given, events))

    def _streamed(self, chunks: AsyncGenerator[dict[str, Any], None]) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            self.running += 1
            try:
                async for chunk in chunks:
                    yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
                yield b"data: [DONE]\n\n"
            finally:
                self.running -= 1
                await chunks.aclose()

        return StreamingResponse(lines(), media_type="text/event-stream")

    # -- token ids -------------------------------------------------------------------------------------------

    async def _tokenize(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        ids = list("\n".join(message["content"] for message in body["messages"]).encode())
        self._prompts.add(tuple(ids))
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": _context(body["model"])})

    async def _detokenize(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        return JSONResponse({"prompt": bytes(body["tokens"]).decode("utf-8", "replace")})

    async def _completions(self, request: HttpRequest) -> Response:
        body = await self._read(request)
        ids = tuple(body["prompt"])
        begun = max((known for known in self._prompts if ids[: len(known)] == known), key=len, default=None)
        if begun is None:
            return JSONResponse({"error": {"message": "a prompt that was never rendered", "code": 400}}, 400)
        return self._streamed(_completion_chunks(body, len(ids), ids[len(begun) :]))


async def _chat_chunks(given: list[Any], events: AsyncGenerator[Any, None]) -> AsyncGenerator[dict[str, Any], None]:
    yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    try:
        while True:
            for event in given:
                if isinstance(event, Piece):
                    yield {"choices": [{"index": 0, "delta": {"content": event.text}, "finish_reason": None}]}
                elif isinstance(event, End):
                    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": event.reason.value}]}
                    yield {"choices": [], "usage": _usage(event.usage.input_tokens, event.usage.output_tokens)}
                    return
            given = [await anext(events)]
    except WeftError as err:
        yield {"error": {"message": err.message, "code": 500}}
    finally:
        await events.aclose()


async def _completion_chunks(
    body: dict[str, Any], input_tokens: int, said: tuple[int, ...]
) -> AsyncGenerator[dict[str, Any], None]:
    script = Url.parse(body["model"]).query
    answer, text, stop = _answer(script, body)
    limit = min(len(answer), len(said) + body["max_tokens"])
    whole = limit == len(answer)
    delay_s = int(script.get("delay_ms", "0")) / 1_000
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoder.decode(bytes(said))
    given = len(bytes(said).decode("utf-8", "ignore"))
    for start in range(len(said), limit, TOKENS_AT_ONCE) or [limit]:
        await asyncio.sleep(delay_s)
        ids = answer[start : min(limit, start + TOKENS_AT_ONCE)]
        ended = start + len(ids) == limit
        piece = decoder.decode(bytes(token for token in ids if token != END_TOKEN))
        piece = piece[: max(0, len(text) - given)]  # a stop string is none of the text
        given += len(piece)
        reason = ("stop" if whole else "length") if ended else None
        choice = {"index": 0, "text": piece, "finish_reason": reason, "token_ids": ids}
        yield {"choices": [{**choice, "stop_reason": stop if ended and whole else None}]}
    yield {"choices": [], "usage": _usage(input_tokens, limit - len(said))}


def _answer(script: Any, body: dict[str, Any]) -> tuple[list[int], str, str | None]:
    """Return the tokens of the whole answer, its text, and the stop string that ends it."""
    text = script.get("text", PLAIN_TEXT)
    found = [(at, stop) for stop in body.get("stop", ()) if (at := text.find(stop)) >= 0]
    if not found:
        return [*text.encode(), END_TOKEN], text, None
    at, stop = min(found)
    return list((text[:at] + stop).encode()), text[:at], stop


def _asked(body: dict[str, Any]) -> Request:
    sampling = Sampling(max_tokens=body.get("max_tokens"), stop=tuple(body.get("stop", ())))
    given = body["messages"]
    return Request(tuple(Message(Role(each["role"]), each["content"]) for each in given), sampling=sampling)


def _context(model: str) -> int:
    return int(Url.parse(model).query.get("context_tokens", MAX_CONTEXT))


def _usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def _refused(err: WeftError) -> Response:
    status = 400 if err.reason == Reason.CONTEXT_TOO_LONG else 500
    message = err.message
    if status == 400:
        message = (
            f"This model's maximum context length is {err.metadata['context_tokens']} tokens. However, your prompt "
            f"contains at least {err.metadata['prompt_tokens']} input tokens."
        )
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


@contextmanager
def openai_server(port: int = 0) -> Iterator[OpenAiServer]:
    """Serve on a port, a free one if it is 0, in a thread with a loop of its own."""
    served = OpenAiServer()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        served.port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="critical", lifespan="off", loop="asyncio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield served
        finally:
            server.should_exit = server.force_exit = True
            thread.join()

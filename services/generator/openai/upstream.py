"""One server over HTTP/1.1: a bounded pool of connections, streams of events, and what goes wrong with them.

    ask            one JSON answer
    stream         the data of an answer's events, as they come

Failures that pass (no connection, 408, 429, 5xx, a connection that ends) are tried `TRIES` times with growing random
pauses, as long as no event has come and the patience lasts; after that they are the caller's. A server that asks for
more than `LONGEST_PAUSE_S` gets no second try. Nothing is followed anywhere else, and nothing is read from the
environment. Whoever stops reading closes the connection, at once: that is how a server learns to stop its model.

What a server sends is bounded: an event by `sse.MAX_EVENT_BYTES`, an answer by `MAX_ANSWER_BYTES`. It is sent as it
is: a compressed one is refused, since what it grows to isn't known.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

import httpx
import tenacity

from services.generator.openai import refusals
from services.generator.openai.options import Options
from services.generator.openai.refusals import Refusal
from services.generator.openai.sse import EventParser, TooLarge
from services.generator.patience import Patience
from weft.errors import Reason, WeftError, error

TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
MAX_CONNECTIONS: Final = 512
MAX_ANSWER_BYTES: Final = 64 << 20
DONE: Final = b"[DONE]"  # an event of its own behind the last one
MAX_JSON_BYTES: Final = 16 << 20
_MAX_REFUSAL_BYTES: Final = 64 << 10
_KEPT_CONNECTIONS: Final = 64
_KEPT_S: Final = 30.0
_POOL_S: Final = 5.0
_DRAIN_S: Final = 0.2
_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"


class _PassingError(Exception):
    """The server can't just now; it may soon."""

    def __init__(self, err: WeftError) -> None:
        super().__init__(err.message)
        self.err = err


class Upstream:
    """A server's API."""

    def __init__(self, options: Options, key: str) -> None:
        self.name = options.origin
        self._options, self._key = options, key
        headers = {"accept-encoding": "identity", "user-agent": "weft"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            base_url=options.origin,
            headers=headers,
            timeout=httpx.Timeout(None, connect=options.timeouts.connect_s, pool=_POOL_S),  # Patience bounds the rest
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEPT_S,
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def patience(self) -> Patience:
        """Return the clock of one answer."""
        return Patience(self.name, self._options.timeouts)

    async def ask(self, method: str, path: str, patience: Patience, body: Mapping[str, Any] | None = None) -> bytes:
        """Return the JSON that the server answers with; it is not parsed yet.

        Raises:
            WeftError: MODEL_UNAVAILABLE, DEADLINE_EXCEEDED, OVERLOADED, and what refusals says.
        """
        content = None if body is None else _dumped(body)

        async def once() -> bytes:
            response = await self._open(method, path, content, _JSON)
            try:
                return await self._body(response, MAX_JSON_BYTES)
            finally:
                await response.aclose()

        async with patience.waiting():
            answer: bytes = await self._tried(once)
            return answer

    async def stream(self, path: str, body: Mapping[str, Any], patience: Patience) -> AsyncGenerator[bytes, None]:
        """Yield the data of the answer's events.

        Raises:
            WeftError: as `ask`; MODEL_UNAVAILABLE where the stream is cut.
        """
        content = _dumped(body)

        async def once() -> tuple[httpx.Response, AsyncGenerator[bytes, None], bytes]:
            response = await self._open("POST", path, content, _EVENT_STREAM, schema="response_format" in body)
            try:
                events = self._events(response)
                return response, events, await anext(events)
            except StopAsyncIteration:
                await response.aclose()
                raise _PassingError(self._unavailable("ended its answer before it began")) from None
            except BaseException:
                await response.aclose()
                raise

        async with patience.waiting():
            response, events, event = await self._tried(once)
        try:
            async with aclosing(events):
                while True:
                    yield event
                    if event == DONE:
                        await self._drain(events)
                        return
                    try:
                        async with patience.waiting():
                            event = await anext(events)
                    except StopAsyncIteration:
                        return
                    except _PassingError as exc:
                        raise exc.err from exc
        finally:
            await response.aclose()

    async def _drain(self, events: AsyncGenerator[bytes, None]) -> None:
        """Read what is left behind an answer's end, mostly nothing, so that the connection can be used again."""
        with suppress(TimeoutError, WeftError, _PassingError):
            async with asyncio.timeout(_DRAIN_S):
                async for _ in events:
                    pass

    async def _tried(self, once: Any) -> Any:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=_pause_s,
            retry=tenacity.retry_if_exception(_worth_another),
            reraise=True,
        )
        try:
            return await retrying(once)
        except _PassingError as exc:
            raise exc.err from exc

    async def _open(
        self, method: str, path: str, content: bytes | None, kind: str, *, schema: bool = False
    ) -> httpx.Response:
        """Send a request and return its response, once it is known to be one of the kind."""
        headers = {"accept": kind} if content is None else {"accept": kind, "content-type": _JSON}
        request = self._client.build_request(method, path, content=content, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.PoolTimeout:
            message = f"{MAX_CONNECTIONS} answers of {self.name} are under way here; try again later"
            raise error(Reason.OVERLOADED, message, retry_after_s=1.0, connections=MAX_CONNECTIONS) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise _PassingError(self._unavailable(f"can't be reached ({_named(exc)})")) from exc
        except httpx.HTTPError as exc:
            raise _PassingError(self._unavailable(f"broke the connection ({_named(exc)})")) from exc
        try:
            await self._check(response, kind, schema)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _check(self, response: httpx.Response, kind: str, schema: bool) -> None:
        if response.status_code != 200:
            body = await self._body(response, _MAX_REFUSAL_BYTES, cut=True)
            refusal = refusals.read(response.status_code, body, response.headers, self._key)
            err = self.refused(refusal, schema=schema)
            raise _PassingError(err) if refusal.passing else err
        given = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != kind:
            raise self._unavailable(f"answered with {given[:60] or 'no content type'!r} instead of {kind!r}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self._unavailable(f"answered with the encoding {encoding[:20]!r}, which was not asked for")

    def refused(self, refusal: Refusal, *, schema: bool) -> WeftError:
        """Return the error of a refusal, wherever in an answer it came."""
        return refusals.as_error(refusal, self.name, self._options.model, schema=schema)

    def said(self, status: int, body: bytes) -> Refusal:
        """Read what the server says in place of an answer."""
        return refusals.read(status, body, {}, self._key)

    async def _events(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        parser = EventParser()
        left_bytes = MAX_ANSWER_BYTES
        try:
            async for chunk in response.aiter_raw():
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    raise TooLarge(f"an answer has more than {MAX_ANSWER_BYTES} bytes")
                for event in parser.feed(chunk):
                    yield event
        except TooLarge as exc:
            raise self._unavailable(f"sends what is no answer: {exc}") from exc
        except httpx.HTTPError as exc:
            raise _PassingError(self._unavailable(f"broke its answer off ({_named(exc)})")) from exc

    async def _body(self, response: httpx.Response, max_bytes: int, *, cut: bool = False) -> bytes:
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    if cut:
                        break
                    raise self._unavailable(f"answered with more than {max_bytes} bytes")
        except httpx.HTTPError as exc:
            if not cut:
                raise _PassingError(self._unavailable(f"broke its answer off ({_named(exc)})")) from exc
        return bytes(body[:max_bytes])

    def garbled(self, problem: str) -> WeftError:
        """Return the error of an answer that is none."""
        return self._unavailable(f"sends what is no answer of the API: {problem}")

    def _unavailable(self, problem: str) -> WeftError:
        return error(
            Reason.MODEL_UNAVAILABLE,
            f"{self.name} {problem}",
            server=self.name,
            model=self._options.model,
            problem=problem,
        )


def _dumped(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        message = f"the request can't be written as JSON ({exc}); leave out numbers that are not finite"
        raise error(Reason.INVALID_FIELD, message, field="messages") from None


def _named(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc)[:200]}".removesuffix(": ")


def _worth_another(exc: BaseException) -> bool:
    return isinstance(exc, _PassingError) and (exc.err.retry_after_s or 0.0) <= LONGEST_PAUSE_S


_growing = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)


def _pause_s(state: tenacity.RetryCallState) -> float:
    failed = state.outcome.exception() if state.outcome is not None else None
    asked_s = failed.err.retry_after_s if isinstance(failed, _PassingError) else None
    return max(_growing(state), asked_s or 0.0)

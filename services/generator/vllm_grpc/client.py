"""vLLM's gRPC service, as much of it as we use: `vllm.grpc.engine.VllmEngine`, with messages of our own names.

    info, tokenizer      once, before the first answer
    loads                how busy the engines are
    generate             tokens in, tokens out, as they come

A call that is left is cancelled, by which the server knows to stop. A server that isn't there is tried `TRIES` times
with growing random pauses, as long as nothing has come and the patience lasts.

An answer's end comes as a message of its own behind its last tokens: tokens that may be the last are held until then,
so that the one that ends the answer is known as such.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc
import tenacity
from google.protobuf.message import Message as ProtoMessage

from services.generator.patience import Patience, Timeouts
from services.generator.types import ModelLoad, Sampling
from services.generator.vllm.answering import Step
from services.generator.vllm_grpc.tokenizer import MAX_ZIP_BYTES
from weft.channel import Dial, open_address
from weft.errors import Reason, WeftError, error
from weft.vllm.v1 import engine_pb2 as pb

TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
_SERVICE: Final = "/vllm.grpc.engine.VllmEngine"
_SEEDS: Final = 1 << 31
_OF_THE_REQUEST: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})
_DEFAULTS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

M = TypeVar("M", bound=ProtoMessage)


@dataclass(frozen=True, slots=True)
class Info:
    """What a server says of its model."""

    name: str
    context_tokens: int
    vocabulary: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """What the model asks for where a request says nothing."""


class _PassingError(Exception):
    """The server can't just now; it may soon."""

    def __init__(self, err: WeftError) -> None:
        super().__init__(err.message)
        self.err = err


class Client:
    """One server."""

    def __init__(self, address: str, plain: bool, timeouts: Timeouts) -> None:
        self.name = f"vllm+grpc://{address}"
        self._timeouts = timeouts
        credentials = None if plain else grpc.ssl_channel_credentials()
        self._channel = open_address([address], Dial(credentials=credentials))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def patience(self) -> Patience:
        """Return the clock of one answer."""
        return Patience(self.name, self._timeouts)

    async def info(self, patience: Patience) -> Info:
        """Ask for the model.

        Raises:
            WeftError: MODEL_UNAVAILABLE.
        """
        (told,) = await self._all("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse, patience)
        try:
            defaults = json.loads(told.default_sampling_params_json or "{}")
            sampling = {name: float(defaults[name]) for name in _DEFAULTS if defaults.get(name) is not None}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise self._unavailable("says nothing of use about its model's sampling") from None
        return Info(
            told.served_model_name or told.model_path,
            told.max_context_length,
            told.vocab_size,
            frozenset(told.eos_token_ids),
            sampling,
        )

    async def tokenizer(self, patience: Patience) -> tuple[bytes, str]:
        """Ask for the tokenizer: a zip file and its checksum.

        Raises:
            WeftError: MODEL_UNAVAILABLE.
        """
        chunks = await self._all(
            "GetTokenizer", pb.GetTokenizerRequest(), pb.GetTokenizerChunk, patience, lambda chunk: len(chunk.data)
        )
        return b"".join(chunk.data for chunk in chunks), next((chunk.sha256 for chunk in chunks[::-1]), "")

    async def loads(self) -> ModelLoad:
        """Ask how busy the engines are, all of them together.

        Raises:
            WeftError: MODEL_UNAVAILABLE.
        """
        (told,) = await self._all("GetLoads", pb.GetLoadsRequest(), pb.GetLoadsResponse, self.patience())
        return ModelLoad(
            running=sum(each.num_running_reqs for each in told.loads),
            waiting=sum(each.num_waiting_reqs for each in told.loads),
            kv_cache=max((min(1.0, max(0.0, each.token_usage)) for each in told.loads), default=None),
        )

    async def generate(
        self,
        info: Info,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None,
    ) -> AsyncGenerator[Step, None]:
        """Go on from the tokens.

        Raises:
            WeftError: MODEL_UNAVAILABLE, DEADLINE_EXCEEDED; INVALID_FIELD and SCHEMA_INVALID for what vLLM refuses.
        """
        wanted = pb.GenerateRequest(
            request_id=f"weft-{uuid.uuid4().hex}",
            tokenized=pb.TokenizedInput(input_ids=token_ids),
            sampling_params=_params(info, sampling, max_tokens, schema),
            stream=True,
        )
        patience = self.patience()
        call: Any = None

        async def begin() -> Any:
            nonlocal call
            call = self._method("Generate", pb.GenerateResponse)(wanted)
            return await self._read(call, begun=False, schema=schema is not None)

        held: list[int] = []
        try:
            async with patience.waiting():
                message = await self._tried(begin)
            while message is not grpc.aio.EOF:
                patience.heard()
                if message.HasField("complete"):
                    yield self._last(held, message.complete)
                    return
                held += message.chunk.token_ids
                if held and held[-1] not in info.ends:
                    yield Step(held, "", message.chunk.cached_tokens)
                    held = []
                async with patience.waiting():
                    message = await self._read(call, begun=True, schema=False)
            raise self._unavailable("broke its answer off")
        finally:
            if call is not None:
                call.cancel()

    def _last(self, held: list[int], end: pb.GenerateComplete) -> Step:
        if end.finish_reason not in ("stop", "length"):
            raise self._unavailable(f"gave its answer up ({end.finish_reason[:40]})")
        return Step(held, end.finish_reason, end.cached_tokens)

    async def _all(
        self,
        method: str,
        request: ProtoMessage,
        response: type[M],
        patience: Patience,
        size: Callable[[M], int] = lambda message: 1,
    ) -> list[M]:
        """Return all messages of an answer."""

        async def once() -> list[M]:
            call = self._method(method, response)(request)
            found: list[M] = []
            left = MAX_ZIP_BYTES
            try:
                while (message := await self._read(call, begun=bool(found), schema=False)) is not grpc.aio.EOF:
                    found.append(message)
                    left -= size(message)
                    if left < 0:
                        raise self._unavailable(f"sends more than {MAX_ZIP_BYTES} bytes")
            finally:
                call.cancel()
            if not found:
                raise self._unavailable(f"says nothing to {method}")
            return found

        async with patience.waiting():
            messages: list[M] = await self._tried(once)
            return messages

    def _method(self, name: str, response: type[ProtoMessage]) -> Any:
        # As a stream also where there is one message: the wire is the same.
        return self._channel.unary_stream(
            f"{_SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    async def _read(self, call: Any, *, begun: bool, schema: bool) -> Any:
        try:
            return await call.read()
        except grpc.aio.AioRpcError as exc:
            err = self._refused(exc, schema)
            if exc.code() is grpc.StatusCode.UNAVAILABLE and not begun:
                raise _PassingError(err) from exc
            raise err from exc
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def _tried(self, once: Any) -> Any:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            return await retrying(once)
        except _PassingError as exc:
            raise exc.err from exc

    def _refused(self, exc: grpc.aio.AioRpcError, schema: bool) -> WeftError:
        said = " ".join((exc.details() or "").split())[:300]
        code = exc.code()
        if code in _OF_THE_REQUEST:
            reason = Reason.SCHEMA_INVALID if schema else Reason.INVALID_FIELD
            field = "response_format.json_schema" if schema else "sampling"
            return error(reason, f"{field}: {self.name} refuses it: {said}", field=field, server=self.name)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return self._unavailable("is no gRPC server of vLLM's, or too old a one")
        return self._unavailable(f"can't answer ({code.name}): {said}", code)

    def _unavailable(self, problem: str, code: grpc.StatusCode | None = None) -> WeftError:
        told = {"status": code.name} if code is not None else {}
        return error(Reason.MODEL_UNAVAILABLE, f"{self.name} {problem}", server=self.name, problem=problem, **told)


def _params(info: Info, sampling: Sampling, max_tokens: int, schema: Mapping[str, Any] | None) -> pb.SamplingParams:
    """Sampling as the request says, else as the model asks for, else greedy."""
    given = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k")}
    given |= {"presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty}
    asked = {name: value for name, value in given.items() if value is not None}
    known: dict[str, Any] = {"temperature": 0.0, **info.sampling, **asked}
    known["top_k"] = max(0, int(known.get("top_k", 0)))
    params = pb.SamplingParams(max_tokens=max_tokens, **known)
    if sampling.seed is not None:
        params.seed = sampling.seed % _SEEDS
    if schema is not None:
        params.json_schema = json.dumps(dict(schema))
    return params

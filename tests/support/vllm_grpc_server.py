"""A real gRPC server that speaks as vLLM's does, with a script in place of an engine: for tests without vLLM.

Every byte of a text is a token, 256 ends an answer, and two tokens come at a time. Its tokenizer is a real one,
given away as a zip file. An answer goes on where the prompt ends with its beginning.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import grpc

from weft.vllm.v1 import engine_pb2 as pb

SERVICE = "vllm.grpc.engine.VllmEngine"
END_TOKEN = 256
CONTEXT_TOKENS = 100_000
TOKENS_AT_ONCE = 2
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def tokenizer_files(**more: str) -> dict[str, str]:
    """The files of a tokenizer whose tokens are bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    byte_of = {char: byte for byte, char in enumerate(_byte_chars())}
    tokenizer = Tokenizer(models.BPE(vocab=byte_of, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    configuration = {"eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}
    return {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(configuration), **more}


def _byte_chars() -> list[str]:
    """The signs by which byte-level tokenizers write bytes, in their order."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256))
    return [chr(byte) if byte in own else chr(256 + next(others)) for byte in range(256)]


def packed(files: dict[str, str]) -> bytes:
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


class VllmGrpcServer:
    """What it says, and what it saw.

    Attributes:
        text: the answer to everything.
        delay_s: before each step.
        fault: raised instead of an answer: before the first token, or after `fault_after` steps.
        files: of the tokenizer.
        requests: those of Generate so far.
        running: answers being made.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.delay_s = 0.0
        self.fault: grpc.StatusCode | None = None
        self.fault_after = 0
        self.finish = ""
        self.files = tokenizer_files()
        self.sha256: str | None = None
        self.sampling = "{}"
        self.requests: list[pb.GenerateRequest] = []
        self.running = 0
        self.port = 0

    def url(self, more: str = "") -> str:
        return f"vllm+grpc://127.0.0.1:{self.port}{more}"

    def handler(self) -> grpc.GenericRpcHandler:
        def stream(method: Callable[..., Awaitable[None]], request: Any) -> grpc.RpcMethodHandler:
            return grpc.unary_stream_rpc_method_handler(
                method, request.FromString, lambda message: message.SerializeToString()
            )

        methods = {
            "GetModelInfo": stream(self._info, pb.GetModelInfoRequest),
            "GetTokenizer": stream(self._tokenizer, pb.GetTokenizerRequest),
            "GetLoads": stream(self._loads, pb.GetLoadsRequest),
            "Generate": stream(self._generate, pb.GenerateRequest),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _info(self, request: Any, context: Any) -> None:
        await context.write(
            pb.GetModelInfoResponse(
                served_model_name="scripted",
                max_context_length=CONTEXT_TOKENS,
                vocab_size=END_TOKEN + 1,
                eos_token_ids=[END_TOKEN],
                default_sampling_params_json=self.sampling,
            )
        )

    async def _tokenizer(self, request: Any, context: Any) -> None:
        content = packed(self.files)
        half = len(content) // 2
        await context.write(pb.GetTokenizerChunk(data=content[:half]))
        told = hashlib.sha256(content).hexdigest() if self.sha256 is None else self.sha256
        await context.write(pb.GetTokenizerChunk(data=content[half:], sha256=told))

    async def _loads(self, request: Any, context: Any) -> None:
        load = pb.SchedulerLoad(num_running_reqs=self.running, num_waiting_reqs=7, token_usage=0.25)
        await context.write(pb.GetLoadsResponse(loads=[load]))

    async def _generate(self, request: pb.GenerateRequest, context: Any) -> None:
        self.requests.append(request)
        self.running += 1
        try:
            await self._answer(request, context)
        finally:
            self.running -= 1

    async def _answer(self, request: pb.GenerateRequest, context: Any) -> None:
        answer = [*self.text.encode(), END_TOKEN]
        ids = list(request.tokenized.input_ids)
        said = next(count for count in range(len(answer) - 1, -1, -1) if ids[len(ids) - count :] == answer[:count])
        limit = min(len(answer), said + request.sampling_params.max_tokens)
        for step, start in enumerate(range(said, limit, TOKENS_AT_ONCE)):
            await asyncio.sleep(self.delay_s)
            if self.fault is not None and step >= self.fault_after:
                await context.abort(self.fault, "as told")
            tokens = answer[start : min(limit, start + TOKENS_AT_ONCE)]
            await context.write(pb.GenerateResponse(chunk=pb.GenerateChunk(token_ids=tokens)))
        finish = self.finish or ("stop" if limit == len(answer) else "length")
        await context.write(pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason=finish)))


@contextmanager
def vllm_grpc_server(text: str, port: int = 0) -> Iterator[VllmGrpcServer]:
    """Serve on a port, a free one if it is 0, in a thread with a loop of its own."""
    served = VllmGrpcServer(text)
    ready: Future[int] = Future()
    done = threading.Event()

    async def serve() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((served.handler(),))
        ready.set_result(server.add_insecure_port(f"127.0.0.1:{port}"))
        await server.start()
        await asyncio.to_thread(done.wait)
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    served.port = ready.result(10)
    try:
        yield served
    finally:
        done.set()
        thread.join()

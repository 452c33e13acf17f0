"""Tokens through the generator service, beside vLLM's AsyncLLM alone, in alternating rounds of one run.

    make vllm && .venv-vllm/bin/python -m benchmarks.generator [--seconds 10] [--rounds 3] [--callers 32] [--layers 16]

One process holds one engine (a Llama in float32, made on the spot) and three ways to it. By default its 16 layers take
about 18 ms a step with 32 answers, like a model of 8 billion weights on one GPU; with `--layers 4` it says
three times as many tokens, and what the service does for each weighs three times as heavily:

    bare        AsyncLLM.generate, called in that process: vLLM's own text, token by token as is its default, no wire
    service     what wiring.py puts around a model (template, accounting, admission, citations), served over gRPC,
                pieces coalesced as in a real process: every 0.1 s with 32 answers at once, and the engine is asked
                to tell its tokens no oftener
    uncoalesced the same, each piece a message

All three answer the same prompts, the ids that the service makes of the questions, with answers of 64 to 192 tokens:
with equal ones the bare engine runs in lockstep, all answers ending in one step. Callers of the service are another
process on the same processors, and count against it, and so does whatever else the machine does: the service is more
processes than the engine alone, and loses more to others.

**Rate** is tokens a second of `--callers` in closed loop, from the first question to the last answer; **first** is the
time to the first text at one caller, its median over a round. Ratios and differences are of neighbouring rounds; their
medians count. Exits with 1 below the floors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
from opentelemetry.trace import NoOpTracer
from rich.console import Console
from rich.table import Table

from mesh.load import LoadMeter
from mesh.plugins import Url, load
from mesh.server import Binding, MeshServer
from mesh.settings import LoadWeights
from mesh.telemetry import Metrics
from services.generator.accounting import Accounts
from services.generator.admission.admission import Admission
from services.generator.generation import COALESCE_INTERVAL_S, Generator
from services.generator.servicer import GeneratorServicer
from services.generator.settings import MODELS, GeneratorOptions
from services.generator.templates.library import open_templates
from tests.support import vllm_engine
from weft.generator.v1 import generator_pb2 as pb
from weft.generator.v1 import generator_pb2_grpc as pb_grpc

LEAST_RATIO: Final = 0.9
MOST_ADDED_MS: Final = 10.0
QUESTIONS: Final = 64
SERVICE: Final = pb.DESCRIPTOR.services_by_name["GeneratorService"]
Ask = Callable[[int], Awaitable[tuple[float, int]]]
"""Has a question answered; returns when the first text was there, in seconds, and how many tokens it took."""


async def closed_loop(ask: Ask, callers: int, seconds: float) -> dict[str, float]:
    """Ask without a pause until the time is over; returns tokens a second and the median time to the first text."""
    numbers = count()
    began_s = time.perf_counter()
    firsts_s: list[float] = []
    tokens = 0

    async def caller() -> None:
        nonlocal tokens
        while time.perf_counter() - began_s < seconds:
            first_s, answered = await ask(next(numbers) % QUESTIONS)
            firsts_s.append(first_s)
            tokens += answered

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"rate": tokens / (time.perf_counter() - began_s), "first_ms": statistics.median(firsts_s) * 1_000}


# -- the process with the engine ------------------------------------------------------------------------------


async def host(model_path: Path) -> None:
    """Serve, tell the ports, then do what standard input says, a line each."""
    raw = vllm_engine.url(model_path)
    url = Url.parse(raw)
    model = load(MODELS, url).open(url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(model.close)
        await model.start()
        ports = [await _serve(stack, model, raw, interval_s) for interval_s in (COALESCE_INTERVAL_S, 0.0)]
        print(json.dumps(ports), flush=True)
        async for line in _lines():
            asked = json.loads(line)
            found = await closed_loop(
                _bare(model._engine._engine, asked["prompts"]), asked["callers"], asked["seconds"]
            )
            print(json.dumps(found), flush=True)


async def _serve(stack: AsyncExitStack, model: Any, raw: str, interval_s: float) -> int:
    metrics = Metrics(service="generator", instance_id=f"generator-{interval_s}", version="v1")
    options = GeneratorOptions()
    admission = Admission(options, {"tiny": raw}, {}, metrics.registry)
    stack.push_async_callback(admission.close)
    wrapped = Accounts(metrics.registry, {}).around("tiny", admission.around("tiny", model))
    generator = Generator({"tiny": wrapped}, open_templates(), coalesce_interval_s=interval_s)
    server = MeshServer(tracer=NoOpTracer(), metrics=metrics, load=LoadMeter(LoadWeights()))
    binding = Binding(SERVICE, pb_grpc.add_GeneratorServiceServicer_to_server, GeneratorServicer(generator))
    stack.push_async_callback(server.stop, 0)
    return await server.start("127.0.0.1", 0, [binding])


async def _lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


def _bare(engine: Any, prompts: Sequence[Sequence[int]]) -> Ask:
    from vllm import SamplingParams  # only this process has an engine
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    ids = count()

    async def ask(number: int) -> tuple[float, int]:
        began_s, first_s, tokens = time.perf_counter(), 0.0, 0
        kind = RequestOutputKind.DELTA
        params = SamplingParams(temperature=0.0, max_tokens=_max_tokens(number), output_kind=kind)
        async for output in engine.generate(tokens_input(list(prompts[number])), params, f"bare-{next(ids)}"):
            first_s = first_s or time.perf_counter() - began_s
            tokens += len(output.outputs[0].token_ids)
        return first_s, tokens

    return ask


# -- the process that asks --------------------------------------------------------------------------------------


def _max_tokens(number: int) -> int:
    return 64 + number * 37 % 129


def _question(number: int, **options: Any) -> pb.GenerateRequest:
    content = f"Question {number}: when does the café open on day {number}, and when does it close?"
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=content)], **options)


def _served(channel: grpc.aio.Channel) -> Ask:
    """Ask as lightly as can be: of a message that only passes by, a caller reads no more than that it came."""
    generate = channel.unary_stream(
        f"/{SERVICE.full_name}/Generate", request_serializer=pb.GenerateRequest.SerializeToString
    )

    async def ask(number: int) -> tuple[float, int]:
        began_s, first_s, last = time.perf_counter(), 0.0, b""
        wanted = _question(number, sampling=pb.Sampling(max_tokens=_max_tokens(number)))
        answer = generate(wanted, timeout=120)
        await answer.read()  # started
        while (message := await answer.read()) is not grpc.aio.EOF:
            first_s = first_s or time.perf_counter() - began_s
            last = message
        return first_s, pb.GenerateResponse.FromString(last).finished.usage.output_tokens

    return ask


async def measure(process: subprocess.Popen[str], arguments: argparse.Namespace) -> bool:
    """Measure in rounds, print, and say whether all floors hold."""
    assert process.stdout is not None
    assert process.stdin is not None
    ports = json.loads(_answer(await asyncio.to_thread(process.stdout.readline)))
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}")) for port in ports]
        stub = pb_grpc.GeneratorServiceStub(channels[0])
        prompts = []
        for number in range(QUESTIONS):
            wanted = _question(number, include_token_ids=True, sampling=pb.Sampling(max_tokens=1))
            first, *_ = [message async for message in stub.Generate(wanted, timeout=120)]
            prompts.append(list(first.started.prompt_token_ids))

        async def bare(callers: int) -> dict[str, float]:
            asked = {"prompts": prompts, "callers": callers, "seconds": arguments.seconds}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            found: dict[str, float] = json.loads(_answer(await asyncio.to_thread(process.stdout.readline)))
            return found

        ways: dict[str, Callable[[int], Awaitable[dict[str, float]]]] = {
            "bare": bare,
            "service": lambda callers: closed_loop(_served(channels[0]), callers, arguments.seconds),
            "uncoalesced": lambda callers: closed_loop(_served(channels[1]), callers, arguments.seconds),
        }
        many: dict[str, list[float]] = {name: [] for name in ways}
        one: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                many[name].append((await way(arguments.callers))["rate"])
            for name, way in ways.items():
                one[name].append((await way(1))["first_ms"])
    return _report(many, one, arguments)


def _answer(line: str) -> str:
    if not line:
        raise SystemExit("the process with the engine has ended; what it printed above says why")
    return line


def _report(many: dict[str, list[float]], one: dict[str, list[float]], arguments: argparse.Namespace) -> bool:
    table = Table("way", f"tokens/s at {arguments.callers}", "of bare", "first text at 1, ms", "added, ms")
    ratios, added = {}, {}
    for name in many:
        ratios[name] = statistics.median(a / b for a, b in zip(many[name], many["bare"], strict=True))
        added[name] = statistics.median(a - b for a, b in zip(one[name], one["bare"], strict=True))
        table.add_row(
            name,
            f"{statistics.median(many[name]):,.0f} ({min(many[name]):,.0f}-{max(many[name]):,.0f})",
            f"{ratios[name]:.2f}",
            f"{statistics.median(one[name]):.1f}",
            f"{added[name]:+.1f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    missed = []
    if ratios["service"] < LEAST_RATIO:
        missed.append(f"rate is {ratios['service']:.2f} of bare; the floor is {LEAST_RATIO}")
    if added["service"] > MOST_ADDED_MS:
        missed.append(f"the first text comes {added['service']:.1f} ms later; the bound is {MOST_ADDED_MS:.0f} ms")
    for line in missed:
        console.print(f"MISSED: {line}")
    return not missed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--layers", type=int, default=16, help="of the model: how long a step takes")
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)  # the process with the engine
    arguments = parser.parse_args(argv)
    if arguments.host is not None:
        asyncio.run(host(arguments.host))
        return 0
    with tempfile.TemporaryDirectory() as place:
        made = [sys.executable, "-m", "tests.support.tiny_llama", place, str(arguments.layers)]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, "-m", "benchmarks.generator", "--host", place]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                return 0 if asyncio.run(measure(process, arguments)) else 1
            finally:
                assert process.stdin is not None
                process.stdin.close()  # it ends when there is nothing more to do


if __name__ == "__main__":
    raise SystemExit(main())

"""An application with an OpenTelemetry provider of its own, asking through the SDK: its traces, by name.

    python -m tests.support.traced HOST:PORT COLLECTOR_HOST:PORT FOLDER

It prints one JSON object, name -> {trace_id, events}, in the order of ``SCENARIOS``. Every turn comes behind
another one, so that the orchestrator's list of tools is fresh and no refresh falls into it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import weft

QUESTION = "How many hours a day does a ferret sleep?"
MODELS = {
    "extractive": "extractive:",
    "slow": "scripted:?tokens=400&delay_ms=50",
    "broken": "scripted:?tokens=20&delay_ms=20&fail_after=3&resume=false",
}
Scenario = Callable[[weft.Client, trace.Tracer, str], Awaitable[dict[str, Any]]]


async def turn(client: weft.Client, question: str = QUESTION, **options: Any) -> dict[str, Any]:
    """A whole turn; its answer must agree with its first event on the trace."""
    kinds: list[str] = []
    trace_id = ""
    async with client.stream(question, **options) as stream:
        async for event in stream:
            kinds.append(type(event).__name__)
            if isinstance(event, weft.Started):
                trace_id = event.trace_id
    assert stream.answer is not None
    assert stream.answer.trace_id == trace_id
    return {"trace_id": trace_id, "events": kinds}


async def failing(client: weft.Client, **options: Any) -> dict[str, Any]:
    """A turn that ends in an error, which names its trace."""
    try:
        answer = await client.ask(QUESTION, **options)
    except weft.WeftError as exc:
        assert exc.trace_id is not None
        return {"trace_id": exc.trace_id, "events": [exc.reason]}
    raise AssertionError(f"it did not fail: {answer}")


async def left(client: weft.Client, *, by_cancelling: bool) -> dict[str, Any]:
    """A turn whose caller goes away while the model writes."""
    trace_id, texts = "", 0
    begun = asyncio.Event()

    async def read() -> None:
        nonlocal trace_id, texts
        async with client.stream(QUESTION, model="slow") as stream:
            async for event in stream:
                if isinstance(event, weft.Started):
                    trace_id = event.trace_id
                elif isinstance(event, weft.TextDelta):
                    texts += 1
                    begun.set()
                    if texts == 3 and not by_cancelling:
                        return

    task = asyncio.create_task(read())
    await begun.wait()
    if by_cancelling:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return {"trace_id": trace_id, "events": []}


async def joined(tracer: trace.Tracer, call: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """A call within the application's own span, whose trace it must join."""
    with tracer.start_as_current_span("app") as span:
        await call()
    return {"trace_id": trace.format_trace_id(span.get_span_context().trace_id), "events": []}


SCENARIOS: dict[str, Scenario] = {
    "ingest": lambda client, tracer, folder: joined(tracer, lambda: client.ingest(folder)),
    "search": lambda client, tracer, _: joined(tracer, lambda: client.search(QUESTION)),
    "retrieval": lambda client, *_: turn(client),
    "no tools allowed": lambda client, *_: turn(client, tools=[]),
    "two tools": lambda client, *_: turn(client, "What is 12 times 7, and how many feet are 3 metres?"),
    "a tool that searches": lambda client, *_: turn(client, "Search the documents for ferret"),
    "a tool that fails": lambda client, *_: turn(client, "What is 1/0?"),
    "within the application's span": lambda client, tracer, _: joined(tracer, lambda: client.ask(QUESTION)),
    "the request's fault": lambda client, *_: failing(client, collection="nowhere"),
    "the model's fault": lambda client, *_: failing(client, model="broken"),
    "left by closing": lambda client, *_: left(client, by_cancelling=False),
    "left by cancelling": lambda client, *_: left(client, by_cancelling=True),
}


async def main() -> None:
    mesh, collector, folder = sys.argv[1:]
    provider = TracerProvider(resource=Resource({"service.name": "app", "service.instance.id": "app-1"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"http://{collector}", insecure=True)))
    tracer = provider.get_tracer("test")
    found = {}
    async with weft.Client(mesh, tracer_provider=provider) as client, weft.Client(mesh) as untraced:
        for name, scenario in SCENARIOS.items():
            if name not in ("ingest", "search"):
                await untraced.ask(QUESTION)
            found[name] = await scenario(client, tracer, folder)
    provider.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())

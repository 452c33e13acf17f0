"""A real service with an injected delay: what a slow vector store or a slow tool does to a turn.

    python -m benchmarks.slow retriever Search 180 180
    python -m benchmarks.slow tools CallTool 200 800     each call waits 200 to 800 ms, by its arguments

It registers and serves like any other instance; only the named method waits first.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from mesh.app import Runtime, run
from mesh.server import Binding


def delay_s(request: Any, low_ms: float, high_ms: float) -> float:
    """The same request always waits the same time, so that both ways of asking wait alike."""
    request_bytes = request.arguments.SerializeToString(deterministic=True) if hasattr(request, "arguments") else b""
    return random.Random(request_bytes).uniform(low_ms, high_ms) / 1_000


def main() -> None:
    service, method, low_ms, high_ms = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    settings = importlib.import_module(f"services.{service}.settings").Settings
    build = importlib.import_module(f"services.{service}.wiring").build

    @asynccontextmanager
    async def slow_build(values: Any, runtime: Runtime) -> AsyncIterator[Sequence[Binding]]:
        async with build(values, runtime) as bindings:
            yield [
                replace(binding, servicer=_slowed(binding.servicer, method, low_ms, high_ms)) for binding in bindings
            ]

    run(settings, slow_build, argv=[])


def _slowed(servicer: Any, method: str, low_ms: float, high_ms: float) -> Any:
    quick = getattr(servicer, method, None)
    if quick is not None:

        async def slow(request: Any, context: Any) -> Any:
            await asyncio.sleep(delay_s(request, low_ms, high_ms))
            return await quick(request, context)

        setattr(servicer, method, slow)
    return servicer


if __name__ == "__main__":
    main()

"""What a span costs: the SDK's beside the one that Weft records, in alternating rounds.

    python -m benchmarks.spans [--rounds 9]

A span as the services make it: below a parent, made current, two attributes at its begin and three behind. Counted is
the processor's time on the thread that makes it; what sends it is the same for both. Exits with 1 where the ratio is
under its floor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Tracer
from rich.console import Console

from mesh.telemetry.recording import FinishedSpan, RecordingTracer

FLOOR: Final = 2.0
SPANS: Final = 5_000
_BEGIN: Final = {"rpc.system.name": "grpc", "rpc.method": "weft.retriever.v1.RetrieverService/Search"}


class Forget(SpanProcessor):
    """The end of the pipeline."""

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing is sent."""


def forget(_span: FinishedSpan) -> None:
    """The same for ours."""


def round_us(tracer: Tracer) -> float:
    """Microseconds a span, of SPANS of them."""
    with tracer.start_as_current_span("parent"):
        begun_s = time.thread_time()
        for number in range(SPANS):
            with tracer.start_as_current_span("stage", kind=SpanKind.CLIENT, attributes=_BEGIN) as span:
                span.set_attribute("weft.tenant", "default")
                span.set_attribute("weft.request_id", "0f3c")
                span.set_attribute("weft.hits", number)
        return (time.thread_time() - begun_s) / SPANS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    provider = TracerProvider(
        resource=Resource.create({"service.name": "bench"}), span_limits=SpanLimits(max_attribute_length=8_192),
        shutdown_on_exit=False,
    )  # fmt: skip
    provider.add_span_processor(Forget())
    stock = provider.get_tracer("bench")
    ours = RecordingTracer(stock, provider.resource, InstrumentationScope("bench"), forget, 8_192)
    rounds = [(round_us(stock), round_us(ours)) for _ in range(arguments.rounds)]
    ratio = statistics.median(sdk / own for sdk, own in rounds)
    console = Console()
    console.print(
        f"a span: SDK {statistics.median(sdk for sdk, _ in rounds):.1f} µs, "
        f"recorded here {statistics.median(own for _, own in rounds):.1f} µs, ratio {ratio:.1f} (floor {FLOOR})"
    )
    raise SystemExit(0 if ratio >= FLOOR else 1)


if __name__ == "__main__":
    main()

"""Finished spans, from the event loop to a collector, at a bounded cost.

    span.end() ─> queue (4,096) ─> thread: every 0.5 s, or 512 spans, one OTLP call ─> collector

The SDK has a batch processor too. This one differs where a service on one event loop feels it:

- a collector that can't be reached costs nothing: after a failed call spans are dropped at the door
  for 5 s, then 10, 20, 30, until a try succeeds. One warning is logged per outage, and one line at its end;
- what is lost is counted (``dropped``), what arrived too (``sent``);
- ``shutdown`` keeps to its time whatever the network does;
- encoding holds the interpreter's lock for a fraction of a millisecond at a time, then lets the loop run.

The call itself, with its TLS, headers and compression (``OTEL_EXPORTER_OTLP_*``), is the stock
exporter's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Final, cast
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from mesh.telemetry.otlp import SpanEncoder
from mesh.telemetry.recording import FinishedSpan

_MAX_QUEUED_SPANS: Final = 4_096
_MAX_BATCH_SPANS: Final = 512
_DELAY_S: Final = 0.5
_CALL_TIMEOUT_S: Final = 3.0
_PAUSES_S: Final = (5.0, 10.0, 20.0, 30.0)
_EXPORTER_LOGGER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_log = logging.getLogger(__name__)


class SpanSender(SpanProcessor):
    """Queues finished spans and sends them from a thread of its own.

    Attributes:
        sent: spans that the collector took.
        dropped: spans that never reached it: queue full, collector away, or process over.
    """

    def __init__(self, endpoint: str) -> None:
        self.sent = 0
        self._refused = 0  # by the event loop's thread alone
        self._lost = 0  # by the sending thread alone
        self._endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        self._reasons = _LastMessage()
        logging.getLogger(_EXPORTER_LOGGER).addFilter(self._reasons)
        self._exporter = _Exporter(self._endpoint)
        self._queue: deque[FinishedSpan] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._away = False
        self._sending = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="otlp-spans", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that never reached the collector."""
        return self._refused + self._lost

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do: a span counts when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished span of the SDK's."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.take(span)

    def take(self, span: FinishedSpan) -> None:
        """Take a finished span. Never waits."""
        queue = self._queue
        if self._away or self._stopping or len(queue) >= _MAX_QUEUED_SPANS:
            self._refused += 1
            return
        queue.append(span)
        if len(queue) == _MAX_BATCH_SPANS:
            self._wake.set()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the queue is empty. Blocks: for scripts and tests, not for the event loop."""
        end_s = time.monotonic() + timeout_millis / 1_000
        while self._queue or self._sending:
            self._wake.set()
            if time.monotonic() > end_s or not self._thread.is_alive():
                return False
            time.sleep(0.005)
        return True

    async def stop(self, timeout_s: float) -> None:
        """Send what is queued and stop, within ``timeout_s``."""
        self._stop()
        await asyncio.to_thread(self._thread.join, timeout_s)
        self._release()

    def shutdown(self) -> None:
        """The SDK's way to ``stop``, blocking, for 2 s at most."""
        self._stop()
        self._thread.join(2.0)
        self._release()

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _release(self) -> None:
        self._exporter.shutdown()  # breaks off a call that still runs; the thread then ends
        logging.getLogger(_EXPORTER_LOGGER).removeFilter(self._reasons)

    # -- the sending thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_DELAY_S)
            self._wake.clear()
            # What is there now; what comes meanwhile waits for the next round, or calls would be many and small.
            for _ in range(ceil(len(self._queue) / _MAX_BATCH_SPANS)):
                if not self._away:
                    self._send()
            if self._away:
                self._pause()
        while self._queue:
            if self._away:
                self._lost += len(self._queue)
                self._queue.clear()
            else:
                self._send()

    def _send(self) -> None:
        self._sending = True
        try:
            self._send_batch()
        finally:
            self._sending = False

    def _send_batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH_SPANS))]
        try:
            ok = self._exporter.export(cast(Sequence[ReadableSpan], batch)) is SpanExportResult.SUCCESS
        except Exception as exc:  # a defect in a span must not end the thread
            ok, self._reasons.text = False, f"{type(exc).__name__}: {exc}"
        if ok:
            self.sent += len(batch)
            if self._failures:
                _log.info("traces: %s answers again; %d spans were lost", self._endpoint, self.dropped)
            self._failures = 0
            return
        self._lost += len(batch)
        self._away = True
        self._failures += 1
        if self._failures == 1 and not self._stopping:
            _log.warning(
                "traces: cannot send to %s, spans are dropped meanwhile: %s", self._endpoint, self._reasons.text
            )

    def _pause(self) -> None:
        self._lost += len(self._queue)
        self._queue.clear()
        pause_s = _PAUSES_S[min(self._failures, len(_PAUSES_S)) - 1]
        end_s = time.monotonic() + pause_s
        while not self._stopping and (left_s := end_s - time.monotonic()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()
        self._away = self._stopping


class _Exporter(OTLPSpanExporter):
    """The stock exporter with our encoder."""

    def __init__(self, endpoint: str) -> None:
        local = urlsplit(endpoint).hostname in _LOOPBACK  # a web proxy has no business on loopback
        options = (("grpc.enable_http_proxy", 0),) if local else ()
        super().__init__(endpoint=endpoint, timeout=_CALL_TIMEOUT_S, channel_options=options)  # type: ignore[arg-type]
        self._encoder = SpanEncoder()

    def _translate_data(self, data: Sequence[FinishedSpan]) -> ExportTraceServiceRequest:
        return self._encoder.encode(data)


class _LastMessage(logging.Filter):
    """Keeps the exporter's complaints out of the log, and the last one for our own warning."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage()
        return False

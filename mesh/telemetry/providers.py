"""Traces, metrics and logs of one process, put together once at its start."""

from __future__ import annotations

from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer

from mesh.telemetry.logs import LogPipeline
from mesh.telemetry.logs import configure as configure_logs
from mesh.telemetry.metrics import Metrics
from mesh.telemetry.recording import FinishedSpan, RecordingTracer
from mesh.telemetry.spans import SpanSender

_LOG_SHARE_OF_SHUTDOWN: Final = 0.25
_MAX_ATTRIBUTE_CHARS: Final = 8_192  # a prompt, recorded by opt-in, must not fill the queue


class Telemetry:
    """What ``setup`` made.

    Attributes:
        tracer_provider: for libraries that want one; our own code asks ``tracer``.
        metrics: the registry and the metrics that every service has.
        logs: the pipeline behind Python's ``logging``.
    """

    def __init__(
        self, tracer_provider: TracerProvider, metrics: Metrics, logs: LogPipeline, sender: SpanSender | None
    ) -> None:
        self.tracer_provider = tracer_provider
        self.metrics = metrics
        self.logs = logs
        self._sender = sender

    def tracer(self, name: str) -> Tracer:
        """A tracer whose spans carry ``name`` as their scope, usually the module's."""
        provider = self.tracer_provider
        stock = provider.get_tracer(name)
        if provider.sampler is not DEFAULT_ON:  # the operator's wish
            return stock
        take = _nowhere if self._sender is None else self._sender.take
        return RecordingTracer(stock, provider.resource, InstrumentationScope(name), take, _MAX_ATTRIBUTE_CHARS)

    async def shutdown(self, timeout_s: float) -> None:
        """Send what is left, spans first, and stop; what can't be sent within ``timeout_s`` is lost.

        Call it last: a span ended or a line logged later goes nowhere.
        """
        if self._sender is not None:
            await self._sender.stop(timeout_s * (1 - _LOG_SHARE_OF_SHUTDOWN))
        await self.logs.stop(timeout_s * _LOG_SHARE_OF_SHUTDOWN)


def setup(
    *,
    service: str,
    instance_id: str,
    version: str,
    zone: str = "",
    otlp_endpoint: str | None = None,
    log_level: str = "info",
    log_format: str = "auto",
) -> Telemetry:
    """Set up this process's telemetry.

    Args:
        service: name in the mesh, such as ``retriever``; ``service.name`` of spans, ``service`` of log lines.
        instance_id: this process among its siblings.
        version: label by which routes tell versions apart, such as ``v1``.
        zone: failure domain, may be empty.
        otlp_endpoint: where spans go, ``http://host:port`` or ``https://host:port`` (OTLP over gRPC). None or
            empty: spans are made, so that trace ids travel and appear in logs, and sent nowhere.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json``, ``console``, or ``auto``: console on a terminal, else JSON.
    """
    metrics = Metrics(service=service, instance_id=instance_id, version=version, zone=zone)
    logs = configure_logs(service=service, instance_id=instance_id, level=log_level, log_format=log_format)
    metrics.count_from("weft_log_records_dropped", "Log lines that found the queue full", lambda: logs.dropped)
    attributes = {"service.name": service, "service.instance.id": instance_id, "service.version": version}
    if zone:
        attributes["cloud.availability_zone"] = zone
    provider = TracerProvider(
        resource=Resource.create(attributes),
        span_limits=SpanLimits(max_attribute_length=_MAX_ATTRIBUTE_CHARS),
        shutdown_on_exit=False,
    )
    sender = None
    if otlp_endpoint:
        sender = SpanSender(otlp_endpoint)
        provider.add_span_processor(sender)
        metrics.count_from("weft_spans_sent", "Spans that the collector took", lambda: sender.sent)
        metrics.count_from("weft_spans_dropped", "Spans that never reached the collector", lambda: sender.dropped)
    return Telemetry(provider, metrics, logs, sender)


def _nowhere(_span: FinishedSpan) -> None:
    """Where spans go that nobody collects."""

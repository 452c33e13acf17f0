"""The local collector: OTLP in, a ring of the last traces, ``weft trace`` out. Its own small process.

    exporters ──Export──> intake ──> TraceRing <── TraceService <──GetTrace, ListTraces── weft trace

It keeps traces in memory and forwards nothing: for more, point ``OTEL_EXPORTER_OTLP_ENDPOINT`` at any
OTLP collector instead. ``python -m mesh.telemetry.collector`` runs it; it doesn't register.
"""

"""What a process tells about itself: traces, logs, metrics, and the small collector that keeps traces.

    setup() ──> Telemetry
                ├── tracer(name)   spans, sent as OTLP in batches by a thread of its own   (spans.py)
                ├── metrics        one Prometheus registry, scraped at /metrics             (metrics.py)
                ├── logs           JSON lines with trace ids, written by another thread     (logs.py)
                └── shutdown(s)    flushes both threads within the time it is given

Nothing here is global except what Python makes so: the logging tree belongs to the last ``setup``.
No part may slow the service down or stop it: every queue is bounded, and what does not fit is
dropped and counted.
"""

from __future__ import annotations

from mesh.telemetry.metrics import MethodMetrics, Metrics
from mesh.telemetry.providers import Telemetry, setup

__all__ = ["MethodMetrics", "Metrics", "Telemetry", "setup"]

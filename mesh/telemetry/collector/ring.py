"""The last traces, in memory, within four bounds whatever comes in.

Spans arrive one by one, from several processes and in any order; those of one trace are gathered under
its id. A trace that is new takes its place at the end of the ring; when the ring holds too many traces
or bytes, those at its beginning go. A trace that is full takes no further spans. A span of a trace
that went is dropped: it would come back as a fragment and push out a whole one.

Spans are kept as the bytes that came: a decoded message would keep its whole request alive.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

_SPAN_OVERHEAD_BYTES: Final = 200  # what Python adds to a span's bytes, about


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """One span: who did it, and the OTLP message."""

    service: str
    instance: str
    data: bytes

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.data) + len(self.service) + len(self.instance) + _SPAN_OVERHEAD_BYTES


@dataclass(slots=True)
class StoredTrace:
    """The spans of one trace so far. ``sequence`` counts traces by their first span's arrival."""

    trace_id: str  # 32 hex digits
    sequence: int
    spans: list[StoredSpan] = field(default_factory=list)
    bytes: int = 0


class TraceRing:
    """A bounded collection of traces. For one thread.

    Attributes:
        max_traces: how many are kept at the most.
        added: spans kept, ever.
        dropped: spans refused, ever.
        evicted: traces that made room, ever.
        bytes: what the spans take now.
    """

    def __init__(self, *, max_traces: int, max_spans_per_trace: int, max_trace_bytes: int, max_bytes: int) -> None:
        self.max_traces = max_traces
        self._max_spans_per_trace = max_spans_per_trace
        self._max_trace_bytes = min(max_trace_bytes, max_bytes)
        self._max_bytes = max_bytes
        self._traces: OrderedDict[str, StoredTrace] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()  # ids of traces evicted lately
        self._sequence = 0
        self.added = self.dropped = self.evicted = self.bytes = 0

    def __len__(self) -> int:
        return len(self._traces)

    def add(self, trace_id: str, span: StoredSpan) -> bool:
        """Keep ``span``; False when its trace is full or gone."""
        trace = self._traces.get(trace_id)
        size = span.bytes
        if trace is None:
            if trace_id in self._gone or size > self._max_trace_bytes:
                self.dropped += 1
                return False
            self._sequence += 1
            trace = self._traces[trace_id] = StoredTrace(trace_id, self._sequence)
        elif len(trace.spans) >= self._max_spans_per_trace or trace.bytes + size > self._max_trace_bytes:
            self.dropped += 1
            return False
        trace.spans.append(span)
        trace.bytes += size
        self.bytes += size
        self.added += 1
        while len(self._traces) > self.max_traces or self.bytes > self._max_bytes:
            self._evict()
        return True

    def find(self, prefix: str) -> list[StoredTrace]:
        """Traces whose id begins with ``prefix``, in lower-case hex digits."""
        exact = self._traces.get(prefix)
        if exact is not None:
            return [exact]
        return [trace for trace_id, trace in self._traces.items() if trace_id.startswith(prefix)]

    def newest(self, count: int, before: int | None = None) -> list[StoredTrace]:
        """At most ``count`` traces, the last to begin first, of those older than sequence ``before``."""
        traces = reversed(self._traces.values())
        return list(islice((t for t in traces if before is None or t.sequence < before), count))

    def _evict(self) -> None:
        trace_id, trace = self._traces.popitem(last=False)
        self.bytes -= trace.bytes
        self.evicted += 1
        self._gone[trace_id] = None
        if len(self._gone) > 2 * self.max_traces:
            self._gone.popitem(last=False)

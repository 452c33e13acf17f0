"""The load that the balancer sees: measured here, reported out of band as ORCA, on a stream of its own.

Per-call trailers say nothing until a stream ends, and our streams are long; so each instance serves
``xds.service.orca.v3.OpenRcaService`` and gRPC's ``client_side_weighted_round_robin`` subscribes to it.

    utilisation = idle + weighted mean of: CPU, calls under way, and what shares a service adds (``add_share``)
    weight, in gRPC's balancer = calls per second / utilisation

The weights are settings (``WEFT_LOAD__*``). A busy replica is picked less.

The balancer's quotient says how much a replica gets done for its utilisation, which is right for short calls. It is
blind for long streams: a replica that finishes none in a second has the weight 0, which means "unknown" to gRPC, and
one that has many under way finishes as many more. So ``_RATE_OF_ROOM`` is added to the calls per second that are
reported: where fewer are done, the utilisation decides, and who has room is picked. And a little is added to every
utilisation: else, of two replicas that do next to nothing, the noise of measuring would make one seem several times
as busy as the other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import psutil
from google.protobuf import duration_pb2
from grpc import aio

from mesh.settings import LoadWeights
from weft.xds.v1 import orca_pb2

_SERVICE: Final = "xds.service.orca.v3.OpenRcaService"
_METHOD: Final = "StreamCoreMetrics"
_MIN_INTERVAL_S: Final = 0.1
_PENDING, _RPS = "pending", "rps"
_IDLE_UTILISATION: Final = 0.05  # never 0: gRPC takes that for "not reported"
_RATE_OF_ROOM: Final = 20.0  # calls per second, added to those that are done


@dataclass(frozen=True, slots=True)
class Load:
    """One reading."""

    cpu: float
    """Share of all cores."""
    pending: float
    """Calls under way."""
    rps: float
    """Calls per second."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """What the service's work fills, by name, 0 to 1: "gpu_memory"."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Other figures of the service, by name: "waiting"."""


class LoadMeter:
    """Counts calls and reads the process's CPU.

    Attributes:
        pending: calls under way; the interceptor keeps it.
        finished: calls finished since the start; the interceptor keeps it.
        closed: set when the server stops; report streams end then.
    """

    def __init__(self, weights: LoadWeights, clock: Callable[[], float] = time.monotonic) -> None:
        self.weights = weights
        self.pending = 0
        self.finished = 0
        self.closed = asyncio.Event()  # ends the report streams, which would outlast any grace
        self._clock = clock
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._process = psutil.Process()
        self._last = (clock(), self._cpu_s(), 0)
        self._reading = Load(0.0, 0.0, 0.0)
        self._shares: dict[str, tuple[Callable[[], float | None], float]] = {}
        self._counts: dict[str, Callable[[], float]] = {}

    def add_share(self, name: str, read: Callable[[], float | None], weight: float) -> None:
        """Report a further share, 0 to 1, which counts in the utilisation with ``weight`` while it is not None."""
        self._shares[name] = read, weight

    def add_count(self, name: str, read: Callable[[], float]) -> None:
        """Report a further figure, for who looks; the balancer doesn't weigh it."""
        self._counts[name] = read

    def read(self) -> Load:
        """The load since the reading before, at least a tenth of a second of it."""
        now_s, cpu_s, finished = self._clock(), self._cpu_s(), self.finished
        then_s, then_cpu_s, then_finished = self._last
        elapsed_s = now_s - then_s
        cpu, rps = self._reading.cpu, self._reading.rps
        if elapsed_s >= _MIN_INTERVAL_S:
            cpu = (cpu_s - then_cpu_s) / elapsed_s / self._cores
            rps = (finished - then_finished) / elapsed_s
            self._last = (now_s, cpu_s, finished)
        told = {name: read() for name, (read, _) in self._shares.items()}
        shares = {name: share for name, share in told.items() if share is not None}
        self._reading = Load(cpu, self.pending, rps, shares, {name: read() for name, read in self._counts.items()})
        return self._reading

    def utilisation(self, load: Load) -> float:
        """The figure that the balancer weighs by: above 0, about 1 for a full replica."""
        weights = self.weights
        parts = [(weights.cpu, load.cpu), (weights.pending, load.pending / weights.pending_full)]
        parts += [(self._shares[name][1], share) for name, share in load.shares.items()]
        total = sum(weight for weight, _ in parts)
        mean = sum(weight * value for weight, value in parts) / total if total else 0.0
        return _IDLE_UTILISATION + mean

    def report(self) -> orca_pb2.OrcaLoadReport:
        """The reading as an ORCA report."""
        load = self.read()
        report = orca_pb2.OrcaLoadReport(
            cpu_utilization=load.cpu,
            rps_fractional=load.rps + _RATE_OF_ROOM,
            application_utilization=self.utilisation(load),
        )
        report.utilization.update(load.shares)
        report.named_metrics.update({**load.counts, _PENDING: load.pending, _RPS: load.rps})
        return report

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def load_report_handler(meter: LoadMeter) -> grpc.GenericRpcHandler:
    """The ORCA service for a ``grpc.aio`` server: a report at once, then one per interval."""

    async def stream(request: orca_pb2.OrcaLoadReportRequest, context: aio.ServicerContext) -> None:
        wanted_s = request.report_interval.ToMilliseconds() / 1_000
        interval_s = max(wanted_s, meter.weights.report_interval_s, _MIN_INTERVAL_S)
        while not meter.closed.is_set():
            await context.write(meter.report())
            with suppress(TimeoutError):
                await asyncio.wait_for(meter.closed.wait(), interval_s)

    handler = grpc.unary_stream_rpc_method_handler(
        stream,
        request_deserializer=orca_pb2.OrcaLoadReportRequest.FromString,
        response_serializer=orca_pb2.OrcaLoadReport.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})


async def fetch_load(channel: aio.Channel, *, timeout_s: float) -> Load | None:
    """Ask one instance for its load now; None when it doesn't answer in time."""
    call: Any = channel.unary_stream(
        f"/{_SERVICE}/{_METHOD}",
        request_serializer=orca_pb2.OrcaLoadReportRequest.SerializeToString,
        response_deserializer=orca_pb2.OrcaLoadReport.FromString,
    )(orca_pb2.OrcaLoadReportRequest(report_interval=duration_pb2.Duration(seconds=3_600)), timeout=timeout_s)
    try:
        report = await call.read()
    except aio.AioRpcError:
        return None
    finally:
        call.cancel()
    if report is aio.EOF:
        return None
    return Load(
        cpu=report.cpu_utilization,
        pending=report.named_metrics.get(_PENDING, 0.0),
        rps=report.named_metrics.get(_RPS, 0.0),
        shares=dict(report.utilization),
        counts={name: value for name, value in report.named_metrics.items() if name not in (_PENDING, _RPS)},
    )

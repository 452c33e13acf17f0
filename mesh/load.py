"""The load that the balancer sees: measured here, reported out of band as ORCA, on a stream of its own.

Per-call trailers say nothing until a stream ends, and our streams are long; so each instance serves
``xds.service.orca.v3.OpenRcaService`` and gRPC's ``client_side_weighted_round_robin`` subscribes to it.
The utilisation is a weighted mean of CPU, calls under way and GPU memory; the weights are settings
(``WEFT_LOAD__*``). A busy replica is picked less.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
# gRPC takes a utilisation of 0 for "not reported"; an idle replica says this little instead.
_IDLE_UTILISATION: Final = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """One reading. ``cpu`` is a share of all cores, ``gpu_memory`` 0 to 1, ``rps`` calls per second."""

    cpu: float
    pending: float
    gpu_memory: float
    rps: float


class LoadMeter:
    """Counts calls and reads the process's CPU.

    Attributes:
        pending: calls under way; the interceptor keeps it.
        finished: calls finished since the start; the interceptor keeps it.
        extra_pending: further work that waits, such as a queue's length; a service may set it.
        closed: set when the server stops; report streams end then.
        gpu_memory: reads the used share of GPU memory, 0 to 1; None without GPU.
    """

    def __init__(self, weights: LoadWeights, clock: Callable[[], float] = time.monotonic) -> None:
        self.weights = weights
        self.pending = 0
        self.finished = 0
        self.extra_pending: Callable[[], float] = lambda: 0.0
        self.gpu_memory: Callable[[], float] | None = None
        self.closed = asyncio.Event()  # ends the report streams, which would outlast any grace
        self._clock = clock
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._process = psutil.Process()
        self._last = (clock(), self._cpu_s(), 0)
        self._reading = Load(0.0, 0.0, 0.0, 0.0)

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
        gpu = self.gpu_memory() if self.gpu_memory is not None else 0.0
        self._reading = Load(cpu, self.pending + self.extra_pending(), gpu, rps)
        return self._reading

    def utilisation(self, load: Load) -> float:
        """The figure that the balancer weighs by: above 0, about 1 for a full replica."""
        weights = self.weights
        parts = [(weights.cpu, load.cpu), (weights.pending, load.pending / weights.pending_full)]
        if self.gpu_memory is not None:
            parts.append((weights.gpu_memory, load.gpu_memory))
        total = sum(weight for weight, _ in parts)
        mean = sum(weight * value for weight, value in parts) / total if total else 0.0
        return max(_IDLE_UTILISATION, mean)

    def report(self) -> orca_pb2.OrcaLoadReport:
        """The reading as an ORCA report."""
        load = self.read()
        report = orca_pb2.OrcaLoadReport(
            cpu_utilization=load.cpu,
            rps_fractional=load.rps,
            application_utilization=self.utilisation(load),
        )
        report.named_metrics["pending"] = load.pending
        if self.gpu_memory is not None:
            report.utilization["gpu_memory"] = load.gpu_memory
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
        pending=report.named_metrics.get("pending", 0.0),
        gpu_memory=report.utilization.get("gpu_memory", 0.0),
        rps=report.rps_fractional,
    )

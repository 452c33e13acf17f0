"""TraceService: whole traces by id or prefix, and the list of the newest."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from grpc import aio

from mesh.telemetry.collector.convert import to_spans, to_summary
from mesh.telemetry.collector.ring import StoredTrace, TraceRing
from mesh.validation import check_name, check_page, invalid
from weft.errors import Reason, error
from weft.mesh.v1 import trace_pb2, trace_pb2_grpc

_PREFIX: Final = re.compile(r"[0-9a-f]{4,32}")
_TOKEN: Final = re.compile(r"[0-9]{1,18}")
_EXAMPLE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
_DEFAULT_PAGE: Final = 20
_YIELD_EACH_TRACES: Final = 20
_NAMED: Final = 3


class TraceServicer(trace_pb2_grpc.TraceServiceServicer):
    """Reads the ring."""

    def __init__(self, ring: TraceRing) -> None:
        self._ring = ring

    async def GetTrace(self, request: trace_pb2.GetTraceRequest, _: aio.ServicerContext) -> trace_pb2.GetTraceResponse:
        """One trace, spans by start."""
        prefix = request.trace_id.lower()
        check_name("trace_id", prefix, _PREFIX, _EXAMPLE)
        found = self._ring.find(prefix)
        if not found:
            raise error(
                Reason.TRACE_NOT_FOUND,
                f"no trace {prefix!r} among the {len(self._ring)} that are kept: the collector keeps the last "
                f"{self._ring.max_traces:,}, older ones make room, and spans arrive about a second after they end",
                trace_id=prefix,
                kept=len(self._ring),
            )
        if len(found) > 1:
            named = ", ".join(trace.trace_id for trace in found[:_NAMED])
            raise invalid(
                "trace_id", f"{prefix!r} fits {len(found)} traces ({named}…); give more digits", matches=len(found)
            )
        return trace_pb2.GetTraceResponse(trace_id=found[0].trace_id, spans=to_spans(found[0]))

    async def ListTraces(
        self, request: trace_pb2.ListTracesRequest, _: aio.ServicerContext
    ) -> trace_pb2.ListTracesResponse:
        """The newest traces first. A page's token is where it ended, so that new traces shift nothing."""
        size, token = check_page(request.page_size, request.page_token, default_size=_DEFAULT_PAGE)
        before = int(check_name("page_token", token, _TOKEN, "1042").group()) if token else None
        traces: list[StoredTrace] = self._ring.newest(size + 1, before)
        response = trace_pb2.ListTracesResponse(total=len(self._ring))
        for index, trace in enumerate(traces[:size], 1):
            response.traces.append(to_summary(trace))
            if index % _YIELD_EACH_TRACES == 0:
                await asyncio.sleep(0)
        if len(traces) > size:
            response.next_page_token = str(traces[size - 1].sequence)
        return response

"""OTLP's TraceService/Export: takes the spans of one request into the ring.

Registered as a generic handler: it needs no span, deadline or tenant, and a flood of exports must not
count as load. It answers at once and never says "try again": what doesn't fit is dropped, and said so
as OTLP's partial success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import grpc
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from mesh.telemetry.collector.ring import StoredSpan, TraceRing

_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
_YIELD_EACH_SPANS: Final = 500
_MAX_NAME_CHARS: Final = 200


def otlp_handler(ring: TraceRing) -> grpc.GenericRpcHandler:
    """The handler for a server's ``add_generic_rpc_handlers``."""

    async def export(request: ExportTraceServiceRequest, _: aio.ServicerContext) -> ExportTraceServiceResponse:
        rejected = await _take(request, ring)
        response = ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = "malformed ids, or the span's trace is full or gone"
        return response

    method = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {"Export": method})


async def _take(request: ExportTraceServiceRequest, ring: TraceRing) -> int:
    rejected = count = 0
    for of_resource in request.resource_spans:
        service = _text(of_resource.resource.attributes, "service.name") or "unknown"
        instance = _text(of_resource.resource.attributes, "service.instance.id")
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                count += 1
                if count % _YIELD_EACH_SPANS == 0:
                    await asyncio.sleep(0)
                valid = len(span.trace_id) == 16 and len(span.span_id) == 8 and any(span.trace_id)
                data = span.SerializeToString()
                if not valid or not ring.add(span.trace_id.hex(), StoredSpan(service, instance, data)):
                    rejected += 1
    return rejected


def _text(attributes: Iterable[KeyValue], key: str) -> str:
    return next((pair.value.string_value[:_MAX_NAME_CHARS] for pair in attributes if pair.key == key), "")

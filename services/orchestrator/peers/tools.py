"""The Tools port over ToolsService."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from services.orchestrator.peers.leaving import result
from services.orchestrator.types import (
    ArgumentExtractor,
    DocumentScope,
    ExtractorKind,
    ToolAnswer,
    ToolPattern,
    ToolSpec,
)
from weft import wire
from weft.errors import from_rpc_error
from weft.tools.v1 import tools_pb2, tools_pb2_grpc

_PAGE_SIZE: Final = 200
_MAX_PAGES: Final = 50
_KINDS: Final = {
    tools_pb2.EXTRACTOR_KIND_TEXT: ExtractorKind.TEXT,
    tools_pb2.EXTRACTOR_KIND_NUMBER: ExtractorKind.NUMBER,
    tools_pb2.EXTRACTOR_KIND_EXPRESSION: ExtractorKind.EXPRESSION,
    tools_pb2.EXTRACTOR_KIND_DATE: ExtractorKind.DATE,
    tools_pb2.EXTRACTOR_KIND_PAST_DATE: ExtractorKind.PAST_DATE,
    tools_pb2.EXTRACTOR_KIND_CONSTANT: ExtractorKind.CONSTANT,
}


class ToolsPeer:
    """Lists and calls tools over a channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = tools_pb2_grpc.ToolsServiceStub(channel)

    async def specs(self) -> tuple[ToolSpec, ...]:
        """See the port."""
        found: list[ToolSpec] = []
        page_token = ""
        try:
            for _ in range(_MAX_PAGES):
                request = tools_pb2.ListToolsRequest(page_size=_PAGE_SIZE, page_token=page_token)
                response = await self._stub.ListTools(request)
                found += map(_spec, response.tools)
                page_token = response.next_page_token
                if not page_token:
                    break
        except aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return tuple(found)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str,
        today: datetime.date | None,
        scope: DocumentScope,
    ) -> ToolAnswer:
        """See the port."""
        request = tools_pb2.CallToolRequest(name=tool, call_id=call_id, today=today.isoformat() if today else "")
        wire.put_struct(request.arguments, arguments)
        request.scope.collection, request.scope.filter = scope.collection, scope.filter
        wire.put_epoch(request.scope.min_epoch, scope.min_epoch)
        try:
            response = await result(self._stub.CallTool(request))
        except aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        return ToolAnswer(wire.from_struct(response.result), response.text, response.duration.ToNanoseconds() / 1e9)


def _spec(message: tools_pb2.ToolSpec) -> ToolSpec:
    return ToolSpec(
        name=message.name,
        description=message.description,
        input_schema=wire.from_struct(message.input_schema),
        timeout_s=message.timeout.ToNanoseconds() / 1e9,
        patterns=tuple(
            ToolPattern(pattern.regex, tuple(map(_extractor, pattern.arguments))) for pattern in message.patterns
        ),
        hint=message.hint,
        read_only=message.read_only,
    )


def _extractor(message: tools_pb2.ArgumentExtractor) -> ArgumentExtractor:
    return ArgumentExtractor(
        argument=message.argument,
        kind=_KINDS.get(message.kind, ExtractorKind.TEXT),
        group=message.group,
        constant=wire.from_value(message.constant),
        optional=message.optional,
    )

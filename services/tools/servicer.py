"""ToolsService: protobuf in, toolbox, protobuf out."""

from __future__ import annotations

import bisect

from grpc import aio
from opentelemetry import trace

from mesh.validation import check_page
from services.tools import convert
from services.tools.toolbox import Toolbox
from weft import names
from weft.tools.v1 import tools_pb2, tools_pb2_grpc


class ToolsServicer(tools_pb2_grpc.ToolsServiceServicer):
    """Serves one toolbox."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._specs = [convert.spec(spec) for spec in toolbox.specs()]

    async def ListTools(
        self, request: tools_pb2.ListToolsRequest, context: aio.ServicerContext
    ) -> tools_pb2.ListToolsResponse:
        """Every tool, by name. A page token is the last name of the page before."""
        size, after = check_page(request.page_size, request.page_token)
        start = bisect.bisect_right([spec.name for spec in self._specs], after) if after else 0
        page = self._specs[start : start + size]
        more = start + size < len(self._specs)
        return tools_pb2.ListToolsResponse(tools=page, next_page_token=page[-1].name if more else "")

    async def CallTool(
        self, request: tools_pb2.CallToolRequest, context: aio.ServicerContext
    ) -> tools_pb2.CallToolResponse:
        """Run one tool. The span tells which, never its arguments: they are the caller's words."""
        call = convert.call(request, context.invocation_metadata() or ())
        span = trace.get_current_span()
        span.set_attribute(names.GENAI_OPERATION, "execute_tool")
        span.set_attribute(names.GENAI_TOOL_NAME, call.name)
        if call.call_id:
            span.set_attribute(names.GENAI_TOOL_CALL_ID, call.call_id)
        return convert.answer(await self._toolbox.call(call))

"""``weft trace``: a turn as a waterfall, or the list of the newest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from weft_cli.options import AsJson, Data, Mesh, where
from weft_cli.running import run
from weft_cli.settings import Where

if TYPE_CHECKING:
    from weft.mesh.v1 import trace_pb2, trace_pb2_grpc

# Processes send their spans in batches: a trace of a moment ago may still be on its way.
_SETTLE_S: Final = 6.0
_APPEAR_S: Final = 3.0
_ANSWER_S: Final = 2.0
_POLL_S: Final = 0.25


def trace(
    trace_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", hidden=True),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1_000, help="Traces to list.")] = 20,
    mesh: Mesh = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show a trace: every hop, when it began, how long it took, what failed. Without ID, list the newest.

    ID is a trace, or a beginning of 4 digits or more.
    The collector keeps the last 1,000 traces, unless WEFT_COLLECTOR__MAX_TRACES says otherwise.
    """
    run(_trace(trace_id, limit, where(mesh, data), as_json), as_json=as_json)


async def _trace(trace_id: str | None, limit: int, at: Where, as_json: bool) -> None:
    from weft.mesh.v1 import trace_pb2
    from weft_cli.connecting import traces
    from weft_cli.output import print_json
    from weft_cli.waterfall import print_waterfall

    async with traces(at) as stub:
        if trace_id is None:
            listed = await _call(stub.ListTraces(trace_pb2.ListTracesRequest(page_size=limit), timeout=_SETTLE_S))
            summaries = [_summary(item) for item in listed.traces]
            total = max(listed.total, len(summaries))
            print_json({"traces": summaries, "total": total}) if as_json else print_list(summaries, total)
            return
        found = await settled(stub, trace_id)
    if as_json:
        print_json({"trace_id": found.trace_id, "spans": [_span(span) for span in found.spans]})
    else:
        print_waterfall(found.trace_id, found.spans)


async def settled(stub: trace_pb2_grpc.TraceServiceStub, trace_id: str) -> trace_pb2.GetTraceResponse:
    """The trace once all its parts are there, or as much as has come within 6 s; none of it within 3 s is an error.

    A server without a collector of its own sends none: for its spans alone 2 s are enough.
    """
    from weft.errors import NotFound
    from weft.mesh.v1 import trace_pb2
    from weft_cli.waterfall import answered, complete

    begun_s, spans = time.monotonic(), -1
    while True:
        waited_s = time.monotonic() - begun_s
        try:
            found = await _call(stub.GetTrace(trace_pb2.GetTraceRequest(trace_id=trace_id), timeout=_SETTLE_S))
            whole = complete(found.spans) and (answered(found.spans) or waited_s > _ANSWER_S)
            if waited_s > _SETTLE_S or (whole and len(found.spans) == spans):
                return found
            spans = len(found.spans)
        except NotFound as exc:
            if waited_s > _APPEAR_S:  # without the trace of this very call, which would help nobody
                raise NotFound(
                    exc.reason, f"{exc.message}; `weft trace` lists the newest", metadata=dict(exc.metadata)
                ) from exc
        await asyncio.sleep(_POLL_S)


async def _call(call: Awaitable[Any]) -> Any:
    import grpc

    from weft.connection import has_details
    from weft.errors import Reason, error, from_rpc_error

    try:
        return await call
    except grpc.aio.AioRpcError as exc:
        if has_details(exc):
            raise from_rpc_error(exc) from exc
        raise error(
            Reason.DEPENDENCY_UNAVAILABLE,
            f"the collector of this mesh can't be read ({exc.details()}); `weft status` says where traces go",
        ) from exc


def print_list(summaries: list[dict[str, Any]], total: int) -> None:
    """The list as a table, newest first; times are local."""
    from weft_cli.output import print_table, say

    if not summaries:
        say("no traces yet")
        return
    rows = []
    for item in summaries:
        began = datetime.fromtimestamp(item["start_unix_ns"] / 1e9)
        failed = "failed" if item["error"] else "ok"
        took = f"{item['duration_ms']:.1f} ms"
        rows.append(
            (f"{began:%Y-%m-%d %H:%M:%S}", took, failed, item["name"], item["span_count"], item["trace_id"][:16])
        )
    print_table(("STARTED", "DURATION", "STATUS", "ROOT SPAN", "SPANS", "TRACE"), rows)
    more = "; --limit N shows more" if total > len(rows) else ""
    say(f"showing {len(rows)} of {total}, newest first{more}", dim=True)


def _summary(item: trace_pb2.TraceSummary) -> dict[str, Any]:
    return {
        "trace_id": item.trace_id,
        "name": item.name,
        "services": list(item.services),
        "span_count": item.span_count,
        "start_unix_ns": item.start_unix_ns,
        "duration_ms": item.duration_ns / 1e6,
        "error": item.error,
    }


def _span(span: trace_pb2.Span) -> dict[str, Any]:
    from weft.wire import from_struct

    return {
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "name": span.name,
        "kind": span.kind,
        "service": span.service,
        "instance": span.instance,
        "start_unix_ns": span.start_unix_ns,
        "end_unix_ns": span.end_unix_ns,
        "status": span.status,
        "status_message": span.status_message,
        "attributes": from_struct(span.attributes),
        "events": [
            {"name": e.name, "time_unix_ns": e.time_unix_ns, "attributes": from_struct(e.attributes)}
            for e in span.events
        ],
    }

"""Between protobuf and the domain. What comes in is checked here before any tool sees it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import duration_pb2, struct_pb2

from mesh.validation import check_name, check_text, invalid, shorten
from services.tools.types import Answer, Call, Extract, ExtractorKind, Pattern, Scope, ToolSpec
from weft import names, wire
from weft.tools.v1 import tools_pb2

MAX_ARGUMENT_BYTES: Final = 256 * 1024
_MAX_FILTER_CHARS: Final = 2_048
_COLLECTION: Final = re.compile(r"collections/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOG_ID: Final = re.compile(r"[0-9a-f]{32}")
_LARGEST_INTEGER: Final = 2**53  # beyond, a double skips whole numbers
_KINDS: Final = {
    ExtractorKind.TEXT: tools_pb2.EXTRACTOR_KIND_TEXT,
    ExtractorKind.NUMBER: tools_pb2.EXTRACTOR_KIND_NUMBER,
    ExtractorKind.EXPRESSION: tools_pb2.EXTRACTOR_KIND_EXPRESSION,
    ExtractorKind.DATE: tools_pb2.EXTRACTOR_KIND_DATE,
    ExtractorKind.PAST_DATE: tools_pb2.EXTRACTOR_KIND_PAST_DATE,
    ExtractorKind.CONSTANT: tools_pb2.EXTRACTOR_KIND_CONSTANT,
}


def call(request: tools_pb2.CallToolRequest, metadata: Iterable[tuple[str, str | bytes]]) -> Call:
    """The call that came in; its metadata tells whether it is a further attempt.

    Raises:
        WeftError: INVALID_FIELD.
    """
    check_text("name", request.name, max_chars=64, allow_newlines=False)
    check_text("call_id", request.call_id, max_chars=128, min_chars=0, allow_newlines=False)
    size_bytes = request.arguments.ByteSize()
    if size_bytes > MAX_ARGUMENT_BYTES:
        raise invalid(
            "arguments",
            f"have {size_bytes} bytes; at most {MAX_ARGUMENT_BYTES} are allowed",
            size_bytes=size_bytes,
            max_bytes=MAX_ARGUMENT_BYTES,
        )
    tried = any(
        key == names.METADATA_PREVIOUS_ATTEMPTS or (key == names.METADATA_ENVOY_ATTEMPT and value != "1")
        for key, value in metadata
    )
    arguments, today = from_struct(request.arguments), _today(request.today)
    return Call(request.name, arguments, today, request.call_id, tried, _scope(request.scope))


def _scope(given: tools_pb2.DocumentScope) -> Scope:
    if given.collection:
        check_name("scope.collection", given.collection, _COLLECTION, "collections/default")
    check_text("scope.filter", given.filter, max_chars=_MAX_FILTER_CHARS, min_chars=0)
    if given.min_epoch.log_id:
        check_name("scope.min_epoch.log_id", given.min_epoch.log_id, _LOG_ID, "0f" * 16)
    return Scope(given.collection, given.filter, wire.epoch(given.min_epoch))


def _today(given: str) -> datetime.date:
    if not given:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        return datetime.date.fromisoformat(given if len(given) == 10 else "")
    except ValueError:
        raise invalid(
            "today", f"is {shorten(given)!r}; expected a day as YYYY-MM-DD, or nothing", value=shorten(given)
        ) from None


def answer(done: Answer) -> tools_pb2.CallToolResponse:
    """The answer as it goes out."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(done.duration_s * 1e9))
    return tools_pb2.CallToolResponse(result=to_struct(done.output.result), text=done.output.text, duration=duration)


def spec(tool: ToolSpec) -> tools_pb2.ToolSpec:
    """A tool as planners and callers get it."""
    timeout = duration_pb2.Duration()
    timeout.FromMilliseconds(round(tool.timeout_s * 1_000))
    return tools_pb2.ToolSpec(
        name=tool.name,
        description=tool.description,
        input_schema=to_struct(tool.input_schema),
        output_schema=to_struct(tool.output_schema),
        timeout=timeout,
        max_concurrency=tool.max_concurrency,
        read_only=tool.read_only,
        patterns=map(_pattern, tool.patterns),
        hint=tool.hint,
    )


def _pattern(pattern: Pattern) -> tools_pb2.ToolPattern:
    return tools_pb2.ToolPattern(regex=pattern.regex, arguments=map(_extractor, pattern.arguments))


def _extractor(extract: Extract) -> tools_pb2.ArgumentExtractor:
    message = tools_pb2.ArgumentExtractor(
        argument=extract.argument, group=extract.group, kind=_KINDS[extract.kind], optional=extract.optional
    )
    if extract.constant is not None:
        message.constant.CopyFrom(to_struct({"": extract.constant}).fields[""])
    return message


def to_struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """JSON as a Struct."""
    struct = struct_pb2.Struct()
    struct.update(value)
    return struct


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as JSON. Whole numbers become integers: a Struct knows doubles alone."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def _from_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_INTEGER else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(inner) for inner in value.list_value.values]
        case _:
            return None

"""Between protobuf and the domain. What comes in is checked here, field by field, before any model sees it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

from mesh.context import CallContext
from mesh.validation import check_range, check_text, invalid, shorten
from services.generator.types import (
    MAX_OUTPUT_TOKENS,
    Event,
    Finished,
    Message,
    ModelInfo,
    Request,
    Resume,
    Role,
    Sampling,
    Started,
    TemplateRef,
    ToolCall,
    ToolOffer,
)
from weft import wire
from weft.common.v1 import passage_pb2
from weft.generator.v1 import generator_pb2 as pb
from weft.values import Passage

BUCKETS: Final = 100
MAX_MESSAGES: Final = 256
MAX_CONTENT_CHARS: Final = 131_072
MAX_PASSAGES: Final = 64
MAX_PASSAGE_CHARS: Final = 8_192
MAX_TOOLS: Final = 64
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_NAME_CHARS: Final = 256
MAX_PRIORITY: Final = 9
MAX_TOP_K: Final = 1_000

_ROLES: Final[Mapping[int, Role]] = {
    pb.ROLE_SYSTEM: Role.SYSTEM,
    pb.ROLE_USER: Role.USER,
    pb.ROLE_ASSISTANT: Role.ASSISTANT,
    pb.ROLE_TOOL: Role.TOOL,
}


def request(message: pb.GenerateRequest, caller: CallContext) -> Request:
    """Check a request and turn it into the domain's.

    Raises:
        WeftError: INVALID_FIELD with the field's path, what it holds and what is allowed.
    """
    _check_count("messages", len(message.messages), 1, MAX_MESSAGES)
    _check_count("passages", len(message.passages), 0, MAX_PASSAGES)
    _check_count("tools", len(message.tools), 0, MAX_TOOLS)
    messages = tuple(_message(f"messages[{index}]", item) for index, item in enumerate(message.messages))
    if messages[-1].role not in (Role.USER, Role.TOOL):
        last = f"messages[{len(messages) - 1}].role"
        raise invalid(last, "is neither the user's nor a tool's; the last must be", role=messages[-1].role)
    check_range("priority", message.priority, 0, MAX_PRIORITY)
    return Request(
        messages=messages,
        passages=tuple(_passage(f"passages[{index}]", item) for index, item in enumerate(message.passages)),
        model=check_text("model", message.model, max_chars=MAX_NAME_CHARS, min_chars=0, allow_newlines=False),
        tools=tuple(
            ToolOffer(tool.name, tool.description, wire.from_struct(tool.input_schema)) for tool in message.tools
        ),
        sampling=_sampling(message.sampling),
        json_schema=_json_schema(message),
        resume=_resume(message),
        include_token_ids=message.include_token_ids,
        priority=message.priority,
        grounded_only=message.grounded_only if message.HasField("grounded_only") else True,
        query=check_text("query", message.query, max_chars=MAX_CONTENT_CHARS, min_chars=0),
        tenant=caller.tenant,
        bucket=zlib.crc32(caller.request_id.encode()) % BUCKETS if caller.bucket is None else caller.bucket,
        template=_template(message),
        allow_cached=message.allow_cached,
    )


def _check_count(field: str, count: int, low: int, high: int) -> None:
    if not low <= count <= high:
        raise invalid(field, f"has {count} entries; allowed is {low} to {high}", count=count, low=low, high=high)


def _message(field: str, message: pb.Message) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        allowed = ", ".join(pb.Role.Name(number) for number in _ROLES)
        raise invalid(f"{field}.role", f"is {message.role}; allowed is {allowed}", role=message.role)
    content = f"{field}.content"
    if role is Role.TOOL:  # what a tool found is data: it is bounded, not judged
        if len(message.content) > MAX_CONTENT_CHARS:
            raise _too_long(content, len(message.content), MAX_CONTENT_CHARS)
    else:
        least = 0 if role is Role.ASSISTANT and message.tool_calls else 1
        check_text(content, message.content, max_chars=MAX_CONTENT_CHARS, min_chars=least)
    calls = tuple(ToolCall(call.id, call.name, wire.from_struct(call.arguments)) for call in message.tool_calls)
    return Message(role, message.content, calls, message.tool_call_id, message.name)


def _passage(field: str, passage: passage_pb2.Passage) -> Passage:
    for name, text, limit in (
        ("text", passage.text, MAX_PASSAGE_CHARS),
        ("title", passage.title, MAX_PASSAGE_CHARS),
        ("section", passage.section, MAX_PASSAGE_CHARS),
    ):
        if len(text) > limit:
            raise _too_long(f"{field}.{name}", len(text), limit)
    return Passage(passage.name, passage.text, passage.title, passage.section, passage.page, passage.source)


def _too_long(field: str, length: int, limit: int) -> Exception:
    return invalid(field, f"has {length} characters; at most {limit} are allowed", length=length, limit=limit)


def _sampling(sampling: pb.Sampling) -> Sampling:
    _check_count("sampling.stop", len(sampling.stop), 0, MAX_STOPS)
    for index, word in enumerate(sampling.stop):
        if not 1 <= len(word) <= MAX_STOP_CHARS:
            raise invalid(
                f"sampling.stop[{index}]",
                f"is {shorten(word)!r} with {len(word)} characters; allowed is 1 to {MAX_STOP_CHARS}",
                length=len(word),
            )
    top_p = _optional(sampling, "top_p", 0.0, 1.0)
    if top_p == 0.0:
        raise invalid("sampling.top_p", "is 0; it must be above 0, to 1", value=top_p)
    return Sampling(
        temperature=_optional(sampling, "temperature", 0.0, 2.0),
        top_p=top_p,
        top_k=_optional_int(sampling, "top_k", 0, MAX_TOP_K),
        max_tokens=_optional_int(sampling, "max_tokens", 1, MAX_OUTPUT_TOKENS),
        stop=tuple(sampling.stop),
        seed=sampling.seed if sampling.HasField("seed") else None,
        presence_penalty=_optional(sampling, "presence_penalty", -2.0, 2.0),
        frequency_penalty=_optional(sampling, "frequency_penalty", -2.0, 2.0),
    )


def _optional(sampling: pb.Sampling, name: str, low: float, high: float) -> float | None:
    return check_range(f"sampling.{name}", getattr(sampling, name), low, high) if sampling.HasField(name) else None


def _optional_int(sampling: pb.Sampling, name: str, low: int, high: int) -> int | None:
    value = _optional(sampling, name, low, high)
    return None if value is None else int(value)


def _json_schema(message: pb.GenerateRequest) -> Mapping[str, Any] | None:
    given = message.response_format
    return wire.from_struct(given.json_schema) if given.HasField("json_schema") else None


def _template(message: pb.GenerateRequest) -> TemplateRef | None:
    if not message.HasField("template"):
        return None
    given = message.template
    name = check_text("template.name", given.name, max_chars=MAX_NAME_CHARS, min_chars=0, allow_newlines=False)
    version = check_text("template.version", given.version, max_chars=MAX_NAME_CHARS, min_chars=0, allow_newlines=False)
    return TemplateRef(name, version)


def _resume(message: pb.GenerateRequest) -> Resume | None:
    if not message.HasField("resume"):
        return None
    given = message.resume
    text = given.emitted_text
    if text and len(text) != given.emitted_chars:
        raise invalid(
            "resume.emitted_text",
            f"has {len(text)} characters, and resume.emitted_chars is {given.emitted_chars}; they must agree",
            length=len(text),
            emitted_chars=given.emitted_chars,
        )
    return Resume(tuple(given.prompt_token_ids), tuple(given.output_token_ids), given.emitted_chars, text)


def response(event: Event, sequence: int, include_token_ids: bool) -> pb.GenerateResponse:
    """Turn an event of the domain into a message of the stream."""
    message = pb.GenerateResponse(sequence=sequence)
    if isinstance(event, Started):
        _put_started(message.started, event, include_token_ids)
    elif isinstance(event, Finished):
        _put_finished(message.finished, event)
    else:
        message.delta.text = event.text
        if include_token_ids:
            message.delta.token_ids.extend(event.token_ids)
    return message


def _put_started(into: pb.GenerateStarted, event: Started, include_token_ids: bool) -> None:
    into.model = event.model
    into.model_version = event.capabilities.version
    into.backend = event.capabilities.backend
    into.can_resume = event.capabilities.can_resume
    into.can_repeat = event.capabilities.can_repeat
    into.template_version = event.template_version
    if include_token_ids:
        into.prompt_token_ids.extend(event.prompt_token_ids)


def _put_finished(into: pb.GenerateFinished, event: Finished) -> None:
    end = event.end
    into.reason = wire.finish_reason_number(end.reason)
    wire.put_usage(into.usage, end.usage)
    wire.put_citations(into.citations, end.citations)
    wire.put_degraded(into.degraded, event.degraded)
    into.cached = end.cached
    for call in end.tool_calls:
        wire.put_struct(into.tool_calls.add(id=call.id, name=call.name).arguments, call.arguments)


def model(info: ModelInfo) -> pb.Model:
    """Turn a model's description into protobuf."""
    return pb.Model(
        name=info.name,
        backend=info.capabilities.backend,
        context_tokens=info.capabilities.context_tokens,
        can_resume=info.capabilities.can_resume,
        default=info.default,
        can_repeat=info.capabilities.can_repeat,
    )

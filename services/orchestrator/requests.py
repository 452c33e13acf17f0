"""Checks at the door: what comes in as protobuf, field by field, as the domain's request.

All raise INVALID_FIELD with the field's path, what was given and what is allowed.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

from mesh.validation import check_name, check_range, check_text, invalid, shorten
from services.orchestrator.types import Sampling, TurnRequest
from weft import wire
from weft.generator.v1 import generator_pb2
from weft.orchestrator.v1 import orchestrator_pb2
from weft.values import Epoch

MAX_QUESTION_CHARS: Final = 8_192
MAX_TOP_K: Final = 20
DEFAULT_TOP_K: Final = 5
DEFAULT_COLLECTION: Final = "collections/default"
_MAX_REQUEST_ID_CHARS: Final = 128
_MAX_FILTER_CHARS: Final = 2_048
_MAX_TOOLS: Final = 64
_MAX_STOPS: Final = 16
_MAX_STOP_CHARS: Final = 256
_MAX_MODEL_CHARS: Final = 256
_MAX_TURN: Final = 10**9
_NO_TOOLS: Final = "-"

_SESSION: Final = re.compile(r"sessions/([A-Za-z0-9._-]{1,128})")
_TURN: Final = re.compile(r"sessions/([A-Za-z0-9._-]{1,128})/turns/([1-9][0-9]{0,8})")
_COLLECTION: Final = re.compile(r"collections/[a-z0-9-]{1,63}")
_TOOL: Final = re.compile(r"[a-z0-9_]{1,64}")
_LOG_ID: Final = re.compile(r"[0-9a-f]{32}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def turn_request(message: orchestrator_pb2.ChatRequest, tenant: str) -> TurnRequest:
    """A question of ``tenant``'s."""
    session = session_name("session", message.session) if message.session else ""
    resume_turn, after_sequence = None, -1
    if message.HasField("resume"):
        resumed, resume_turn = _turn(message.resume.turn)
        if session and session != resumed:
            raise invalid(
                "resume.turn",
                f"is a turn of session {resumed!r}, and `session` names {session!r}; name one session",
                session=session,
                resumed=resumed,
            )
        session, after_sequence = resumed, message.resume.after_sequence
    if message.request_id:
        check_text("request_id", message.request_id, max_chars=_MAX_REQUEST_ID_CHARS, allow_newlines=False)
    return TurnRequest(
        tenant=tenant,
        session=session,
        request_id=message.request_id,
        question=check_text("question", message.question, max_chars=MAX_QUESTION_CHARS),
        collection=_collection(message.collection),
        top_k=int(check_range("top_k", message.top_k, 1, MAX_TOP_K)) if message.HasField("top_k") else DEFAULT_TOP_K,
        filter=check_text("filter", message.filter, max_chars=_MAX_FILTER_CHARS, min_chars=0),
        min_epoch=_epoch(message),
        model=check_text("model", message.model, max_chars=_MAX_MODEL_CHARS, min_chars=0, allow_newlines=False),
        sampling=_sampling(message.sampling) if message.HasField("sampling") else Sampling(),
        tools=_tools(list(message.tools)),
        allow_cached=message.allow_cached if message.HasField("allow_cached") else True,
        today=_today(message.today),
        resume_turn=resume_turn,
        after_sequence=after_sequence,
    )


def session_name(field: str, value: str) -> str:
    """The session's own part of ``sessions/{s}``."""
    return check_name(field, value, _SESSION, "sessions/3f2c").group(1)


def _turn(value: str) -> tuple[str, int]:
    match = check_name("resume.turn", value, _TURN, "sessions/3f2c/turns/1")
    return match.group(1), int(match.group(2))


def turn_token(value: str) -> int:
    """A page token of ListTurns: the last turn of the page before."""
    if not value:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(_MAX_TURN))):
        raise invalid("page_token", f"is {shorten(value)!r}; pass on what next_page_token gave", value=shorten(value))
    return int(value)


def _collection(value: str) -> str:
    if value:
        check_name("collection", value, _COLLECTION, DEFAULT_COLLECTION)
    return value or DEFAULT_COLLECTION


def _epoch(message: orchestrator_pb2.ChatRequest) -> Epoch | None:
    if not message.HasField("min_epoch") or not message.min_epoch.log_id:
        return None
    check_name("min_epoch.log_id", message.min_epoch.log_id, _LOG_ID, "0f" * 16)
    return wire.epoch(message.min_epoch)


def _tools(tools: list[str]) -> frozenset[str] | None:
    if not tools:
        return None
    if tools == [_NO_TOOLS]:
        return frozenset()
    if len(tools) > _MAX_TOOLS:
        raise invalid("tools", f"has {len(tools)} entries; at most {_MAX_TOOLS} are allowed", count=len(tools))
    for index, tool in enumerate(tools):
        check_name(f"tools[{index}]", tool, _TOOL, "calculator")
    return frozenset(tools)


def _today(value: str) -> datetime.date | None:
    if not value:
        return None
    try:
        if _DAY.fullmatch(value):
            return datetime.date.fromisoformat(value)
    except ValueError:
        pass
    raise invalid("today", f"is {shorten(value)!r}; expected a day such as '2026-11-21'", value=shorten(value))


def _sampling(message: generator_pb2.Sampling) -> Sampling:
    if len(message.stop) > _MAX_STOPS:
        raise invalid("sampling.stop", f"has {len(message.stop)} entries; at most {_MAX_STOPS} are allowed")
    for index, word in enumerate(message.stop):
        check_range(f"sampling.stop[{index}] (its length)", len(word), 1, _MAX_STOP_CHARS)
    given: dict[str, float | int] = {}
    for name, low, high in (
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("top_k", 0, 1_000),
        ("max_tokens", 1, 2**31),
        ("seed", 0, 2**64 - 1),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
    ):
        if message.HasField(name):
            given[name] = getattr(message, name)
            check_range(f"sampling.{name}", given[name], low, high)
    if given.get("top_p") == 0.0:
        raise invalid("sampling.top_p", "is 0; it must be above 0, to 1", value=0)
    return Sampling(stop=tuple(message.stop), **given)  # type: ignore[arg-type]

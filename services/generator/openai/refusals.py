"""What a server's refusal means: a status, a body that may say why, and whether the same may be asked again.

    400, 413, 422   the request: CONTEXT_TOO_LONG with the counts where they are told, SCHEMA_INVALID where a schema
                    was asked for and is blamed, else INVALID_FIELD with the field, what the server says of it
    401, 403        the operator's key: MODEL_UNAVAILABLE
    404             the operator's URL or its model: MODEL_UNAVAILABLE
    408, 429, 5xx   not now: MODEL_UNAVAILABLE, with RetryInfo where Retry-After says when
    3xx             a redirect is not followed, its target would get the key: MODEL_UNAVAILABLE
    the rest        MODEL_UNAVAILABLE

What a server says is cut short, and its own key taken out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesh.validation import shorten
from weft.errors import Reason, WeftError, error

PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_OF_THE_REQUEST: Final = frozenset({400, 413, 422})
_MAX_SAID_CHARS: Final = 400
_MAX_RETRY_AFTER_S: Final = 3_600.0
_CONTEXT: Final = re.compile(
    r"context[ _](?:length|size|window)|max_model_len|maximum (?:input|sequence) length|max_new_tokens|too many tokens",
    re.IGNORECASE,
)
_LIMIT: Final = re.compile(
    r"(?:context (?:length|size|window)[^.\d]{0,30}|must be <= |limit of )\(?(\d{1,9})", re.IGNORECASE
)
_WANTED: Final = re.compile(
    r"(?:requested|contains|given:|length \(|prompt has|resulted in)\s*(?:at least )?`?(\d{1,9})", re.IGNORECASE
)
_SCHEMA: Final = re.compile(r"schema|grammar|guided|structured|response_format", re.IGNORECASE)
_SAMPLING: Final = frozenset(
    {"temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "presence_penalty", "frequency_penalty"}
)
_FIELDS: Final = {
    **{name: f"sampling.{name}" for name in _SAMPLING},
    "max_completion_tokens": "sampling.max_tokens",
    "response_format": "response_format.json_schema",
    "tools": "tools",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What came instead of an answer."""

    status: int
    said: str
    """The server's message, short."""
    code: str = ""
    """Its name for the kind of error."""
    param: str = ""
    limit_tokens: int | None = None
    wanted_tokens: int | None = None
    retry_after_s: float | None = None

    @property
    def passing(self) -> bool:
        """Whether the same may be asked again."""
        return self.status in PASSING


def read(status: int, body: bytes, headers: Mapping[str, str], key: str) -> Refusal:
    """Read a refusal, whatever its body is."""
    told = _object(body)
    inner = told.get("error")
    if isinstance(inner, dict):
        told = {**told, **inner}
    message = next((told[name] for name in ("message", "error", "detail") if isinstance(told.get(name), str)), None)
    said = message if message is not None else body[:_MAX_SAID_CHARS].decode("utf-8", "replace")
    if key:
        said = said.replace(key, "***")
    return Refusal(
        status=status,
        said=shorten(" ".join(said.split()), _MAX_SAID_CHARS),
        code=" ".join(str(told[name])[:60] for name in ("code", "type") if isinstance(told.get(name), str)),
        param=str(told.get("param") or "")[:60],
        limit_tokens=_count(told.get("n_ctx")),
        wanted_tokens=_count(told.get("n_prompt_tokens")),
        retry_after_s=_retry_after_s(headers.get("retry-after", "")),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 10**9 else None


def _retry_after_s(raw: str) -> float | None:
    """Seconds only: a date would have to trust the server's clock."""
    return min(float(raw), _MAX_RETRY_AFTER_S) if raw.isascii() and raw.isdigit() and len(raw) < 10 else None


def as_error(refusal: Refusal, server: str, model: str, *, schema: bool) -> WeftError:
    """Return the error of a refusal. `schema`: whether the answer was to fit one."""
    told: dict[str, Any] = {"server": server, "model": model, "status": refusal.status, "said": refusal.said}
    if refusal.status in _OF_THE_REQUEST:
        return _of_the_request(refusal, server, told, schema)
    if refusal.status in (401, 403):
        advice = f"refuses the key (status {refusal.status}); set it in WEFT_GENERATOR__API_KEYS as host=key"
        del told["said"]  # it may repeat the key
    elif refusal.status == 404:
        advice = f"knows no model {model!r}, or its API is at another path (status 404): {refusal.said}"
    elif 300 <= refusal.status < 400:
        advice = f"redirects (status {refusal.status}); give the address itself"
    else:
        advice = f"can't answer (status {refusal.status}): {refusal.said}"
    return error(Reason.MODEL_UNAVAILABLE, f"{server} {advice}", retry_after_s=refusal.retry_after_s, **told)


def _of_the_request(refusal: Refusal, server: str, told: dict[str, Any], schema: bool) -> WeftError:
    kinds = f"{refusal.code} {refusal.said}"
    if "context_length_exceeded" in kinds or "exceed_context_size" in kinds or _CONTEXT.search(refusal.said):
        limit, wanted = refusal.limit_tokens, refusal.wanted_tokens
        if limit is None and (found := _LIMIT.search(refusal.said)):
            limit = int(found[1])
        if wanted is None and (found := _WANTED.search(refusal.said)):
            wanted = int(found[1])
        counts = {"context_tokens": limit, "wanted_tokens": wanted}
        told.update({name: count for name, count in counts.items() if count is not None})
        return error(
            Reason.CONTEXT_TOO_LONG,
            f"prompt and answer are too long for the model: {refusal.said} Send fewer passages or lower max_tokens",
            **told,
        )
    if schema and (refusal.param == "response_format" or _SCHEMA.search(refusal.said)):
        field = _FIELDS["response_format"]
        message = f"{field}: {server} can't hold its output to this schema: {refusal.said}"
        return error(Reason.SCHEMA_INVALID, message, field=field, **told)
    field = _FIELDS.get(refusal.param, "messages")
    return error(Reason.INVALID_FIELD, f"{field}: {server} refuses the request: {refusal.said}", field=field, **told)

"""What an `openai://` URL says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesh.plugins import Url
from services.generator import patience
from services.generator.patience import Timeouts
from weft.errors import Reason, WeftError, error

_CHOICES: Final = {
    "resume": ("token_ids",),
    "limit": ("max_tokens", "max_completion_tokens"),
    "tls": ("no",),
}
_PARAMETERS: Final = ("model", *_CHOICES, *patience.PARAMETERS)
_SHAPE: Final = "openai://host[:port]/v1?model=NAME"


@dataclass(frozen=True, slots=True)
class Options:
    """Where the server is and how it is to be asked."""

    url: str
    """Without secrets."""
    model: str
    """As the server calls it."""
    host: str
    origin: str
    """`https://host:port`"""
    path: str
    """Of the API, without a slash at its end: `/v1`."""
    by_token_ids: bool
    """Whether it is asked by token ids, and so can go on where an answer broke off."""
    limit_field: str
    """What the server calls the greatest number of tokens."""
    timeouts: Timeouts


def read(url: Url) -> Options:
    """Check a URL.

    Raises:
        WeftError: INVALID_FIELD naming the parameter, what it holds and what is allowed.
    """
    for name in url.query:
        if name not in _PARAMETERS:
            raise _invalid(url, f"{name!r} is no parameter; there are: {', '.join(_PARAMETERS)}")
    if url.username or url.password:
        raise _invalid(url, "holds a user or a key; keys are given by WEFT_GENERATOR__API_KEYS as host=key")
    if not url.host or not url.path.strip("/") or not url.query.get("model"):
        raise _invalid(url, f"is not {_SHAPE}")
    for name, allowed in _CHOICES.items():
        value = url.query.get(name)
        if value is not None and value not in allowed:
            raise _invalid(url, f"{name} is {value[:40]!r}; allowed is {' or '.join(allowed)}")
    plain = patience.plain(url)
    host = f"[{url.host}]" if ":" in url.host else url.host
    return Options(
        url=str(url),
        model=url.query["model"],
        host=url.host,
        origin=f"{'http' if plain else 'https'}://{host}:{url.port or (80 if plain else 443)}",
        path=url.path.rstrip("/"),
        by_token_ids="resume" in url.query,
        limit_field=url.query.get("limit", "max_tokens"),
        timeouts=patience.timeouts(url),
    )


def _invalid(url: Url, problem: str) -> WeftError:
    return error(Reason.INVALID_FIELD, f"{url}: {problem}", url=url)

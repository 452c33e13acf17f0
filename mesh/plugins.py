"""What is attached by a URL: the scheme names a plugin, one file, imported only when chosen.

``load("services.retriever.embedders", Url.parse("minilm:"))`` imports
``services/retriever/embedders/minilm.py`` and returns the module, whose ``open`` makes the backend.
There is no table to keep: a plugin exists because its file does.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from weft.errors import Reason, error

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+-]*")
# How names of what is never shown end: `apikey`, `sslpassword`. `max_waiting_tokens` is a number.
SECRET: Final = re.compile(r"(token|secrets?|passwords?|passwd|keys?|credentials?)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed attachment. ``str()`` masks what is secret; ``raw`` does not."""

    raw: str
    scheme: str
    host: str
    port: int | None
    username: str
    password: str
    path: str
    query: Mapping[str, str]

    @classmethod
    def parse(cls, raw: str) -> Url:
        """Parse ``scheme:…`` or ``scheme://…``.

        Raises:
            WeftError: INVALID_FIELD when it isn't a URL.
        """
        scheme, colon, _ = raw.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise error(
                Reason.INVALID_FIELD,
                f"{raw[:60]!r} is not a URL; expected scheme:… such as 'sqlite:///path' or 'minilm:'",
                value=raw[:60],
            )
        try:
            parts = urlsplit(raw)
            port = parts.port
        except ValueError as exc:
            raise error(Reason.INVALID_FIELD, f"the URL of scheme {scheme!r} is malformed: {exc}") from exc
        return cls(
            raw=raw,
            scheme=scheme,
            host=parts.hostname or "",
            port=port,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        )

    def __str__(self) -> str:
        masked = self.raw
        if self.password:
            masked = re.sub(r"(//[^:@/]*:)[^@/]*@", r"\1***@", masked)
        for key in self.query:
            if SECRET.search(key):
                masked = re.sub(rf"([?&]{re.escape(key)}=)[^&#]*", r"\1***", masked)
        return masked

    __repr__ = __str__


def available(package: str) -> list[str]:
    """Schemes that ``package`` has plugins for."""
    found = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(found.__path__) if not m.name.startswith("_"))


def load(package: str, url: Url) -> ModuleType:
    """Import the plugin of ``url``'s scheme.

    Raises:
        WeftError: INVALID_FIELD when there is no such plugin, or its library is not installed.
    """
    name = url.scheme.replace("+", "_").replace("-", "_")
    if name not in available(package):
        raise error(
            Reason.INVALID_FIELD,
            f"{url.scheme}: is not a known scheme here; there are: {', '.join(available(package))}",
            scheme=url.scheme,
        )
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as exc:
        raise error(
            Reason.INVALID_FIELD,
            f"{url.scheme}: needs the Python package {exc.name!r}, which is not installed; "
            f"install it, or the extra that brings it (see docs/config.md)",
            scheme=url.scheme,
            package=exc.name,
        ) from exc

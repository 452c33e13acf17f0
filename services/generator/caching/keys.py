"""The name that an answer is kept under: a hash of everything that can change it.

All fields of a request go in, whatever they are, so that a field added later is part of the key from its first day;
those that say nothing of the answer are named in ``_WITHOUT``. Which model answers goes in as its name, its URL and
the version that it declares: replicas that share a store but not a model don't share answers.

The encoding is one to one: each value is preceded by its kind and its size, so no two requests are the same bytes
however their parts are cut. Mappings go in by sorted name, since JSON objects have no order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Final

from services.generator.types import Capabilities, Request

_FORMAT: Final = "weft-answer-1"  # another whenever what is kept under a key is written otherwise
# The bucket chose the template.
_WITHOUT: Final = frozenset({"allow_cached", "bucket", "priority", "resume", "piece_interval_s"})

Put = Callable[[bytes], None]


def key_of(request: Request, name: str, url: str, capabilities: Capabilities) -> str:
    """Return the key of ``request``'s answer by the model ``name``: ``TENANT:HASH``."""
    digest = hashlib.sha256()
    put = digest.update
    asked = replace(request, model=name)  # whatever name led here
    for part in (_FORMAT, url, capabilities.backend, capabilities.version):
        encode(part, put)
    for field in _fields(Request):
        if field not in _WITHOUT:
            encode(field, put)
            encode(getattr(asked, field), put)
    return f"{request.tenant}:{digest.hexdigest()}"


def encode(value: Any, put: Put) -> None:
    """Write ``value`` so that no other value is written alike.

    Raises:
        TypeError: it is of a kind that a request doesn't hold.
    """
    if isinstance(value, str):
        _sized(b"s", value.encode("utf-8", "surrogatepass"), put)
    elif value is None:
        put(b"n")
    elif isinstance(value, bool):
        put(b"t" if value else b"f")
    elif isinstance(value, int):
        _sized(b"i", str(value).encode(), put)
    elif isinstance(value, float):
        put(b"d" + struct.pack(">d", value))
    elif isinstance(value, (tuple, list)):
        put(b"l%d:" % len(value))
        for item in value:
            encode(item, put)
    elif isinstance(value, Mapping):
        put(b"m%d:" % len(value))
        for name in sorted(value):
            encode(name, put)
            encode(value[name], put)
    elif is_dataclass(value) and not isinstance(value, type):
        names = _fields(type(value))
        put(b"o%d:" % len(names))
        for name in names:
            encode(name, put)
            encode(getattr(value, name), put)
    else:
        raise TypeError(f"a request holds a {type(value).__name__}, which has no place in a key")


def _sized(kind: bytes, data: bytes, put: Put) -> None:
    put(b"%b%d:" % (kind, len(data)))
    put(data)


@lru_cache(maxsize=64)
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))

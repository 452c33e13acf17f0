"""What travels with a call: tenant, request id, the session's bucket and header routes.

The server interceptor binds a ``CallContext`` from each incoming call's metadata; every channel that
``Runtime.channel`` gives out sends it along. So a canary's header, set once at the edge, reaches every
hop, and no handler passes metadata by hand.

Trailing metadata is one slot in gRPC, overwritten by its last writer. ``add_trailer`` therefore
collects, and the interceptor alone writes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from weft import names
from weft.errors import Reason, error

Metadata = tuple[tuple[str, str], ...]

_TENANT: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_ROUTE_HEADERS: Final = 16
_MAX_ROUTE_VALUE_CHARS: Final = 256
DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call's companions."""

    tenant: str = DEFAULT_TENANT
    request_id: str = ""
    bucket: int | None = None  # 0 to 99
    route_headers: Metadata = ()
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list, compare=False)

    def outgoing_metadata(self) -> Metadata:
        """The metadata that each call made on behalf of this one carries."""
        pairs = [(names.METADATA_TENANT, self.tenant)]
        if self.request_id:
            pairs.append((names.METADATA_REQUEST_ID, self.request_id))
        if self.bucket is not None:
            pairs.append((names.METADATA_BUCKET, str(self.bucket)))
        return (*pairs, *self.route_headers)


_current: ContextVar[CallContext] = ContextVar("weft_call_context")


def current() -> CallContext:
    """The context of the call being handled; the default tenant's outside of any call."""
    return _current.get(None) or CallContext()


@contextmanager
def bind(context: CallContext) -> Iterator[CallContext]:
    """Make ``context`` current within the block, in this task and those it starts."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def outgoing_metadata() -> Metadata:
    """The current context's outgoing metadata."""
    return current().outgoing_metadata()


def add_trailer(key: str, value: str | bytes) -> None:
    """Send ``key: value`` with the status of the call being handled."""
    current().trailers.append((key, value))


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> CallContext:
    """Read an incoming call's companions.

    Raises:
        WeftError: TENANT_INVALID or INVALID_FIELD for values that are out of bounds.
    """
    tenant, request_id, bucket = DEFAULT_TENANT, "", None
    routes: list[tuple[str, str]] = []
    for key, value in metadata:
        if not key.startswith("weft-") or isinstance(value, bytes):
            continue
        if key == names.METADATA_TENANT:
            tenant = value
        elif key == names.METADATA_REQUEST_ID:
            request_id = value
        elif key == names.METADATA_BUCKET:
            bucket = _bucket(value)
        elif key.startswith(names.METADATA_ROUTE_PREFIX):
            routes.append((key, value))
    if not _TENANT.fullmatch(tenant):
        raise error(
            Reason.TENANT_INVALID,
            f"tenant is {tenant[:70]!r}; allowed are 1 to 63 lower-case letters, digits and hyphens",
            tenant=tenant[:70],
        )
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise error(
            Reason.INVALID_FIELD,
            f"{names.METADATA_REQUEST_ID}: allowed are 1 to 128 printable ASCII characters without spaces",
            field=names.METADATA_REQUEST_ID,
        )
    if len(routes) > _MAX_ROUTE_HEADERS or any(len(v) > _MAX_ROUTE_VALUE_CHARS for _, v in routes):
        raise error(
            Reason.INVALID_FIELD,
            f"{names.METADATA_ROUTE_PREFIX}*: at most {_MAX_ROUTE_HEADERS} headers of at most "
            f"{_MAX_ROUTE_VALUE_CHARS} characters",
            field=names.METADATA_ROUTE_PREFIX,
        )
    return CallContext(tenant, request_id or uuid.uuid4().hex, bucket, tuple(routes))


def _bucket(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 2:
        return int(value)
    raise error(
        Reason.INVALID_FIELD,
        f"{names.METADATA_BUCKET}: is {value[:20]!r}; allowed is 0 to 99",
        field=names.METADATA_BUCKET,
    )

"""The one error type, and the one table behind it: reason -> gRPC code -> whether a retry can help.

    WeftError                   anything a Weft call can fail with
    ├── InvalidArgument         the request is wrong as it stands; change it
    ├── NotFound                no such collection, document, session, tool, model, trace…
    ├── AlreadyExists           the name is taken by something else
    ├── FailedPrecondition      right request, wrong state: an epoch not reached, a tool that can't
    ├── Aborted                 somebody else was first: a busy session, a changed policy
    ├── ResourceExhausted       too much at once; ``retry_after_s`` says when
    ├── DeadlineExceeded        the deadline came first
    ├── Unavailable             nobody there to answer; safe to try again
    ├── Unimplemented           not in this release
    ├── Cancelled               the caller went away
    ├── DataLoss                a store is damaged
    ├── PermissionDenied        this tenant may not
    ├── Internal                a defect; ``trace_id`` leads to it
    └── MeshAlreadyBound        this process already belongs to another mesh (raised locally)

On the wire an error is a status with exactly one ``google.rpc.ErrorInfo`` (domain ``weft.dev``), and
``BadRequest``, ``RetryInfo`` or ``QuotaFailure`` where true. Every variable of a message is in ``metadata``
too: texts may change, reasons and metadata keys may not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from weft import names
from weft.common.v1 import error_pb2

_STATUS_DETAILS: Final = "grpc-status-details-bin"
_MAX_MESSAGE_CHARS: Final = 2_000  # a status travels in trailers, which peers limit to 8 KiB
# How gRPC itself refuses a message, whoever notices it.
_OVERSIZED: Final = re.compile(r"(CLIENT|SERVER): (Sent|Received) message larger than max \((\d+) vs\. (\d+)\)")
_OVERSIZED_REQUEST: Final = (("CLIENT", "Sent"), ("SERVER", "Received"))


class Reason(StrEnum):
    """Why a call failed: the names of protos/weft/common/v1/error_reason.proto."""

    INVALID_FIELD = "INVALID_FIELD"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    OVERLOADED = "OVERLOADED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    NOT_READY = "NOT_READY"
    INTERNAL = "INTERNAL"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    DEPENDENCY_UNAVAILABLE = "DEPENDENCY_UNAVAILABLE"
    STORE_CORRUPT = "STORE_CORRUPT"
    TENANT_INVALID = "TENANT_INVALID"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    COLLECTION_EXISTS = "COLLECTION_EXISTS"
    DOCUMENT_NOT_FOUND = "DOCUMENT_NOT_FOUND"
    DOCUMENT_UNREADABLE = "DOCUMENT_UNREADABLE"
    DOCUMENT_EMPTY = "DOCUMENT_EMPTY"
    DOCUMENT_TOO_LARGE = "DOCUMENT_TOO_LARGE"
    EPOCH_NOT_REACHED = "EPOCH_NOT_REACHED"
    EPOCH_FOREIGN = "EPOCH_FOREIGN"
    FILTER_INVALID = "FILTER_INVALID"
    EMBEDDER_UNAVAILABLE = "EMBEDDER_UNAVAILABLE"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    RESUME_UNSUPPORTED = "RESUME_UNSUPPORTED"
    SCHEMA_INVALID = "SCHEMA_INVALID"
    ANSWER_INTERRUPTED = "ANSWER_INTERRUPTED"
    TEMPLATE_NOT_FOUND = "TEMPLATE_NOT_FOUND"
    TOOL_NOT_FOUND = "TOOL_NOT_FOUND"
    TOOL_ARGUMENTS_INVALID = "TOOL_ARGUMENTS_INVALID"
    TOOL_FAILED = "TOOL_FAILED"
    TOOL_TIMEOUT = "TOOL_TIMEOUT"
    TOOL_OUTCOME_UNKNOWN = "TOOL_OUTCOME_UNKNOWN"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_BUSY = "SESSION_BUSY"
    TURN_NOT_FOUND = "TURN_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    SESSION_FULL = "SESSION_FULL"
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    POLICY_INVALID = "POLICY_INVALID"
    POLICY_CONFLICT = "POLICY_CONFLICT"
    POLICY_NOT_FOUND = "POLICY_NOT_FOUND"
    LEASE_NOT_FOUND = "LEASE_NOT_FOUND"
    REGISTRY_UNAVAILABLE = "REGISTRY_UNAVAILABLE"
    TRACE_NOT_FOUND = "TRACE_NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_ABANDONED = "JOB_ABANDONED"
    JOB_ACTIVE = "JOB_ACTIVE"
    JOB_CANCELLED = "JOB_CANCELLED"


_C = grpc.StatusCode

# reason -> (code, may the mesh or a client try the same call again at once)
TABLE: Final[Mapping[Reason, tuple[grpc.StatusCode, bool]]] = {
    Reason.INVALID_FIELD: (_C.INVALID_ARGUMENT, False),
    Reason.MESSAGE_TOO_LARGE: (_C.RESOURCE_EXHAUSTED, False),
    Reason.DEADLINE_EXCEEDED: (_C.DEADLINE_EXCEEDED, False),
    Reason.CANCELLED: (_C.CANCELLED, False),
    Reason.OVERLOADED: (_C.RESOURCE_EXHAUSTED, False),
    Reason.SHUTTING_DOWN: (_C.UNAVAILABLE, True),
    Reason.NOT_READY: (_C.UNAVAILABLE, True),
    Reason.INTERNAL: (_C.INTERNAL, False),
    Reason.NOT_IMPLEMENTED: (_C.UNIMPLEMENTED, False),
    Reason.DEPENDENCY_UNAVAILABLE: (_C.UNAVAILABLE, False),
    Reason.STORE_CORRUPT: (_C.DATA_LOSS, False),
    Reason.TENANT_INVALID: (_C.INVALID_ARGUMENT, False),
    Reason.QUOTA_EXCEEDED: (_C.RESOURCE_EXHAUSTED, False),
    Reason.COLLECTION_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.COLLECTION_EXISTS: (_C.ALREADY_EXISTS, False),
    Reason.DOCUMENT_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.DOCUMENT_UNREADABLE: (_C.INVALID_ARGUMENT, False),
    Reason.DOCUMENT_EMPTY: (_C.INVALID_ARGUMENT, False),
    Reason.DOCUMENT_TOO_LARGE: (_C.INVALID_ARGUMENT, False),
    Reason.EPOCH_NOT_REACHED: (_C.FAILED_PRECONDITION, False),
    Reason.EPOCH_FOREIGN: (_C.FAILED_PRECONDITION, False),
    Reason.FILTER_INVALID: (_C.INVALID_ARGUMENT, False),
    Reason.EMBEDDER_UNAVAILABLE: (_C.FAILED_PRECONDITION, False),
    Reason.UPLOAD_INCOMPLETE: (_C.ABORTED, False),
    Reason.MODEL_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.CONTEXT_TOO_LONG: (_C.INVALID_ARGUMENT, False),
    Reason.MODEL_UNAVAILABLE: (_C.UNAVAILABLE, False),
    Reason.RESUME_UNSUPPORTED: (_C.FAILED_PRECONDITION, False),
    Reason.SCHEMA_INVALID: (_C.INVALID_ARGUMENT, False),
    Reason.ANSWER_INTERRUPTED: (_C.UNAVAILABLE, False),
    Reason.TEMPLATE_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.TOOL_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.TOOL_ARGUMENTS_INVALID: (_C.INVALID_ARGUMENT, False),
    Reason.TOOL_FAILED: (_C.FAILED_PRECONDITION, False),
    Reason.TOOL_TIMEOUT: (_C.DEADLINE_EXCEEDED, False),
    Reason.TOOL_OUTCOME_UNKNOWN: (_C.ABORTED, False),
    Reason.SESSION_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.SESSION_BUSY: (_C.ABORTED, False),
    Reason.TURN_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.REQUEST_ID_REUSED: (_C.ALREADY_EXISTS, False),
    Reason.SESSION_FULL: (_C.FAILED_PRECONDITION, False),
    Reason.SERVICE_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.POLICY_INVALID: (_C.INVALID_ARGUMENT, False),
    Reason.POLICY_CONFLICT: (_C.ABORTED, False),
    Reason.POLICY_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.LEASE_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.REGISTRY_UNAVAILABLE: (_C.UNAVAILABLE, False),
    Reason.TRACE_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.JOB_NOT_FOUND: (_C.NOT_FOUND, False),
    Reason.JOB_ABANDONED: (_C.INTERNAL, False),
    Reason.JOB_ACTIVE: (_C.FAILED_PRECONDITION, False),
    Reason.JOB_CANCELLED: (_C.ABORTED, False),
}


class WeftError(Exception):
    """A call that failed, the same on both sides of the wire.

    Attributes:
        reason: name that never changes; decide by this.
        code: canonical gRPC code.
        message: what happened, which value, what is allowed, what to do next.
        metadata: every variable of the message.
        field: request field at fault, dotted path, or None.
        retry_after_s: earliest useful retry, in seconds, or None.
        retryable: whether the same call may simply be made again.
        trace_id: 32 hex digits, or None where the call was not traced.
        partial_text: the answer as far as it had come when an ``ask`` or ``stream`` failed; it may break off anywhere.
    """

    def __init__(
        self,
        reason: Reason | str,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        code: grpc.StatusCode | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = str(reason)
        known = TABLE.get(Reason(reason)) if reason in Reason.__members__ else None
        self.code = code or (known[0] if known else grpc.StatusCode.UNKNOWN)
        self.retryable = known[1] if known else False
        self.message = message
        self.metadata = {k: str(v) for k, v in (metadata or {}).items()}
        self.retry_after_s = retry_after_s
        self.field = field
        self.trace_id = trace_id
        self.partial_text = ""

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]"


class InvalidArgument(WeftError):
    """The request is wrong as it stands."""


class NotFound(WeftError):
    """What the request names is not there."""


class AlreadyExists(WeftError):
    """The name is taken by something else."""


class FailedPrecondition(WeftError):
    """The state does not allow it."""


class Aborted(WeftError):
    """Somebody else was first."""


class ResourceExhausted(WeftError):
    """Too much at once."""


class DeadlineExceeded(WeftError):
    """The deadline came first."""


class Unavailable(WeftError):
    """Nobody there to answer."""


class Unimplemented(WeftError):
    """Not in this release."""


class Cancelled(WeftError):
    """The caller went away."""


class DataLoss(WeftError):
    """A store is damaged."""


class PermissionDenied(WeftError):
    """This tenant may not."""


class Internal(WeftError):
    """A defect."""


class MeshAlreadyBound(WeftError):
    """gRPC reads its xDS bootstrap once: one process belongs to one mesh."""


_CLASSES: Final[Mapping[grpc.StatusCode, type[WeftError]]] = {
    _C.INVALID_ARGUMENT: InvalidArgument,
    _C.OUT_OF_RANGE: InvalidArgument,
    _C.NOT_FOUND: NotFound,
    _C.ALREADY_EXISTS: AlreadyExists,
    _C.FAILED_PRECONDITION: FailedPrecondition,
    _C.ABORTED: Aborted,
    _C.RESOURCE_EXHAUSTED: ResourceExhausted,
    _C.DEADLINE_EXCEEDED: DeadlineExceeded,
    _C.UNAVAILABLE: Unavailable,
    _C.UNIMPLEMENTED: Unimplemented,
    _C.CANCELLED: Cancelled,
    _C.DATA_LOSS: DataLoss,
    _C.PERMISSION_DENIED: PermissionDenied,
    _C.UNAUTHENTICATED: PermissionDenied,
}
_REASON_OF_BARE_CODE: Final[Mapping[grpc.StatusCode, Reason]] = {
    _C.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    _C.CANCELLED: Reason.CANCELLED,
    _C.UNAVAILABLE: Reason.DEPENDENCY_UNAVAILABLE,
    _C.UNIMPLEMENTED: Reason.NOT_IMPLEMENTED,
    _C.RESOURCE_EXHAUSTED: Reason.OVERLOADED,
    _C.INVALID_ARGUMENT: Reason.INVALID_FIELD,
}


def error(
    reason: Reason,
    message: str,
    *,
    field: str | None = None,
    retry_after_s: float | None = None,
    **metadata: object,
) -> WeftError:
    """Make the error of ``reason``'s class. ``metadata`` are the variables of ``message``."""
    cls = _CLASSES.get(TABLE[reason][0], Internal)
    return cls(reason, message, metadata=metadata, field=field, retry_after_s=retry_after_s)


def to_status(err: WeftError) -> status_pb2.Status:
    """The error as google.rpc.Status: one ErrorInfo; BadRequest, RetryInfo and QuotaFailure where true."""
    message = err.message[:_MAX_MESSAGE_CHARS]
    status = status_pb2.Status(code=err.code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=err.reason, domain=names.ERROR_DOMAIN)
    for key, value in err.metadata.items():
        info.metadata[key] = value[:256]
    status.details.add().Pack(info)
    if err.field is not None:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=err.field, description=message)
        status.details.add().Pack(bad)
    if err.reason == Reason.QUOTA_EXCEEDED:
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=err.metadata.get("subject", ""), description=message)
        status.details.add().Pack(quota)
    if err.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(0, round(err.retry_after_s * 1_000)))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def status_trailer(err: WeftError) -> tuple[str, bytes]:
    """The trailer that carries the details."""
    return _STATUS_DETAILS, to_status(err).SerializeToString()


def from_rpc_error(rpc_error: grpc.RpcError | grpc.aio.AioRpcError) -> WeftError:
    """The error that a peer raised; a bare transport failure gets the reason of its code."""
    code: grpc.StatusCode = rpc_error.code()
    message = rpc_error.details() or code.name
    cls = _CLASSES.get(code, Internal)
    trailers = rpc_error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _STATUS_DETAILS:
            status = status_pb2.Status()
            status.ParseFromString(value)
            return _from_details(cls, code, message, status)
    return _oversized(message) or cls(_REASON_OF_BARE_CODE.get(code, Reason.INTERNAL), message, code=code)


def _oversized(details: str) -> WeftError | None:
    found = _OVERSIZED.search(details)
    if found is None:
        return None
    side, direction, size_bytes, max_bytes = found.groups()
    what, remedy = ("request", "send less") if (side, direction) in _OVERSIZED_REQUEST else ("reply", "ask for less")
    return error(
        Reason.MESSAGE_TOO_LARGE,
        f"the {what} has {size_bytes} bytes; a message may have {max_bytes}: {remedy}",
        size_bytes=size_bytes,
        max_bytes=max_bytes,
    )


def _from_details(cls: type[WeftError], code: grpc.StatusCode, message: str, status: status_pb2.Status) -> WeftError:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    field = retry_after_s = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
            field = bad.field_violations[0].field if bad.field_violations else None
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1_000
    metadata = dict(info.metadata)
    return cls(
        info.reason or Reason.INTERNAL,
        message,
        metadata=metadata,
        field=field,
        retry_after_s=retry_after_s,
        code=code,
        trace_id=metadata.get("trace_id"),
    )


def to_proto(err: WeftError) -> error_pb2.Error:
    """The error as a part of a reply that did not fail as a whole."""
    return error_pb2.Error(
        reason=err.reason, code=err.code.name, message=err.message[:_MAX_MESSAGE_CHARS], metadata=err.metadata
    )


def from_proto(message: error_pb2.Error) -> WeftError:
    """The reverse of ``to_proto``."""
    code = grpc.StatusCode.__members__.get(message.code, grpc.StatusCode.UNKNOWN)
    return _CLASSES.get(code, Internal)(
        message.reason or Reason.INTERNAL, message.message, metadata=dict(message.metadata), code=code
    )

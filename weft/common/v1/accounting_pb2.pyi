from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "cached_tokens", "cost_micros", "currency")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_micros: int
    currency: str
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., cost_micros: _Optional[int] = ..., currency: _Optional[str] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("stage", "reason", "fallback", "detail")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    stage: str
    reason: str
    fallback: str
    detail: str
    def __init__(self, stage: _Optional[str] = ..., reason: _Optional[str] = ..., fallback: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("stage", "start_ms", "duration_ms", "budget_ms", "status")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    START_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    start_ms: float
    duration_ms: float
    budget_ms: float
    status: str
    def __init__(self, stage: _Optional[str] = ..., start_ms: _Optional[float] = ..., duration_ms: _Optional[float] = ..., budget_ms: _Optional[float] = ..., status: _Optional[str] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("deadline_ms", "elapsed_ms", "entries")
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    deadline_ms: float
    elapsed_ms: float
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    def __init__(self, deadline_ms: _Optional[float] = ..., elapsed_ms: _Optional[float] = ..., entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ...) -> None: ...

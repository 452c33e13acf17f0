import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from weft.common.v1 import accounting_pb2 as _accounting_pb2
from weft.common.v1 import epoch_pb2 as _epoch_pb2
from weft.common.v1 import error_pb2 as _error_pb2
from weft.common.v1 import passage_pb2 as _passage_pb2
from weft.generator.v1 import generator_pb2 as _generator_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TurnState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TURN_STATE_UNSPECIFIED: _ClassVar[TurnState]
    TURN_STATE_RUNNING: _ClassVar[TurnState]
    TURN_STATE_FINISHED: _ClassVar[TurnState]
    TURN_STATE_FAILED: _ClassVar[TurnState]
TURN_STATE_UNSPECIFIED: TurnState
TURN_STATE_RUNNING: TurnState
TURN_STATE_FINISHED: TurnState
TURN_STATE_FAILED: TurnState

class ChatRequest(_message.Message):
    __slots__ = ("session", "request_id", "question", "collection", "top_k", "filter", "min_epoch", "model", "sampling", "tools", "resume", "allow_cached", "today")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    ALLOW_CACHED_FIELD_NUMBER: _ClassVar[int]
    TODAY_FIELD_NUMBER: _ClassVar[int]
    session: str
    request_id: str
    question: str
    collection: str
    top_k: int
    filter: str
    min_epoch: _epoch_pb2.Epoch
    model: str
    sampling: _generator_pb2.Sampling
    tools: _containers.RepeatedScalarFieldContainer[str]
    resume: ChatResume
    allow_cached: bool
    today: str
    def __init__(self, session: _Optional[str] = ..., request_id: _Optional[str] = ..., question: _Optional[str] = ..., collection: _Optional[str] = ..., top_k: _Optional[int] = ..., filter: _Optional[str] = ..., min_epoch: _Optional[_Union[_epoch_pb2.Epoch, _Mapping]] = ..., model: _Optional[str] = ..., sampling: _Optional[_Union[_generator_pb2.Sampling, _Mapping]] = ..., tools: _Optional[_Iterable[str]] = ..., resume: _Optional[_Union[ChatResume, _Mapping]] = ..., allow_cached: bool = ..., today: _Optional[str] = ...) -> None: ...

class ChatResume(_message.Message):
    __slots__ = ("turn", "after_sequence")
    TURN_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    turn: str
    after_sequence: int
    def __init__(self, turn: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("sequence", "started", "retrieved", "tool_call", "tool_result", "text_delta", "finished")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RETRIEVED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    TOOL_RESULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    started: Started
    retrieved: Retrieved
    tool_call: ToolCallStarted
    tool_result: ToolResult
    text_delta: TextDelta
    finished: Finished
    def __init__(self, sequence: _Optional[int] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., retrieved: _Optional[_Union[Retrieved, _Mapping]] = ..., tool_call: _Optional[_Union[ToolCallStarted, _Mapping]] = ..., tool_result: _Optional[_Union[ToolResult, _Mapping]] = ..., text_delta: _Optional[_Union[TextDelta, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("session", "turn", "trace_id", "versions", "replayed", "request_id")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session: str
    turn: str
    trace_id: str
    versions: _containers.ScalarMap[str, str]
    replayed: bool
    request_id: str
    def __init__(self, session: _Optional[str] = ..., turn: _Optional[str] = ..., trace_id: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., replayed: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class Retrieved(_message.Message):
    __slots__ = ("passages", "epoch", "query")
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[_passage_pb2.Passage]
    epoch: _epoch_pb2.Epoch
    query: str
    def __init__(self, passages: _Optional[_Iterable[_Union[_passage_pb2.Passage, _Mapping]]] = ..., epoch: _Optional[_Union[_epoch_pb2.Epoch, _Mapping]] = ..., query: _Optional[str] = ...) -> None: ...

class ToolCallStarted(_message.Message):
    __slots__ = ("call_id", "tool", "arguments")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    tool: str
    arguments: _struct_pb2.Struct
    def __init__(self, call_id: _Optional[str] = ..., tool: _Optional[str] = ..., arguments: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ToolResult(_message.Message):
    __slots__ = ("call_id", "tool", "result", "text", "error", "duration")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    tool: str
    result: _struct_pb2.Struct
    text: str
    error: _error_pb2.Error
    duration: _duration_pb2.Duration
    def __init__(self, call_id: _Optional[str] = ..., tool: _Optional[str] = ..., result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., text: _Optional[str] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("text", "reason", "citations", "usage", "ledger", "degraded", "cached")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    text: str
    reason: _generator_pb2.FinishReason
    citations: _containers.RepeatedCompositeFieldContainer[_passage_pb2.Citation]
    usage: _accounting_pb2.Usage
    ledger: _accounting_pb2.Ledger
    degraded: _containers.RepeatedCompositeFieldContainer[_accounting_pb2.Degradation]
    cached: bool
    def __init__(self, text: _Optional[str] = ..., reason: _Optional[_Union[_generator_pb2.FinishReason, str]] = ..., citations: _Optional[_Iterable[_Union[_passage_pb2.Citation, _Mapping]]] = ..., usage: _Optional[_Union[_accounting_pb2.Usage, _Mapping]] = ..., ledger: _Optional[_Union[_accounting_pb2.Ledger, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[_accounting_pb2.Degradation, _Mapping]]] = ..., cached: bool = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("name", "create_time", "expire_time", "turn_count", "variables")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    TURN_COUNT_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    turn_count: int
    variables: _struct_pb2.Struct
    def __init__(self, name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., turn_count: _Optional[int] = ..., variables: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("name", "state", "question", "finished", "create_time", "trace_id", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: TurnState
    question: str
    finished: Finished
    create_time: _timestamp_pb2.Timestamp
    trace_id: str
    error: _error_pb2.Error
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[TurnState, str]] = ..., question: _Optional[str] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace_id: _Optional[str] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListTurnsRequest(_message.Message):
    __slots__ = ("session", "page_size", "page_token")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session: str
    page_size: int
    page_token: str
    def __init__(self, session: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTurnsResponse(_message.Message):
    __slots__ = ("turns", "next_page_token")
    TURNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    next_page_token: str
    def __init__(self, turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

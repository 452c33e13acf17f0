import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from weft.common.v1 import epoch_pb2 as _epoch_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExtractorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXTRACTOR_KIND_UNSPECIFIED: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_TEXT: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_NUMBER: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_EXPRESSION: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_DATE: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_CONSTANT: _ClassVar[ExtractorKind]
    EXTRACTOR_KIND_PAST_DATE: _ClassVar[ExtractorKind]
EXTRACTOR_KIND_UNSPECIFIED: ExtractorKind
EXTRACTOR_KIND_TEXT: ExtractorKind
EXTRACTOR_KIND_NUMBER: ExtractorKind
EXTRACTOR_KIND_EXPRESSION: ExtractorKind
EXTRACTOR_KIND_DATE: ExtractorKind
EXTRACTOR_KIND_CONSTANT: ExtractorKind
EXTRACTOR_KIND_PAST_DATE: ExtractorKind

class ToolSpec(_message.Message):
    __slots__ = ("name", "description", "input_schema", "output_schema", "timeout", "max_concurrency", "read_only", "patterns", "hint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    input_schema: _struct_pb2.Struct
    output_schema: _struct_pb2.Struct
    timeout: _duration_pb2.Duration
    max_concurrency: int
    read_only: bool
    patterns: _containers.RepeatedCompositeFieldContainer[ToolPattern]
    hint: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., input_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., output_schema: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_concurrency: _Optional[int] = ..., read_only: bool = ..., patterns: _Optional[_Iterable[_Union[ToolPattern, _Mapping]]] = ..., hint: _Optional[str] = ...) -> None: ...

class ToolPattern(_message.Message):
    __slots__ = ("regex", "arguments")
    REGEX_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    regex: str
    arguments: _containers.RepeatedCompositeFieldContainer[ArgumentExtractor]
    def __init__(self, regex: _Optional[str] = ..., arguments: _Optional[_Iterable[_Union[ArgumentExtractor, _Mapping]]] = ...) -> None: ...

class ArgumentExtractor(_message.Message):
    __slots__ = ("argument", "group", "kind", "constant", "optional")
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    argument: str
    group: str
    kind: ExtractorKind
    constant: _struct_pb2.Value
    optional: bool
    def __init__(self, argument: _Optional[str] = ..., group: _Optional[str] = ..., kind: _Optional[_Union[ExtractorKind, str]] = ..., constant: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., optional: bool = ...) -> None: ...

class ListToolsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListToolsResponse(_message.Message):
    __slots__ = ("tools", "next_page_token")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedCompositeFieldContainer[ToolSpec]
    next_page_token: str
    def __init__(self, tools: _Optional[_Iterable[_Union[ToolSpec, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CallToolRequest(_message.Message):
    __slots__ = ("name", "arguments", "call_id", "today", "scope")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TODAY_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    arguments: _struct_pb2.Struct
    call_id: str
    today: str
    scope: DocumentScope
    def __init__(self, name: _Optional[str] = ..., arguments: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., call_id: _Optional[str] = ..., today: _Optional[str] = ..., scope: _Optional[_Union[DocumentScope, _Mapping]] = ...) -> None: ...

class DocumentScope(_message.Message):
    __slots__ = ("collection", "filter", "min_epoch")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MIN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    collection: str
    filter: str
    min_epoch: _epoch_pb2.Epoch
    def __init__(self, collection: _Optional[str] = ..., filter: _Optional[str] = ..., min_epoch: _Optional[_Union[_epoch_pb2.Epoch, _Mapping]] = ...) -> None: ...

class CallToolResponse(_message.Message):
    __slots__ = ("result", "text", "duration")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    result: _struct_pb2.Struct
    text: str
    duration: _duration_pb2.Duration
    def __init__(self, result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., text: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

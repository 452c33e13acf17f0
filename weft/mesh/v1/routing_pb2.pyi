from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionWeight(_message.Message):
    __slots__ = ("version", "weight")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    version: str
    weight: int
    def __init__(self, version: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class HeaderRoute(_message.Message):
    __slots__ = ("header", "value", "version")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    header: str
    value: str
    version: str
    def __init__(self, header: _Optional[str] = ..., value: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class RoutePolicy(_message.Message):
    __slots__ = ("service", "weights", "headers", "revision")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    service: str
    weights: _containers.RepeatedCompositeFieldContainer[VersionWeight]
    headers: _containers.RepeatedCompositeFieldContainer[HeaderRoute]
    revision: int
    def __init__(self, service: _Optional[str] = ..., weights: _Optional[_Iterable[_Union[VersionWeight, _Mapping]]] = ..., headers: _Optional[_Iterable[_Union[HeaderRoute, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class PolicyStatus(_message.Message):
    __slots__ = ("policy", "problem", "snapshot_version")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    policy: RoutePolicy
    problem: str
    snapshot_version: str
    def __init__(self, policy: _Optional[_Union[RoutePolicy, _Mapping]] = ..., problem: _Optional[str] = ..., snapshot_version: _Optional[str] = ...) -> None: ...

class SetRoutePolicyRequest(_message.Message):
    __slots__ = ("policy", "force")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    policy: RoutePolicy
    force: bool
    def __init__(self, policy: _Optional[_Union[RoutePolicy, _Mapping]] = ..., force: bool = ...) -> None: ...

class SetRoutePolicyResponse(_message.Message):
    __slots__ = ("policy", "warnings")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    policy: RoutePolicy
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, policy: _Optional[_Union[RoutePolicy, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class GetRoutePolicyRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class GetRoutePolicyResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: PolicyStatus
    def __init__(self, status: _Optional[_Union[PolicyStatus, _Mapping]] = ...) -> None: ...

class ListRoutePoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRoutePoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyStatus]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyStatus, _Mapping]]] = ...) -> None: ...

class DeleteRoutePolicyRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class DeleteRoutePolicyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

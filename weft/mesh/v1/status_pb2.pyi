import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from weft.mesh.v1 import registry_pb2 as _registry_pb2
from weft.mesh.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_UNSPECIFIED: _ClassVar[Health]
    HEALTH_SERVING: _ClassVar[Health]
    HEALTH_NOT_SERVING: _ClassVar[Health]
    HEALTH_HELD: _ClassVar[Health]
HEALTH_UNSPECIFIED: Health
HEALTH_SERVING: Health
HEALTH_NOT_SERVING: Health
HEALTH_HELD: Health

class Load(_message.Message):
    __slots__ = ("cpu", "pending", "gpu_memory", "rps", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CPU_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_FIELD_NUMBER: _ClassVar[int]
    RPS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    cpu: float
    pending: float
    gpu_memory: float
    rps: float
    figures: _containers.ScalarMap[str, float]
    def __init__(self, cpu: _Optional[float] = ..., pending: _Optional[float] = ..., gpu_memory: _Optional[float] = ..., rps: _Optional[float] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("instance", "health", "load", "problem")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    instance: _registry_pb2.Instance
    health: Health
    load: Load
    problem: str
    def __init__(self, instance: _Optional[_Union[_registry_pb2.Instance, _Mapping]] = ..., health: _Optional[_Union[Health, str]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., problem: _Optional[str] = ...) -> None: ...

class GetMeshStatusRequest(_message.Message):
    __slots__ = ("with_load",)
    WITH_LOAD_FIELD_NUMBER: _ClassVar[int]
    with_load: bool
    def __init__(self, with_load: bool = ...) -> None: ...

class GetMeshStatusResponse(_message.Message):
    __slots__ = ("instances", "policies", "snapshot_version", "snapshot_time", "registry", "registry_available", "otlp_endpoint", "subscribers")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TIME_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    OTLP_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBERS_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatus]
    policies: _containers.RepeatedCompositeFieldContainer[_routing_pb2.PolicyStatus]
    snapshot_version: str
    snapshot_time: _timestamp_pb2.Timestamp
    registry: str
    registry_available: bool
    otlp_endpoint: str
    subscribers: int
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceStatus, _Mapping]]] = ..., policies: _Optional[_Iterable[_Union[_routing_pb2.PolicyStatus, _Mapping]]] = ..., snapshot_version: _Optional[str] = ..., snapshot_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., registry: _Optional[str] = ..., registry_available: bool = ..., otlp_endpoint: _Optional[str] = ..., subscribers: _Optional[int] = ...) -> None: ...

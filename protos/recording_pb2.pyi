from pi0_edge.protos import bridge_pb2 as _bridge_pb2
from pi0_edge.protos import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordedObservation(_message.Message):
    __slots__ = ("time_ns", "tick", "images", "state", "prompt", "noise_seed", "continuation")
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NOISE_SEED_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    time_ns: int
    tick: int
    images: _containers.RepeatedCompositeFieldContainer[RecordedImage]
    state: _containers.RepeatedScalarFieldContainer[float]
    prompt: str
    noise_seed: int
    continuation: _policy_pb2.Continuation
    def __init__(self, time_ns: _Optional[int] = ..., tick: _Optional[int] = ..., images: _Optional[_Iterable[_Union[RecordedImage, _Mapping]]] = ..., state: _Optional[_Iterable[float]] = ..., prompt: _Optional[str] = ..., noise_seed: _Optional[int] = ..., continuation: _Optional[_Union[_policy_pb2.Continuation, _Mapping]] = ...) -> None: ...

class RecordedImage(_message.Message):
    __slots__ = ("camera", "sequence", "taken_ns", "height", "width", "crc")
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TAKEN_NS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    camera: str
    sequence: int
    taken_ns: int
    height: int
    width: int
    crc: int
    def __init__(self, camera: _Optional[str] = ..., sequence: _Optional[int] = ..., taken_ns: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., crc: _Optional[int] = ...) -> None: ...

class RecordedAnswer(_message.Message):
    __slots__ = ("observation_ns", "time_ns", "chunk", "to_chunk_ms", "report")
    OBSERVATION_NS_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    TO_CHUNK_MS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    observation_ns: int
    time_ns: int
    chunk: _policy_pb2.Chunk
    to_chunk_ms: float
    report: _bridge_pb2.ChunkReport
    def __init__(self, observation_ns: _Optional[int] = ..., time_ns: _Optional[int] = ..., chunk: _Optional[_Union[_policy_pb2.Chunk, _Mapping]] = ..., to_chunk_ms: _Optional[float] = ..., report: _Optional[_Union[_bridge_pb2.ChunkReport, _Mapping]] = ...) -> None: ...

class RecordedTick(_message.Message):
    __slots__ = ("tick", "time_ns", "counter", "counter_hz", "state", "faults", "ring_level", "chunk_id", "observed_tick", "flags", "host_time_s", "executed", "measured", "measurement_age_s", "current", "joint_flags", "fault_joint")
    TICK_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    COUNTER_HZ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    RING_LEVEL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TICK_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    HOST_TIME_S_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENT_AGE_S_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    JOINT_FLAGS_FIELD_NUMBER: _ClassVar[int]
    FAULT_JOINT_FIELD_NUMBER: _ClassVar[int]
    tick: int
    time_ns: int
    counter: int
    counter_hz: int
    state: _bridge_pb2.State
    faults: int
    ring_level: int
    chunk_id: int
    observed_tick: int
    flags: int
    host_time_s: float
    executed: _containers.RepeatedScalarFieldContainer[float]
    measured: _containers.RepeatedScalarFieldContainer[float]
    measurement_age_s: _containers.RepeatedScalarFieldContainer[float]
    current: _containers.RepeatedScalarFieldContainer[float]
    joint_flags: _containers.RepeatedScalarFieldContainer[int]
    fault_joint: str
    def __init__(self, tick: _Optional[int] = ..., time_ns: _Optional[int] = ..., counter: _Optional[int] = ..., counter_hz: _Optional[int] = ..., state: _Optional[_Union[_bridge_pb2.State, str]] = ..., faults: _Optional[int] = ..., ring_level: _Optional[int] = ..., chunk_id: _Optional[int] = ..., observed_tick: _Optional[int] = ..., flags: _Optional[int] = ..., host_time_s: _Optional[float] = ..., executed: _Optional[_Iterable[float]] = ..., measured: _Optional[_Iterable[float]] = ..., measurement_age_s: _Optional[_Iterable[float]] = ..., current: _Optional[_Iterable[float]] = ..., joint_flags: _Optional[_Iterable[int]] = ..., fault_joint: _Optional[str] = ...) -> None: ...

class RecordedEvent(_message.Message):
    __slots__ = ("tick", "time_ns", "name", "text")
    TICK_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    tick: int
    time_ns: int
    name: str
    text: str
    def __init__(self, tick: _Optional[int] = ..., time_ns: _Optional[int] = ..., name: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

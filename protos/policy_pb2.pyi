from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Gate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_NONE: _ClassVar[Gate]
    GATE_PASSED: _ClassVar[Gate]
    GATE_FAILED: _ClassVar[Gate]
    GATE_MISSING: _ClassVar[Gate]
GATE_NONE: Gate
GATE_PASSED: Gate
GATE_FAILED: Gate
GATE_MISSING: Gate

class ObservationClock(_message.Message):
    __slots__ = ("tick", "capture_time_ns")
    TICK_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    tick: int
    capture_time_ns: int
    def __init__(self, tick: _Optional[int] = ..., capture_time_ns: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("camera", "height", "width", "rgb", "jpeg")
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    RGB_FIELD_NUMBER: _ClassVar[int]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    camera: str
    height: int
    width: int
    rgb: bytes
    jpeg: bytes
    def __init__(self, camera: _Optional[str] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., rgb: _Optional[bytes] = ..., jpeg: _Optional[bytes] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("images", "state", "prompt", "clock", "noise_seed", "continuation")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    NOISE_SEED_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    state: _containers.RepeatedScalarFieldContainer[float]
    prompt: str
    clock: ObservationClock
    noise_seed: int
    continuation: Continuation
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., state: _Optional[_Iterable[float]] = ..., prompt: _Optional[str] = ..., clock: _Optional[_Union[ObservationClock, _Mapping]] = ..., noise_seed: _Optional[int] = ..., continuation: _Optional[_Union[Continuation, _Mapping]] = ...) -> None: ...

class Continuation(_message.Message):
    __slots__ = ("actions", "delay", "method", "schedule", "overlap", "max_weight")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GUIDED: _ClassVar[Continuation.Method]
        FROZEN_PREFIX: _ClassVar[Continuation.Method]
    GUIDED: Continuation.Method
    FROZEN_PREFIX: Continuation.Method
    class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LINEAR: _ClassVar[Continuation.Schedule]
        EXP: _ClassVar[Continuation.Schedule]
        ONES: _ClassVar[Continuation.Schedule]
        ZEROS: _ClassVar[Continuation.Schedule]
    LINEAR: Continuation.Schedule
    EXP: Continuation.Schedule
    ONES: Continuation.Schedule
    ZEROS: Continuation.Schedule
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    MAX_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    actions: _containers.RepeatedScalarFieldContainer[float]
    delay: int
    method: Continuation.Method
    schedule: Continuation.Schedule
    overlap: int
    max_weight: float
    def __init__(self, actions: _Optional[_Iterable[float]] = ..., delay: _Optional[int] = ..., method: _Optional[_Union[Continuation.Method, str]] = ..., schedule: _Optional[_Union[Continuation.Schedule, str]] = ..., overlap: _Optional[int] = ..., max_weight: _Optional[float] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("horizon", "action_dim", "actions", "clock", "timing", "overrides", "prefix_age_ms")
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    ACTION_DIM_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    PREFIX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    horizon: int
    action_dim: int
    actions: _containers.RepeatedScalarFieldContainer[float]
    clock: ObservationClock
    timing: Timing
    overrides: _containers.RepeatedScalarFieldContainer[str]
    prefix_age_ms: float
    def __init__(self, horizon: _Optional[int] = ..., action_dim: _Optional[int] = ..., actions: _Optional[_Iterable[float]] = ..., clock: _Optional[_Union[ObservationClock, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., overrides: _Optional[_Iterable[str]] = ..., prefix_age_ms: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("preprocess_ms", "infer_ms", "postprocess_ms")
    PREPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    INFER_MS_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    def __init__(self, preprocess_ms: _Optional[float] = ..., infer_ms: _Optional[float] = ..., postprocess_ms: _Optional[float] = ...) -> None: ...

class MetadataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PolicyMetadata(_message.Message):
    __slots__ = ("model", "engine", "scheme", "horizon", "action_dim", "state_dim", "control_hz", "cameras", "default_prompt", "checkpoint_sha256", "trained_delay", "bundle_sha256", "gate", "gate_reasons", "overrides", "action_names", "refuses_continuation")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    ACTION_DIM_FIELD_NUMBER: _ClassVar[int]
    STATE_DIM_FIELD_NUMBER: _ClassVar[int]
    CONTROL_HZ_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    TRAINED_DELAY_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SHA256_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    GATE_REASONS_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    ACTION_NAMES_FIELD_NUMBER: _ClassVar[int]
    REFUSES_CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    model: str
    engine: str
    scheme: str
    horizon: int
    action_dim: int
    state_dim: int
    control_hz: float
    cameras: _containers.RepeatedScalarFieldContainer[str]
    default_prompt: str
    checkpoint_sha256: str
    trained_delay: int
    bundle_sha256: str
    gate: Gate
    gate_reasons: _containers.RepeatedScalarFieldContainer[str]
    overrides: _containers.RepeatedScalarFieldContainer[str]
    action_names: _containers.RepeatedScalarFieldContainer[str]
    refuses_continuation: bool
    def __init__(self, model: _Optional[str] = ..., engine: _Optional[str] = ..., scheme: _Optional[str] = ..., horizon: _Optional[int] = ..., action_dim: _Optional[int] = ..., state_dim: _Optional[int] = ..., control_hz: _Optional[float] = ..., cameras: _Optional[_Iterable[str]] = ..., default_prompt: _Optional[str] = ..., checkpoint_sha256: _Optional[str] = ..., trained_delay: _Optional[int] = ..., bundle_sha256: _Optional[str] = ..., gate: _Optional[_Union[Gate, str]] = ..., gate_reasons: _Optional[_Iterable[str]] = ..., overrides: _Optional[_Iterable[str]] = ..., action_names: _Optional[_Iterable[str]] = ..., refuses_continuation: bool = ...) -> None: ...

from pi0_edge.protos import policy_pb2 as _policy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_DISARMED: _ClassVar[State]
    STATE_ARMED: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_STARVED: _ClassVar[State]
    STATE_SAFE: _ClassVar[State]
    STATE_ESTOP: _ClassVar[State]
STATE_DISARMED: State
STATE_ARMED: State
STATE_RUNNING: State
STATE_STARVED: State
STATE_SAFE: State
STATE_ESTOP: State

class ArmRequest(_message.Message):
    __slots__ = ("client", "joint_names")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOINT_NAMES_FIELD_NUMBER: _ClassVar[int]
    client: str
    joint_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client: _Optional[str] = ..., joint_names: _Optional[_Iterable[str]] = ...) -> None: ...

class ArmReply(_message.Message):
    __slots__ = ("lease", "state")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    lease: str
    state: State
    def __init__(self, lease: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ...) -> None: ...

class CommandRequest(_message.Message):
    __slots__ = ("lease", "reason")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease: str
    reason: str
    def __init__(self, lease: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CommandReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: State
    def __init__(self, state: _Optional[_Union[State, str]] = ...) -> None: ...

class PlayRequest(_message.Message):
    __slots__ = ("lease", "chunk")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    lease: str
    chunk: _policy_pb2.Chunk
    def __init__(self, lease: _Optional[str] = ..., chunk: _Optional[_Union[_policy_pb2.Chunk, _Mapping]] = ...) -> None: ...

class ChunkReport(_message.Message):
    __slots__ = ("outcome", "reason", "chunk_id", "first_tick", "skipped", "retransmissions", "sent_tick", "decided_tick", "follows", "splice_ms", "serial_ms", "decided_time_s", "head_steps", "head_tick", "rest_ms")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACCEPTED: _ClassVar[ChunkReport.Outcome]
        LATE: _ClassVar[ChunkReport.Outcome]
        REJECTED: _ClassVar[ChunkReport.Outcome]
        LOST: _ClassVar[ChunkReport.Outcome]
    ACCEPTED: ChunkReport.Outcome
    LATE: ChunkReport.Outcome
    REJECTED: ChunkReport.Outcome
    LOST: ChunkReport.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_TICK_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    RETRANSMISSIONS_FIELD_NUMBER: _ClassVar[int]
    SENT_TICK_FIELD_NUMBER: _ClassVar[int]
    DECIDED_TICK_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    SPLICE_MS_FIELD_NUMBER: _ClassVar[int]
    SERIAL_MS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_TIME_S_FIELD_NUMBER: _ClassVar[int]
    HEAD_STEPS_FIELD_NUMBER: _ClassVar[int]
    HEAD_TICK_FIELD_NUMBER: _ClassVar[int]
    REST_MS_FIELD_NUMBER: _ClassVar[int]
    outcome: ChunkReport.Outcome
    reason: str
    chunk_id: int
    first_tick: int
    skipped: int
    retransmissions: int
    sent_tick: int
    decided_tick: int
    follows: int
    splice_ms: float
    serial_ms: float
    decided_time_s: float
    head_steps: int
    head_tick: int
    rest_ms: float
    def __init__(self, outcome: _Optional[_Union[ChunkReport.Outcome, str]] = ..., reason: _Optional[str] = ..., chunk_id: _Optional[int] = ..., first_tick: _Optional[int] = ..., skipped: _Optional[int] = ..., retransmissions: _Optional[int] = ..., sent_tick: _Optional[int] = ..., decided_tick: _Optional[int] = ..., follows: _Optional[int] = ..., splice_ms: _Optional[float] = ..., serial_ms: _Optional[float] = ..., decided_time_s: _Optional[float] = ..., head_steps: _Optional[int] = ..., head_tick: _Optional[int] = ..., rest_ms: _Optional[float] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("state", "link_up", "owner", "tick", "joint_count", "tick_period_s", "counters", "round_trip_ms", "joint_names", "limits_hash", "protocol_version", "problem", "clock", "age", "joints", "fault_joint", "faults", "splice")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LINK_UP_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    JOINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TICK_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
    JOINT_NAMES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_HASH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    JOINTS_FIELD_NUMBER: _ClassVar[int]
    FAULT_JOINT_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    SPLICE_FIELD_NUMBER: _ClassVar[int]
    state: State
    link_up: bool
    owner: str
    tick: int
    joint_count: int
    tick_period_s: float
    counters: LinkCounters
    round_trip_ms: float
    joint_names: _containers.RepeatedScalarFieldContainer[str]
    limits_hash: int
    protocol_version: int
    problem: str
    clock: ClockEstimate
    age: AgeOfInformation
    joints: _containers.RepeatedCompositeFieldContainer[JointHealth]
    fault_joint: str
    faults: int
    splice: str
    def __init__(self, state: _Optional[_Union[State, str]] = ..., link_up: bool = ..., owner: _Optional[str] = ..., tick: _Optional[int] = ..., joint_count: _Optional[int] = ..., tick_period_s: _Optional[float] = ..., counters: _Optional[_Union[LinkCounters, _Mapping]] = ..., round_trip_ms: _Optional[float] = ..., joint_names: _Optional[_Iterable[str]] = ..., limits_hash: _Optional[int] = ..., protocol_version: _Optional[int] = ..., problem: _Optional[str] = ..., clock: _Optional[_Union[ClockEstimate, _Mapping]] = ..., age: _Optional[_Union[AgeOfInformation, _Mapping]] = ..., joints: _Optional[_Iterable[_Union[JointHealth, _Mapping]]] = ..., fault_joint: _Optional[str] = ..., faults: _Optional[int] = ..., splice: _Optional[str] = ...) -> None: ...

class JointHealth(_message.Message):
    __slots__ = ("name", "temperature", "volts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    VOLTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    temperature: float
    volts: float
    def __init__(self, name: _Optional[str] = ..., temperature: _Optional[float] = ..., volts: _Optional[float] = ...) -> None: ...

class AgeOfInformation(_message.Message):
    __slots__ = ("ticks", "p50_ms", "p99_ms", "max_ms")
    TICKS_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    ticks: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    def __init__(self, ticks: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., max_ms: _Optional[float] = ...) -> None: ...

class ClockEstimate(_message.Message):
    __slots__ = ("drift_ppm", "uncertainty_ms", "round_trips", "rejected", "steps")
    DRIFT_PPM_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_MS_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIPS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    drift_ppm: float
    uncertainty_ms: float
    round_trips: int
    rejected: int
    steps: int
    def __init__(self, drift_ppm: _Optional[float] = ..., uncertainty_ms: _Optional[float] = ..., round_trips: _Optional[int] = ..., rejected: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class LinkCounters(_message.Message):
    __slots__ = ("frames_received", "crc_errors", "framing_errors", "duplicate_frames", "sequence_gaps", "receive_overruns", "chunks_accepted", "chunks_refused", "starved_ticks", "limited_ticks", "missed_ticks", "bus_errors")
    FRAMES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CRC_ERRORS_FIELD_NUMBER: _ClassVar[int]
    FRAMING_ERRORS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_GAPS_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_OVERRUNS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    STARVED_TICKS_FIELD_NUMBER: _ClassVar[int]
    LIMITED_TICKS_FIELD_NUMBER: _ClassVar[int]
    MISSED_TICKS_FIELD_NUMBER: _ClassVar[int]
    BUS_ERRORS_FIELD_NUMBER: _ClassVar[int]
    frames_received: int
    crc_errors: int
    framing_errors: int
    duplicate_frames: int
    sequence_gaps: int
    receive_overruns: int
    chunks_accepted: int
    chunks_refused: int
    starved_ticks: int
    limited_ticks: int
    missed_ticks: int
    bus_errors: int
    def __init__(self, frames_received: _Optional[int] = ..., crc_errors: _Optional[int] = ..., framing_errors: _Optional[int] = ..., duplicate_frames: _Optional[int] = ..., sequence_gaps: _Optional[int] = ..., receive_overruns: _Optional[int] = ..., chunks_accepted: _Optional[int] = ..., chunks_refused: _Optional[int] = ..., starved_ticks: _Optional[int] = ..., limited_ticks: _Optional[int] = ..., missed_ticks: _Optional[int] = ..., bus_errors: _Optional[int] = ...) -> None: ...

class TelemetryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("tick", "counter", "counter_hz", "state", "faults", "ring_level", "chunk_id", "flags", "executed", "clock", "host_time_s", "observed_tick", "measured", "measurement_age_s", "current", "joint_flags", "fault_joint")
    TICK_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    COUNTER_HZ_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    RING_LEVEL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    HOST_TIME_S_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_TICK_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENT_AGE_S_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    JOINT_FLAGS_FIELD_NUMBER: _ClassVar[int]
    FAULT_JOINT_FIELD_NUMBER: _ClassVar[int]
    tick: int
    counter: int
    counter_hz: int
    state: State
    faults: int
    ring_level: int
    chunk_id: int
    flags: int
    executed: _containers.RepeatedScalarFieldContainer[float]
    clock: ClockEstimate
    host_time_s: float
    observed_tick: int
    measured: _containers.RepeatedScalarFieldContainer[float]
    measurement_age_s: _containers.RepeatedScalarFieldContainer[float]
    current: _containers.RepeatedScalarFieldContainer[float]
    joint_flags: bytes
    fault_joint: str
    def __init__(self, tick: _Optional[int] = ..., counter: _Optional[int] = ..., counter_hz: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., faults: _Optional[int] = ..., ring_level: _Optional[int] = ..., chunk_id: _Optional[int] = ..., flags: _Optional[int] = ..., executed: _Optional[_Iterable[float]] = ..., clock: _Optional[_Union[ClockEstimate, _Mapping]] = ..., host_time_s: _Optional[float] = ..., observed_tick: _Optional[int] = ..., measured: _Optional[_Iterable[float]] = ..., measurement_age_s: _Optional[_Iterable[float]] = ..., current: _Optional[_Iterable[float]] = ..., joint_flags: _Optional[bytes] = ..., fault_joint: _Optional[str] = ...) -> None: ...

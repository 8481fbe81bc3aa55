"""Messages of the serial link. Do not edit.

Generated from `serial_link.yaml` by `python -m pi0_edge.protos.codegen.generate`.

`pack` returns the payload of a frame (no header, no CRC, no COBS), `unpack` reads one back. Little endian, packed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

VERSION = 2
MAX_FRAME = 240
MAX_JOINTS = 32
MAX_HORIZON = 64
RING_DEPTH = 128
NO_JOINT = 255
HEADER_SIZE = 3
CRC_SIZE = 4
MAX_PAYLOAD = 233
SCHEMA_HASH = 0x47358503


def _pack(name: str, layout: str, values: tuple[float, ...]) -> bytes:
    try:
        return struct.pack(layout, *values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{name}: {error}; found {values}") from error


def _unpack(name: str, layout: str, payload: bytes) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    if len(payload) != size:
        raise ValueError(f"{name}: payload of {len(payload)} bytes, expected {size}")
    return struct.unpack(layout, payload)


def _split(name: str, layout: str, payload: bytes) -> tuple[tuple[int, ...], bytes]:
    size = struct.calcsize(layout)
    if len(payload) < size:
        raise ValueError(f"{name}: payload of {len(payload)} bytes, expected at least {size}")
    return struct.unpack_from(layout, payload), payload[size:]


def _check_count(name: str, field: str, found: int, expected: int, capacity: int) -> None:
    if found != expected:
        raise ValueError(f"{name}: {field} holds {found} values, expected {expected}")
    if found > capacity:
        raise ValueError(f"{name}: {field} holds {found} values, at most {capacity} fit in one frame")


class State(IntEnum):
    """`State` of the schema."""

    DISARMED = 0
    ARMED = 1
    RUNNING = 2
    STARVED = 3
    SAFE = 4
    ESTOP = 5


class CommandResult(IntEnum):
    """`CommandResult` of the schema."""

    OK = 0
    WRONG_STATE = 1
    NO_HEARTBEAT = 2
    UNKNOWN_COMMAND = 3
    NOT_MEASURED = 4
    OUTSIDE_LIMITS = 5


class ChunkResult(IntEnum):
    """`ChunkResult` of the schema."""

    ACCEPTED = 0
    INCOMPLETE = 1
    LATE = 2
    STALE = 3
    TOO_FAR_AHEAD = 4
    NOT_ARMED = 5
    WRONG_SHAPE = 6
    OUT_OF_RANGE = 7
    OUT_OF_REACH = 8


class Command(IntEnum):
    """`Command` of the schema."""

    ARM = 1
    DISARM = 2
    CLEAR = 3
    ESTOP = 4
    RELEASE = 5


class MeasuredRow(IntEnum):
    """`MeasuredRow` of the schema."""

    POSITION = 0
    CURRENT = 1
    CONDITION = 2


class HealthRow(IntEnum):
    """`HealthRow` of the schema."""

    TEMPERATURE = 0
    VOLTAGE = 1


class ResetCause(IntEnum):
    """`ResetCause` of the schema."""

    POWER_ON = 0
    WATCHDOG = 1
    SOFTWARE = 2
    UNKNOWN = 3


class Fault(IntFlag):
    """`Fault` of the schema."""

    STARVATION = 1
    HEARTBEAT = 2
    LIMIT_SATURATION = 4
    ESTOP_COMMAND = 8
    ESTOP_PIN = 16
    WATCHDOG_RESET = 32
    TICK_OVERRUN = 64
    FOLLOWING_ERROR = 128
    CONTACT = 256
    TEMPERATURE = 512
    VOLTAGE = 1024
    BUS_SILENT = 2048
    SERVO_ERROR = 4096


class TickFlag(IntFlag):
    """`TickFlag` of the schema."""

    EXECUTED = 1
    STARVED = 2
    POSITION_LIMITED = 4
    VELOCITY_LIMITED = 8
    ACCELERATION_LIMITED = 16
    TICKS_MISSED = 32


class JointFlag(IntFlag):
    """`JointFlag` of the schema."""

    MEASURED = 1
    TORQUE = 2
    VOLTAGE = 4
    OVERHEATED = 8
    OVERLOADED = 16
    ENCODER = 32
    RESTARTED = 64


@dataclass(frozen=True)
class Header:
    """What every frame begins with."""

    LAYOUT: ClassVar[str] = "<BH"

    type: int
    seq: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.type, self.seq)
        return _pack("Header", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Header:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Header", cls.LAYOUT, payload))


@dataclass(frozen=True)
class Hello:
    """From host to microcontroller."""

    ID: ClassVar[int] = 0x01
    LAYOUT: ClassVar[str] = "<I"

    schema_hash: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.schema_hash,)
        return _pack("Hello", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Hello", cls.LAYOUT, payload))


@dataclass(frozen=True)
class Ping:
    """From host to microcontroller."""

    ID: ClassVar[int] = 0x02
    LAYOUT: ClassVar[str] = "<IQ"

    ping_id: int
    host_time_us: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.ping_id, self.host_time_us)
        return _pack("Ping", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Ping:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Ping", cls.LAYOUT, payload))


@dataclass(frozen=True)
class CommandRequest:
    """From host to microcontroller."""

    ID: ClassVar[int] = 0x03
    LAYOUT: ClassVar[str] = "<IB"

    nonce: int
    command: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.nonce, self.command)
        return _pack("CommandRequest", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> CommandRequest:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("CommandRequest", cls.LAYOUT, payload))


@dataclass(frozen=True)
class Fragment:
    """From host to microcontroller."""

    ID: ClassVar[int] = 0x04
    LAYOUT: ClassVar[str] = "<IIIBBBBBB"
    CAPACITY: ClassVar[int] = 107

    chunk_id: int
    first_tick: int
    observed_tick: int
    step_count: int
    fragment_index: int
    fragment_count: int
    first_step: int
    steps: int
    joints: int
    values: tuple[int, ...]

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit or the tail has the wrong length."""
        _check_count("Fragment", "values", len(self.values), self.steps * self.joints, self.CAPACITY)
        values = (
            self.chunk_id,
            self.first_tick,
            self.observed_tick,
            self.step_count,
            self.fragment_index,
            self.fragment_count,
            self.first_step,
            self.steps,
            self.joints,
        )
        tail = _pack("Fragment", f"<{len(self.values)}h", self.values)
        return _pack("Fragment", self.LAYOUT, values) + tail

    @classmethod
    def unpack(cls, payload: bytes) -> Fragment:
        """Read a payload; `ValueError` where its size does not agree with its own counts."""
        head, body = _split("Fragment", cls.LAYOUT, payload)
        count = head[7] * head[8]
        tail = _unpack("Fragment.values", f"<{count}h", body)
        _check_count("Fragment", "values", len(tail), count, cls.CAPACITY)
        return cls(*head, values=tail)


@dataclass(frozen=True)
class Welcome:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x81
    LAYOUT: ClassVar[str] = "<IIIIHHBB"

    schema_hash: int
    limits_hash: int
    tick_period_us: int
    counter_hz: int
    ring_depth: int
    receive_window: int
    joints: int
    reset_cause: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (
            self.schema_hash,
            self.limits_hash,
            self.tick_period_us,
            self.counter_hz,
            self.ring_depth,
            self.receive_window,
            self.joints,
            self.reset_cause,
        )
        return _pack("Welcome", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Welcome:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Welcome", cls.LAYOUT, payload))


@dataclass(frozen=True)
class Pong:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x82
    LAYOUT: ClassVar[str] = "<IQQI"

    ping_id: int
    host_time_us: int
    counter: int
    tick: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.ping_id, self.host_time_us, self.counter, self.tick)
        return _pack("Pong", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Pong:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Pong", cls.LAYOUT, payload))


@dataclass(frozen=True)
class CommandReply:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x83
    LAYOUT: ClassVar[str] = "<IBBBB"

    nonce: int
    command: int
    result: int
    state: int
    joint: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.nonce, self.command, self.result, self.state, self.joint)
        return _pack("CommandReply", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> CommandReply:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("CommandReply", cls.LAYOUT, payload))


@dataclass(frozen=True)
class ChunkReply:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x84
    LAYOUT: ClassVar[str] = "<IIIBB"

    chunk_id: int
    received: int
    tick: int
    result: int
    joint: int

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (self.chunk_id, self.received, self.tick, self.result, self.joint)
        return _pack("ChunkReply", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> ChunkReply:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("ChunkReply", cls.LAYOUT, payload))


@dataclass(frozen=True)
class Telemetry:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x85
    LAYOUT: ClassVar[str] = "<IQIIHHBBBB"
    CAPACITY: ClassVar[int] = 51

    tick: int
    counter: int
    chunk_id: int
    observed_tick: int
    faults: int
    ring_level: int
    state: int
    flags: int
    fault_joint: int
    joints: int
    executed: tuple[float, ...]

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit or the tail has the wrong length."""
        _check_count("Telemetry", "executed", len(self.executed), self.joints, self.CAPACITY)
        values = (
            self.tick,
            self.counter,
            self.chunk_id,
            self.observed_tick,
            self.faults,
            self.ring_level,
            self.state,
            self.flags,
            self.fault_joint,
            self.joints,
        )
        tail = _pack("Telemetry", f"<{len(self.executed)}f", self.executed)
        return _pack("Telemetry", self.LAYOUT, values) + tail

    @classmethod
    def unpack(cls, payload: bytes) -> Telemetry:
        """Read a payload; `ValueError` where its size does not agree with its own counts."""
        head, body = _split("Telemetry", cls.LAYOUT, payload)
        count = head[9]
        tail = _unpack("Telemetry.executed", f"<{count}f", body)
        _check_count("Telemetry", "executed", len(tail), count, cls.CAPACITY)
        return cls(*head, executed=tail)


@dataclass(frozen=True)
class Measured:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x87
    LAYOUT: ClassVar[str] = "<IBB"
    CAPACITY: ClassVar[int] = 113

    tick: int
    rows: int
    joints: int
    values: tuple[int, ...]

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit or the tail has the wrong length."""
        _check_count("Measured", "values", len(self.values), self.rows * self.joints, self.CAPACITY)
        values = (self.tick, self.rows, self.joints)
        tail = _pack("Measured", f"<{len(self.values)}h", self.values)
        return _pack("Measured", self.LAYOUT, values) + tail

    @classmethod
    def unpack(cls, payload: bytes) -> Measured:
        """Read a payload; `ValueError` where its size does not agree with its own counts."""
        head, body = _split("Measured", cls.LAYOUT, payload)
        count = head[1] * head[2]
        tail = _unpack("Measured.values", f"<{count}h", body)
        _check_count("Measured", "values", len(tail), count, cls.CAPACITY)
        return cls(*head, values=tail)


@dataclass(frozen=True)
class Health:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x88
    LAYOUT: ClassVar[str] = "<IBB"
    CAPACITY: ClassVar[int] = 227

    tick: int
    rows: int
    joints: int
    values: tuple[int, ...]

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit or the tail has the wrong length."""
        _check_count("Health", "values", len(self.values), self.rows * self.joints, self.CAPACITY)
        values = (self.tick, self.rows, self.joints)
        tail = _pack("Health", f"<{len(self.values)}B", self.values)
        return _pack("Health", self.LAYOUT, values) + tail

    @classmethod
    def unpack(cls, payload: bytes) -> Health:
        """Read a payload; `ValueError` where its size does not agree with its own counts."""
        head, body = _split("Health", cls.LAYOUT, payload)
        count = head[1] * head[2]
        tail = _unpack("Health.values", f"<{count}B", body)
        _check_count("Health", "values", len(tail), count, cls.CAPACITY)
        return cls(*head, values=tail)


@dataclass(frozen=True)
class Counters:
    """From microcontroller to host."""

    ID: ClassVar[int] = 0x86
    LAYOUT: ClassVar[str] = "<IIIIIIIIIIII"

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

    def pack(self) -> bytes:
        """Return the payload; `ValueError` where a field does not fit its type."""
        values = (
            self.frames_received,
            self.crc_errors,
            self.framing_errors,
            self.duplicate_frames,
            self.sequence_gaps,
            self.receive_overruns,
            self.chunks_accepted,
            self.chunks_refused,
            self.starved_ticks,
            self.limited_ticks,
            self.missed_ticks,
            self.bus_errors,
        )
        return _pack("Counters", self.LAYOUT, values)

    @classmethod
    def unpack(cls, payload: bytes) -> Counters:
        """Read a payload; `ValueError` where its size is wrong."""
        return cls(*_unpack("Counters", cls.LAYOUT, payload))


Message = (
    Hello
    | Ping
    | CommandRequest
    | Fragment
    | Welcome
    | Pong
    | CommandReply
    | ChunkReply
    | Telemetry
    | Measured
    | Health
    | Counters
)

MESSAGES: dict[int, type[Message]] = {
    Hello.ID: Hello,
    Ping.ID: Ping,
    CommandRequest.ID: CommandRequest,
    Fragment.ID: Fragment,
    Welcome.ID: Welcome,
    Pong.ID: Pong,
    CommandReply.ID: CommandReply,
    ChunkReply.ID: ChunkReply,
    Telemetry.ID: Telemetry,
    Measured.ID: Measured,
    Health.ID: Health,
    Counters.ID: Counters,
}

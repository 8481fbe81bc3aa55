"""What a board says of itself, whatever firmware it runs: nothing is armed, and no heartbeat is sent.

The link refuses a board with other messages or another joint table. An update of the firmware has to know which one it
is. A host without a heartbeat cannot arm, and an arm whose host sends none stops within 200 ms, so that asking is safe.
"""

import secrets
import struct
import time
from dataclasses import dataclass

from firmware_bridge.errors import LinkError
from firmware_bridge.link.framing import DELIMITER, Frame, FrameDecoder, LineCounters, encode_frame
from firmware_bridge.link.port import SerialStream, open_stream
from firmware_bridge.link.session import describe_silence
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import SCHEMA_HASH, VERSION, Hello, State, Telemetry, Welcome

_HELLO_PERIOD_S = 0.1
_WRITE_LIMIT_S = 0.5
_WATCHED_TICKS = 10
_WATCHED_S = 0.5  # longer than a host may be silent before the arm stops


@dataclass(frozen=True)
class BoardIdentity:
    """What a board says of itself.

    Attributes:
        schema_hash: Of the serial messages that its firmware was built from.
        protocol_version: Of those messages; None where they are not those of this SDK.
        limits_hash: Of its joint table; None where its answer has a form that this SDK does not know.
        joints: How many it drives; 0 where that is not known.
        state: Of the arm; None where its telemetry is not readable.
        moving: Whether a commanded position changed while it was watched.
    """

    schema_hash: int
    protocol_version: int | None
    limits_hash: int | None
    joints: int
    state: State | None
    moving: bool

    @property
    def held(self) -> bool:
        """Whether no host can move the arm: it is DISARMED, SAFE or ESTOP.

        With other messages the state is not readable. Such a board heard no heartbeat while it was watched, so it has
        stopped, and no bridge of this SDK can arm it.
        """
        if self.protocol_version is None:
            return True
        return self.state is not None and self.state not in ACTIVE_STATES


def identify_board(port: str, baud: int = 921600, timeout_s: float = 3.0) -> BoardIdentity:
    """Asks the board on a port what it is.

    Args:
        port: Device path, pseudo-terminal or `socket://host:port`; no bridge may have it open.
        baud: Bits per second.
        timeout_s: How long it may take to answer.

    Raises:
        PortError: The port cannot be opened.
        LinkError: Nothing that speaks this protocol answers.
    """
    stream = open_stream(port, baud)
    try:
        stream.write(DELIMITER, _WRITE_LIMIT_S)
        return _ask(stream, timeout_s)
    finally:
        stream.close()


def _ask(stream: SerialStream, timeout_s: float) -> BoardIdentity:
    counters = LineCounters()
    decoder = FrameDecoder(counters)
    welcome: Frame | None = None
    ticks: list[Telemetry] = []
    sequence = secrets.randbelow(0x10000)
    begun = hello_due = time.monotonic()
    while (now := time.monotonic()) < begun + timeout_s:
        if welcome is None and now >= hello_due:
            stream.write(encode_frame(Hello.ID, sequence, Hello(SCHEMA_HASH).pack()), _WRITE_LIMIT_S)
            sequence, hello_due = (sequence + 1) & 0xFFFF, now + _HELLO_PERIOD_S
        for frame in decoder.feed(stream.read(_HELLO_PERIOD_S)):
            if frame.type == Welcome.ID:
                welcome = frame
            elif frame.type == Telemetry.ID:
                ticks += _telemetry(frame)
        if welcome is not None and _is_watched(welcome, ticks, time.monotonic() - begun):
            break
    if welcome is None:
        raise LinkError(describe_silence(counters, timeout_s))
    return _identity(welcome, ticks)


def _is_watched(welcome: Frame, ticks: list[Telemetry], seconds: float) -> bool:
    """Whether enough was seen: ticks that are readable, or as much time where they are not."""
    return seconds >= _WATCHED_S and (len(ticks) >= _WATCHED_TICKS or _schema(welcome) != SCHEMA_HASH)


def _schema(welcome: Frame) -> int:
    """Every version of Welcome begins with it."""
    return struct.unpack_from("<I", welcome.payload)[0] if len(welcome.payload) >= 4 else 0


def _telemetry(frame: Frame) -> list[Telemetry]:
    try:
        return [Telemetry.unpack(frame.payload)]
    except ValueError:
        return []  # of other messages


def _identity(welcome: Frame, ticks: list[Telemetry]) -> BoardIdentity:
    schema = _schema(welcome)
    try:
        known = Welcome.unpack(welcome.payload)
    except ValueError:
        return BoardIdentity(schema, None, None, 0, None, False)
    if schema != SCHEMA_HASH:
        return BoardIdentity(schema, None, known.limits_hash, known.joints, None, False)
    state = State(ticks[-1].state) if ticks else None
    seen = ticks[-_WATCHED_TICKS:]
    moving = any(tick.executed != seen[0].executed for tick in seen)
    return BoardIdentity(schema, VERSION, known.limits_hash, known.joints, state, moving)

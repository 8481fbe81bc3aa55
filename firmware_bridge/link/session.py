"""Messages over one open port: numbers and encodes sent messages, checks and decodes received ones.

One thread receives; any thread may send. Invalid frames are counted in `counters`; they raise no error.
A session begins with the handshake (Hello, Welcome): host and firmware must have the same messages and the same joint
table before anything moves.
"""

import logging
import secrets
import threading
import time

from firmware_bridge.errors import LinkError, ProtocolError
from firmware_bridge.link.framing import DELIMITER, Frame, FrameDecoder, LineCounters, SequenceTracker, encode_frame
from firmware_bridge.link.port import SerialStream
from firmware_bridge.robot import RobotJoints
from pi0_edge.protos.serial_link import MESSAGES, SCHEMA_HASH, VERSION, Hello, Message, Welcome

_WRITE_LIMIT_S = 0.5
_FROM_FIRMWARE = 0x80
_HELLO_PERIOD_S = 0.1

logger = logging.getLogger(__name__)


class LinkSession:
    """The messages over one open port."""

    def __init__(self, stream: SerialStream, counters: LineCounters) -> None:
        self.counters = counters
        self._stream = stream
        self._decoder = FrameDecoder(counters)
        self._sequence = SequenceTracker(counters)
        self._send_lock = threading.Lock()
        self._next_seq = secrets.randbelow(0x10000)  # never just behind what an earlier host sent
        stream.write(DELIMITER, _WRITE_LIMIT_S)  # ends an incomplete frame in the board's decoder

    def send(self, message: Message) -> None:
        """Sends one message.

        Raises:
            LinkError: The port has disappeared or accepts no bytes.
        """
        with self._send_lock:
            frame = encode_frame(message.ID, self._next_seq, message.pack())
            self._next_seq = (self._next_seq + 1) & 0xFFFF
            self._stream.write(frame, _WRITE_LIMIT_S)

    def receive(self, timeout_s: float) -> list[Message]:
        """The messages that have arrived; waits at most `timeout_s` seconds for the first bytes.

        Raises:
            LinkError: The port has disappeared.
        """
        frames = self._decoder.feed(self._stream.read(timeout_s))
        messages = (self._unpack(frame) for frame in frames)
        return [message for message in messages if message is not None]

    def close(self) -> None:
        """Closes the port."""
        with self._send_lock:
            self._stream.close()

    def _unpack(self, frame: Frame) -> Message | None:
        if frame.type == Welcome.ID:
            self._sequence.restart()  # it answers our Hello, perhaps from a board that has just started
        if not self._sequence.accepts(frame.seq):
            return None
        kind = MESSAGES.get(frame.type)
        if kind is None or frame.type < _FROM_FIRMWARE:
            self.counters.framing_errors += 1
            return None
        try:
            return kind.unpack(frame.payload)
        except ValueError as error:
            self.counters.framing_errors += 1
            logger.warning("dropped a message of the firmware: %s", error)
            return None


def shake_hands(session: LinkSession, robot: RobotJoints, timeout_s: float) -> Welcome:
    """Sends Hello until the board answers with Welcome.

    Raises:
        LinkError: No answer within `timeout_s` seconds.
        ProtocolError: Other messages, another joint table or another number of joints.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        session.send(Hello(SCHEMA_HASH))
        asked_at = time.monotonic()
        while (rest := asked_at + _HELLO_PERIOD_S - time.monotonic()) > 0.0:
            for message in session.receive(rest):
                if isinstance(message, Welcome):
                    _check(message, robot)
                    return message
    raise LinkError(describe_silence(session.counters, timeout_s))


def describe_silence(counters: LineCounters, timeout_s: float) -> str:
    """What may be wrong where a board did not answer a Hello for `timeout_s` seconds."""
    damaged = counters.crc_errors + counters.framing_errors
    if counters.frames:
        return f"the firmware sends telemetry but did not answer a Hello within {timeout_s:.1f} s; reset the board"
    if damaged:
        return (
            f"nothing readable arrives ({damaged} damaged frames in {timeout_s:.1f} s): "
            "wrong baud rate, or another kind of device on this port"
        )
    return f"the port is silent for {timeout_s:.1f} s: is the board powered, flashed and on this port?"


def _check(welcome: Welcome, robot: RobotJoints) -> None:
    if welcome.schema_hash != SCHEMA_HASH:
        raise ProtocolError(
            f"the firmware was built from other serial messages (schema {welcome.schema_hash:#010x}) than this host "
            f"(protocol {VERSION}, schema {SCHEMA_HASH:#010x}): one of them is older; run `make firmware` here and "
            "flash the board again"
        )
    if welcome.joints != robot.count:
        raise ProtocolError(
            f"the firmware drives {welcome.joints} joints, robot {robot.name!r} has {robot.count}: "
            "choose the robot with --robot, or flash the firmware built for it"
        )
    if welcome.limits_hash != robot.limits_hash:
        raise ProtocolError(
            f"the firmware was built with another joint table (hash {welcome.limits_hash:#010x}) than robot "
            f"{robot.name!r} on this host (hash {robot.limits_hash:#010x}): run `make firmware`, flash the board again"
        )

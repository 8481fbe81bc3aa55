"""Messages over one open port: numbers and frames what is sent, checks and unpacks what arrives.

One thread receives; any thread may send. What cannot be read is counted in `counters`, never raised.
"""

import logging
import secrets
import threading

from firmware_bridge.framing import DELIMITER, Frame, FrameDecoder, LineCounters, SequenceTracker, encode_frame
from firmware_bridge.serial_stream import SerialStream
from protos.serial_link import MESSAGES, Message, Welcome

_WRITE_LIMIT_S = 0.5
_FROM_FIRMWARE = 0x80

logger = logging.getLogger(__name__)


class LinkSession:
    """One open port, from opening to loss."""

    def __init__(self, stream: SerialStream, counters: LineCounters) -> None:
        self.counters = counters
        self._stream = stream
        self._decoder = FrameDecoder(counters)
        self._sequence = SequenceTracker(counters)
        self._send_lock = threading.Lock()
        self._next_seq = secrets.randbelow(0x10000)  # never just behind what an earlier host sent
        stream.write(DELIMITER, _WRITE_LIMIT_S)  # ends whatever half frame the board may hold

    def send(self, message: Message) -> None:
        """Sends one message.

        Raises:
            LinkError: the port has gone or takes no bytes.
        """
        with self._send_lock:
            frame = encode_frame(message.ID, self._next_seq, message.pack())
            self._next_seq = (self._next_seq + 1) & 0xFFFF
            self._stream.write(frame, _WRITE_LIMIT_S)

    def receive(self, timeout_s: float) -> list[Message]:
        """The messages that have arrived; waits at most `timeout_s` seconds for the first bytes.

        Raises:
            LinkError: the port has gone.
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

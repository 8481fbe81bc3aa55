"""What servos say: the bytes of one servo, and the bytes of all of them with the time at which they have arrived."""

from dataclasses import dataclass

from firmware_bridge.emulator.servo_bus.servo import Servo


@dataclass(frozen=True, slots=True)
class Reply:
    """The packet of one servo, or its piece of a common packet.

    Attributes:
        servo: Who sends it.
        data: The bytes.
        delay_s: Between what came before and its first byte.
    """

    servo: Servo
    data: bytes
    delay_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes for the other end.

    Attributes:
        due: When the last of them has passed the line.
        data: Of one or several replies.
    """

    due: float
    data: bytes

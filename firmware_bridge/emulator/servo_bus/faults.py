"""Faults in what servos say: lost and damaged replies, and two servos with one ID."""

import random
from dataclasses import dataclass, field

from firmware_bridge.emulator.servo_bus.replies import Reply


@dataclass
class ReplyFaults:
    """The faults of one bus.

    Attributes:
        drop_rates: Probability that a reply does not arrive, by ID.
        corrupt_rates: Probability that one bit of it is flipped, by ID.
        doubled: IDs that a second servo has too.
        dropped: Replies that did not arrive.
        corrupted: Replies that arrived damaged.
    """

    random: random.Random
    drop_rates: dict[int, float] = field(default_factory=dict)
    corrupt_rates: dict[int, float] = field(default_factory=dict)
    doubled: set[int] = field(default_factory=set)
    dropped: int = 0
    corrupted: int = 0

    @property
    def active(self) -> bool:
        """Whether any fault is set."""
        return bool(self.drop_rates or self.corrupt_rates or self.doubled)

    def apply(self, reply: Reply) -> bytes:
        """What arrives of a reply."""
        number = reply.servo.id
        if self.random.random() < self.drop_rates.get(number, 0.0):
            self.dropped += 1
            return b""
        data = bytearray(reply.data)
        if number in self.doubled:
            # Both pull the line low whenever either sends a zero bit, out of step with each other.
            data = bytearray(byte & self.random.randrange(256) for byte in data)
            self.corrupted += 1
        elif self.random.random() < self.corrupt_rates.get(number, 0.0):
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            self.corrupted += 1
        return bytes(data)

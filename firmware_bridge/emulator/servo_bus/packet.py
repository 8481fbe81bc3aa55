"""What both protocols have: an instruction to a servo, and a decoder that finds instructions in a stream of bytes."""

import abc
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Packet:
    """One instruction, its parameters without what the wire adds.

    Attributes:
        id: Of the servo.
        instruction: By its number.
        parameters: Behind the instruction.
        size: Bytes on the wire; 0 where it did not come over one.
    """

    id: int
    instruction: int
    parameters: bytes
    size: int = field(default=0, compare=False)


class PacketDecoder(abc.ABC):
    """Finds packets in a stream of bytes, whatever lies between them.

    Attributes:
        bad: Packets with a wrong checksum or an impossible length, or that did not become complete.
    """

    def __init__(self) -> None:
        self.bad = 0
        self._bytes = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a packet that is not complete."""
        return len(self._bytes)

    def forget(self) -> None:
        """Gives up a packet that did not become complete."""
        self.bad += bool(self._bytes)
        self._bytes.clear()

    @abc.abstractmethod
    def feed(self, data: bytes) -> list[Packet]:
        """The packets that these bytes complete."""

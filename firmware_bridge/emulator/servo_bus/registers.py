"""A servo's memory as a table of registers: where each lies, what may be written, and what it holds at the start."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Register:
    """One register, little endian.

    Attributes:
        address: Of its first byte.
        size: In bytes.
        name: As in the vendor's table.
        initial: Factory value, or value after power-on.
        lowest: Smallest value that may be written; None where it is read only.
        highest: Largest value that may be written.
        signed: Two's complement.
    """

    address: int
    size: int
    name: str
    initial: int = 0
    lowest: int | None = None
    highest: int | None = None
    signed: bool = False

    @property
    def writable(self) -> bool:
        """Whether a host may write it."""
        return self.lowest is not None

    def takes(self, value: int) -> bool:
        """Whether a value is in its range."""
        return self.lowest is not None and self.highest is not None and self.lowest <= value <= self.highest


class RegisterTable:
    """The registers of one model.

    Attributes:
        registers: By name.
        size: Bytes of the memory.
        kept: Registers below this address survive without power.
        starting_at: The register that begins at an address.
    """

    def __init__(self, registers: Iterable[Register], kept: int) -> None:
        self.registers = {register.name: register for register in registers}
        self.kept = kept
        self.size = max(register.address + register.size for register in self.registers.values())
        self.starting_at = {register.address: register for register in self.registers.values()}

    def initial(self) -> bytearray:
        """Memory as it comes from the factory."""
        memory = bytearray(self.size)
        for register in self.registers.values():
            self.put(memory, register, register.initial)
        return memory

    def put(self, memory: bytearray, register: Register, value: int) -> None:
        """Stores a value."""
        mask = (1 << 8 * register.size) - 1
        memory[register.address : register.address + register.size] = (value & mask).to_bytes(register.size, "little")

    def get(self, memory: bytearray, register: Register) -> int:
        """The value of a register."""
        return value_of(register, memory[register.address : register.address + register.size])


def value_of(register: Register, data: bytes | bytearray) -> int:
    """The number that bytes mean in a register."""
    return int.from_bytes(data, "little", signed=register.signed)

"""How the servos of one bus answer an instruction of Dynamixel protocol 2.0."""

import struct
from collections.abc import Callable, Iterable, Sequence

from firmware_bridge.emulator.servo_bus.dynamixel_packets import (
    BROADCAST,
    LENGTH_LIMIT,
    Decoder,
    ErrorNumber,
    Instruction,
    fast_status,
    fast_status_length,
    status,
)
from firmware_bridge.emulator.servo_bus.dynamixel_registers import KEPT
from firmware_bridge.emulator.servo_bus.dynamixel_servo import DynamixelServo
from firmware_bridge.emulator.servo_bus.packet import Packet
from firmware_bridge.emulator.servo_bus.replies import Reply

_ADDRESS_AND_SIZE = struct.Struct("<HH")
_ONLY_PING, _PING_AND_READ = 0, 1  # status return levels
_LEVEL_REGISTER = 68
_GOAL_POSITION = 116


class DynamixelDialect:
    """Instructions in, replies out.

    Attributes:
        decoder: Of the bytes that the host sends.
        refused: Instructions that a servo answered, or would have answered, with an error.
    """

    def __init__(self, servos: Sequence[DynamixelServo]) -> None:
        self.decoder = Decoder()
        self.refused = 0
        self._servos = servos
        self._by_id: dict[int, list[DynamixelServo]] = {}
        self._shadows: dict[int, list[DynamixelServo]] = {}
        self._read_addresses()
        self._instructions: dict[int, Callable[[float, Packet, int], list[Reply]]] = {
            Instruction.PING: self._ping,
            Instruction.READ: self._read,
            Instruction.WRITE: self._write,
            Instruction.REG_WRITE: self._reg_write,
            Instruction.ACTION: self._action,
            Instruction.REBOOT: self._reboot,
            Instruction.SYNC_READ: self._sync_read,
            Instruction.SYNC_WRITE: self._sync_write,
            Instruction.FAST_SYNC_READ: self._fast_sync_read,
        }

    def execute(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        """What the servos do and reply, in the order in which they send."""
        instruction = self._instructions.get(packet.instruction)
        if instruction is not None:
            return instruction(now, packet, baud)
        if packet.instruction == Instruction.STATUS:
            return []
        return self._all_reply(self._addressed(now, packet, baud), packet.id, ErrorNumber.INSTRUCTION)

    def commands_goals(self, packet: Packet) -> bool:
        """Whether an instruction tells servos where to go."""
        if packet.instruction != Instruction.SYNC_WRITE or len(packet.parameters) < _ADDRESS_AND_SIZE.size:
            return False
        address, size = _ADDRESS_AND_SIZE.unpack_from(packet.parameters)
        return address <= _GOAL_POSITION < address + size

    def _read_addresses(self) -> None:
        self._by_id, self._shadows = {}, {}
        for servo in self._servos:
            self._by_id.setdefault(servo.id, []).append(servo)
            if servo.secondary_id is not None and servo.secondary_id != servo.id:
                self._shadows.setdefault(servo.secondary_id, []).append(servo)

    def _addressed(self, now: float, packet: Packet, baud: int) -> list[DynamixelServo]:
        some = sorted(self._servos, key=_id_of) if packet.id == BROADCAST else self._by_id.get(packet.id, ())
        return [servo for servo in some if servo.hears(now, baud)]

    def _reply(self, servo: DynamixelServo, error: ErrorNumber, data: bytes = b"") -> Reply:
        self.refused += error is not ErrorNumber.NONE
        return Reply(servo, status(servo.id, servo.error | error, data), servo.return_delay_s)

    def _all_reply(self, servos: Iterable[DynamixelServo], number: int, error: ErrorNumber) -> list[Reply]:
        """To anything but ping and read; nobody answers a broadcast."""
        if number == BROADCAST:
            return []
        return [self._reply(servo, error) for servo in servos if servo.memory[_LEVEL_REGISTER] > _PING_AND_READ]

    def _ping(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        about = {servo: servo.memory[:2] + servo.memory[6:7] for servo in self._addressed(now, packet, baud)}
        return [self._reply(servo, ErrorNumber.NONE, bytes(data)) for servo, data in about.items()]

    def _read(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        replies = []
        if packet.id == BROADCAST:
            return replies
        for servo in self._addressed(now, packet, baud):
            if servo.memory[_LEVEL_REGISTER] == _ONLY_PING:
                continue
            if len(packet.parameters) != _ADDRESS_AND_SIZE.size:
                replies.append(self._reply(servo, ErrorNumber.LENGTH))
                continue
            address, size = _ADDRESS_AND_SIZE.unpack(packet.parameters)
            data = servo.read(now, address, size)
            error = ErrorNumber.ACCESS if data is None else ErrorNumber.NONE
            replies.append(self._reply(servo, error, data or b""))
        return replies

    def _write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        return self._change(now, packet, baud, registered=False)

    def _reg_write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        return self._change(now, packet, baud, registered=True)

    def _change(self, now: float, packet: Packet, baud: int, registered: bool) -> list[Reply]:
        servos = self._addressed(now, packet, baud)
        if len(packet.parameters) < 3:
            return self._all_reply(servos, packet.id, ErrorNumber.LENGTH)
        address, data = packet.parameters[0] | packet.parameters[1] << 8, packet.parameters[2:]
        replies = []
        for servo in servos:
            error = servo.register_write(address, data) if registered else servo.write(address, data)
            replies += self._all_reply([servo], packet.id, error)
        if address >= KEPT:
            for shadow in self._shadows.get(packet.id, ()):
                if shadow.hears(now, baud):
                    (shadow.register_write if registered else shadow.write)(address, data)
        else:
            self._read_addresses()
        return replies

    def _action(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        replies = []
        for servo in self._addressed(now, packet, baud):
            replies += self._all_reply([servo], packet.id, servo.act())
        for shadow in self._shadows.get(packet.id, ()):
            if shadow.hears(now, baud):
                shadow.act()
        self._read_addresses()
        return replies

    def _reboot(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        servos = self._addressed(now, packet, baud)
        replies = self._all_reply(servos, packet.id, ErrorNumber.NONE)
        for servo in servos:
            servo.restart(now)
        return replies

    def _sync_write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        parameters = packet.parameters
        if len(parameters) < _ADDRESS_AND_SIZE.size or packet.id != BROADCAST:
            return []
        address, size = _ADDRESS_AND_SIZE.unpack_from(parameters)
        if (len(parameters) - 4) % (size + 1):
            return []
        for at in range(4, len(parameters), size + 1):
            number, data = parameters[at], parameters[at + 1 : at + 1 + size]
            for servo in self._by_id.get(number, ()):
                if servo.hears(now, baud):
                    self.refused += servo.write(address, data) is not ErrorNumber.NONE
            if number in self._shadows and address >= KEPT:
                for shadow in self._shadows[number]:
                    if shadow.hears(now, baud):
                        shadow.write(address, data)
        if address < KEPT:
            self._read_addresses()
        return []

    def _asked_in_turn(self, now: float, parameters: bytes, baud: int) -> tuple[int, int, list[DynamixelServo]]:
        """Address, size, and the servos up to the first that is silent: those after it wait for it in vain."""
        address, size = _ADDRESS_AND_SIZE.unpack_from(parameters)
        asked = []
        for number in parameters[4:]:
            servos = self._by_id.get(number)
            if not servos or not servos[0].hears(now, baud) or servos[0].memory[_LEVEL_REGISTER] == _ONLY_PING:
                break
            asked.append(servos[0])
        return address, size, asked

    def _sync_read(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        if len(packet.parameters) < _ADDRESS_AND_SIZE.size or packet.id != BROADCAST:
            return []
        address, size, servos = self._asked_in_turn(now, packet.parameters, baud)
        replies = []
        for servo in servos:
            data = servo.read(now, address, size)
            error = ErrorNumber.ACCESS if data is None else ErrorNumber.NONE
            replies.append(self._reply(servo, error, data or b""))
        return replies

    def _fast_sync_read(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        if len(packet.parameters) < _ADDRESS_AND_SIZE.size or packet.id != BROADCAST:
            return []
        address, size, servos = self._asked_in_turn(now, packet.parameters, baud)
        numbers = packet.parameters[_ADDRESS_AND_SIZE.size :]
        if fast_status_length(len(numbers), size) > LENGTH_LIMIT:
            return []  # there is no such packet
        parts = []
        for number in numbers:  # the header counts all that were asked
            data = servos[len(parts)].read(now, address, size) if len(parts) < len(servos) else None
            error = servos[len(parts)].error if len(parts) < len(servos) else 0
            error |= ErrorNumber.ACCESS if data is None else ErrorNumber.NONE
            parts.append((number, error, data or bytes(size)))
        replies = []
        for servo, piece in zip(servos, fast_status(parts), strict=False):
            first = servo.model.fast_sync_read
            if not first or servo.firmware < first:
                break
            replies.append(Reply(servo, piece, 0.0 if replies else servo.return_delay_s))
        return replies


def _id_of(servo: DynamixelServo) -> int:
    return servo.id

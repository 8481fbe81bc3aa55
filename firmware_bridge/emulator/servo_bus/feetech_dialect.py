"""How the servos of one bus answer an instruction of the Feetech STS protocol."""

from collections.abc import Callable, Sequence

from firmware_bridge.emulator.servo_bus.feetech_packets import BROADCAST, Decoder, Instruction, packet
from firmware_bridge.emulator.servo_bus.feetech_registers import KEPT
from firmware_bridge.emulator.servo_bus.feetech_servo import FeetechServo
from firmware_bridge.emulator.servo_bus.packet import Packet
from firmware_bridge.emulator.servo_bus.replies import Reply

_ANSWERS_WRITES = 8  # register
_GOAL_POSITION = 42


class FeetechDialect:
    """Instructions in, replies out.

    Attributes:
        decoder: Of the bytes that the host sends.
        refused: Writes that a servo ignored, in whole or in part.
    """

    def __init__(self, servos: Sequence[FeetechServo]) -> None:
        self.decoder = Decoder()
        self.refused = 0
        self._servos = servos
        self._by_id: dict[int, list[FeetechServo]] = {}
        self._read_addresses()
        self._instructions: dict[int, Callable[[float, Packet, int], list[Reply]]] = {
            Instruction.PING: self._ping,
            Instruction.READ: self._read,
            Instruction.WRITE: self._write,
            Instruction.REG_WRITE: self._reg_write,
            Instruction.ACTION: self._action,
            Instruction.REBOOT: self._reboot,
            Instruction.CALIBRATE_OFFSET: self._calibrate,
            Instruction.SYNC_READ: self._sync_read,
            Instruction.SYNC_WRITE: self._sync_write,
        }

    def execute(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        """What the servos do and reply, in the order in which they send; nothing to what they do not know."""
        instruction = self._instructions.get(packet.instruction)
        return [] if instruction is None else instruction(now, packet, baud)

    def commands_goals(self, packet: Packet) -> bool:
        """Whether an instruction tells servos where to go."""
        if packet.instruction != Instruction.SYNC_WRITE or len(packet.parameters) < 2:
            return False
        address, size = packet.parameters[:2]
        return address <= _GOAL_POSITION < address + size

    def _read_addresses(self) -> None:
        self._by_id = {}
        for servo in self._servos:
            self._by_id.setdefault(servo.id, []).append(servo)

    def _addressed(self, now: float, packet: Packet, baud: int) -> list[FeetechServo]:
        some = sorted(self._servos, key=_id_of) if packet.id == BROADCAST else self._by_id.get(packet.id, ())
        return [servo for servo in some if servo.hears(now, baud)]

    def _reply(self, servo: FeetechServo, data: bytes = b"") -> Reply:
        return Reply(servo, packet(servo.id, servo.error, data), servo.return_delay_s)

    def _done(self, servo: FeetechServo, number: int, took_all: bool = True) -> list[Reply]:
        """The reply to anything but ping and read."""
        self.refused += not took_all
        return [self._reply(servo)] if number != BROADCAST and servo.memory[_ANSWERS_WRITES] else []

    def _ping(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        return [self._reply(servo) for servo in self._addressed(now, packet, baud)]

    def _read(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        if packet.id == BROADCAST or len(packet.parameters) != 2:
            return []
        address, size = packet.parameters
        return [self._reply(servo, servo.read(now, address, size)) for servo in self._addressed(now, packet, baud)]

    def _write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        if len(packet.parameters) < 2:
            return []
        address, data = packet.parameters[0], packet.parameters[1:]
        replies = []
        for servo in self._addressed(now, packet, baud):
            replies += self._done(servo, packet.id, servo.write(address, data))
        if address < KEPT:
            self._read_addresses()
        return replies

    def _reg_write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        if len(packet.parameters) < 2:
            return []
        replies = []
        for servo in self._addressed(now, packet, baud):
            took = servo.register_write(packet.parameters[0], packet.parameters[1:])
            replies += self._done(servo, packet.id, took)
        return replies

    def _action(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        replies = []
        for servo in self._addressed(now, packet, baud):
            replies += self._done(servo, packet.id, servo.act())
        self._read_addresses()
        return replies

    def _reboot(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        replies = []
        for servo in self._addressed(now, packet, baud):
            replies += self._done(servo, packet.id)
            servo.restart(now)
        return replies

    def _calibrate(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        replies = []
        for servo in self._addressed(now, packet, baud):
            if len(packet.parameters) == 2:
                servo.calibrate(packet.parameters[0] | packet.parameters[1] << 8)
            else:
                servo.calibrate()
            replies += self._done(servo, packet.id)
        return replies

    def _sync_write(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        parameters = packet.parameters
        if packet.id != BROADCAST or len(parameters) < 2 or (len(parameters) - 2) % (parameters[1] + 1):
            return []
        address, size = parameters[0], parameters[1]
        for at in range(2, len(parameters), size + 1):
            for servo in self._by_id.get(parameters[at], ()):
                if servo.hears(now, baud):
                    self.refused += not servo.write(address, parameters[at + 1 : at + 1 + size])
        if address < KEPT:
            self._read_addresses()
        return []

    def _sync_read(self, now: float, packet: Packet, baud: int) -> list[Reply]:
        """Servos answer in the order of the list; those after one that is silent wait for it in vain."""
        if packet.id != BROADCAST or len(packet.parameters) < 2:
            return []
        address, size = packet.parameters[:2]
        replies = []
        for number in packet.parameters[2:]:
            servos = self._by_id.get(number)
            if not servos or not servos[0].hears(now, baud):
                break
            replies.append(self._reply(servos[0], servos[0].read(now, address, size)))
        return replies


def _id_of(servo: FeetechServo) -> int:
    return servo.id

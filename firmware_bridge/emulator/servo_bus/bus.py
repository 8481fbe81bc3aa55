"""One bus: bytes of the host in, bytes of the servos out, and the motion of all joints between them.

Knows no clock and no file: every call takes the time, in seconds of any monotonic clock. Joints advance in steps of one
millisecond when somebody asks, so that equal calls at equal times give equal bytes.
"""

import collections
import random
from typing import Any

from firmware_bridge.emulator.servo_bus.dynamixel_dialect import DynamixelDialect
from firmware_bridge.emulator.servo_bus.dynamixel_servo import DynamixelServo
from firmware_bridge.emulator.servo_bus.faults import ReplyFaults
from firmware_bridge.emulator.servo_bus.feetech_dialect import FeetechDialect
from firmware_bridge.emulator.servo_bus.feetech_servo import FeetechServo
from firmware_bridge.emulator.servo_bus.joint import COUNT, STEPS_PER_S, Joint, Load, Motor
from firmware_bridge.emulator.servo_bus.models import DYNAMIXEL
from firmware_bridge.emulator.servo_bus.packet import Packet
from firmware_bridge.emulator.servo_bus.replies import Answer, Reply
from firmware_bridge.emulator.servo_bus.servo import Servo
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings
from firmware_bridge.emulator.servo_bus.supply import IDLE_AMPERES, Supply
from pi0_edge.errors import ConfigError

BITS_PER_BYTE = 10

_CARE_STEPS = 10  # milliseconds between looks at temperature, voltage and load
_MOST_STEPS = 10_000  # that are caught up with; time beyond that did not happen for the joints
_PACKET_GAP_S = 0.1  # a packet that pauses for longer is given up
_VOLTS_THAT_MATTER = 0.05
_GOALS_KEPT = 1000


class ServoBus:
    """The servos of one bus.

    Attributes:
        settings: As they were at the start.
        servos: By the ID that they had at the start.
        supply: What feeds them.
        faults: In what they say.
        goals_left: When the last byte of each of the newest packets with goals had passed the line; whoever reads them
            removes them.
    """

    def __init__(self, settings: BusSettings, start: float) -> None:
        self.settings = settings
        self.supply = Supply(settings.open_volts, settings.supply_ohms)
        self.faults = ReplyFaults(random.Random(settings.seed))  # noqa: S311 (repeatable faults, no secret)
        self.servos: dict[int, Servo] = {}
        self.goals_left: collections.deque[float] = collections.deque(maxlen=_GOALS_KEPT)
        self._joints: list[Joint] = []
        dynamixel, feetech = self._build()
        self._dialect = DynamixelDialect(dynamixel) if settings.protocol == DYNAMIXEL else FeetechDialect(feetech)
        self._start = start
        self._steps = 0
        self._heard_at = start
        self._bytes_at = start
        self._line_free_at = start
        self._answers_until = start
        self._instructions: collections.Counter[int] = collections.Counter()
        self._replies = 0
        self._overlapped = 0
        self._unheard_bytes = 0
        self._care(start)

    def _build(self) -> tuple[list[DynamixelServo], list[FeetechServo]]:
        dynamixel, feetech = [], []
        for group in _on_one_joint(self.settings.servos):
            joint, motors = _joint_of(group)
            self._joints.append(joint)
            for settings, motor in zip(group, motors, strict=True):
                if self.settings.protocol == DYNAMIXEL:
                    servo = DynamixelServo(settings, joint, motor)
                    dynamixel.append(servo)
                else:
                    servo = FeetechServo(settings, joint, motor)
                    feetech.append(servo)
                self.servos[settings.id] = servo
            level = self.servos[group[0].id].joint_position(group[0].level_position)
            joint.load = Load(gravity=sum(settings.gravity_torque for settings in group), level=level)
        return dynamixel, feetech

    def servo(self, number: int) -> Servo:
        """A servo by the ID that it had at the start.

        Raises:
            ConfigError: There is none.
        """
        if number not in self.servos:
            raise ConfigError(f"bus {self.settings.name!r} has no servo {number}; it has {sorted(self.servos)}")
        return self.servos[number]

    def receive(self, now: float, data: bytes, baud: int) -> list[Answer]:
        """Takes bytes from the host.

        Args:
            now: When they arrived.
            data: Any bytes.
            baud: Bits per second at which the host sends. A servo of another speed does not understand them.

        Returns:
            What the host hears, and when.
        """
        self.advance(now)
        self._overlapped += now < self._answers_until
        line_free_at = max(now, self._line_free_at) + len(data) * BITS_PER_BYTE / baud
        answers = [Answer(line_free_at, data)] if self.settings.echo else []
        decoder = self._dialect.decoder
        if decoder.waiting and now - self._bytes_at > _PACKET_GAP_S:
            decoder.forget()
        self._bytes_at = now
        if any(servo.baud == baud for servo in self.servos.values()):
            packets = decoder.feed(data)
            self._note_goals(packets, line_free_at, baud)
            for packet in packets:
                self._heard_at = now
                self._instructions[packet.instruction] += 1
                if replies := self._dialect.execute(now, packet, baud):
                    answer = self._answer(line_free_at, replies, baud)
                    self._answers_until = line_free_at = answer.due
                    answers.append(answer)
        else:
            self._unheard_bytes += len(data)
        self._line_free_at = line_free_at
        return answers

    def _note_goals(self, packets: list[Packet], line_free_at: float, baud: int) -> None:
        """Notes when goals have left; `line_free_at` is when all bytes that have come have."""
        behind = self._dialect.decoder.waiting + sum(packet.size for packet in packets)
        for packet in packets:
            behind -= packet.size
            if self._dialect.commands_goals(packet):
                self.goals_left.append(line_free_at - behind * BITS_PER_BYTE / baud)

    def _answer(self, start: float, replies: list[Reply], baud: int) -> Answer:
        """All replies as one, at the time at which the last byte has passed the line."""
        self._replies += len(replies)
        size = sum(len(reply.data) for reply in replies)
        due = start + sum(reply.delay_s for reply in replies) + size * BITS_PER_BYTE / baud
        if self.faults.active:
            return Answer(due, b"".join(map(self.faults.apply, replies)))
        return Answer(due, b"".join([reply.data for reply in replies]))

    def advance(self, now: float) -> None:
        """Moves the joints up to a time."""
        target = int((now - self._start) * STEPS_PER_S + 1e-6)
        if target - self._steps > _MOST_STEPS:
            self._steps = target - _MOST_STEPS
        while self._steps < target:
            steps = min(target - self._steps, _CARE_STEPS - self._steps % _CARE_STEPS)
            for joint in self._joints:
                joint.run(steps, self.supply.volts)
            self._steps += steps
            if self._steps % _CARE_STEPS == 0:
                self._care(self._start + self._steps / STEPS_PER_S)

    def _care(self, now: float) -> None:
        """What changes slowly: voltage, temperature, protections."""
        before, amperes = self.supply.volts, 0.0
        for servo in self.servos.values():
            amperes += abs(servo.motor.current * servo.motor.duty) + IDLE_AMPERES
        volts = self.supply.update(now, amperes)
        if abs(volts - before) > _VOLTS_THAT_MATTER:
            for joint in self._joints:
                joint.wake()
        seconds = _CARE_STEPS / STEPS_PER_S
        for servo in self.servos.values():
            servo.power(now, volts)
            servo.warm(seconds)
            servo.protect(now, seconds, self._heard_at)

    def state(self) -> dict[str, Any]:
        """Everything about the bus, in types that JSON has."""
        decoder = self._dialect.decoder
        return {
            "volts": self.supply.volts,
            "amperes": self.supply.amperes,
            "counters": {
                "instructions": {str(number): count for number, count in sorted(self._instructions.items())},
                "packets": self._instructions.total(),
                "bad_packets": decoder.bad,
                "refused": self._dialect.refused,
                "replies": self._replies,
                "dropped": self.faults.dropped,
                "corrupted": self.faults.corrupted,
                "overlapped": self._overlapped,
                "unheard_bytes": self._unheard_bytes,
            },
            "servos": {str(number): _servo_state(servo) for number, servo in self.servos.items()},
        }


def _on_one_joint(servos: tuple[ServoSettings, ...]) -> list[list[ServoSettings]]:
    """Servos by joint: a shadow turns the joint of the servo that has its secondary ID."""
    groups = {servo.id: [servo] for servo in servos}
    for servo in servos:
        if servo.secondary_id is not None and servo.secondary_id in groups and servo.secondary_id != servo.id:
            groups[servo.secondary_id] += groups.pop(servo.id)
    return list(groups.values())


def _joint_of(group: list[ServoSettings]) -> tuple[Joint, list[Motor]]:
    models = [settings.servo_model for settings in group]
    inertia = max(
        model.inertia if settings.inertia is None else settings.inertia
        for settings, model in zip(group, models, strict=True)
    )
    backlash = min(
        model.backlash if settings.backlash is None else settings.backlash * COUNT
        for settings, model in zip(group, models, strict=True)
    )
    motors = [Motor(model, inertia / len(models)) for model in models]
    return Joint(motors, inertia, sum(model.friction for model in models), backlash), motors


def _servo_state(servo: Servo) -> dict[str, Any]:
    joint, motor = servo.joint, servo.motor
    return {
        "id": servo.id,
        "position": servo.reported(),
        "encoder": servo.angle,
        "goal": servo.value("goal_position"),
        "joint_rad": joint.output,
        "gears_rad": joint.gears,
        "velocity_rad_s": joint.output_velocity,
        "current_a": motor.current,
        "duty": motor.duty,
        "torque_on": motor.torque_on,
        "celsius": servo.temperature,
        "error": servo.error,
        "connected": servo.connected,
    }

"""The emulated servos of a robot, from its robot file."""

from __future__ import annotations

import dataclasses

from firmware_bridge.emulator.servo_bus.settings import BusSettings, ListedServo, buses_of
from pi0_edge.errors import ConfigError
from pi0_edge.robots import Robot


def servos_at_home(robot: Robot) -> list[BusSettings]:
    """The buses of a robot with every servo where its joint is at home; named "0", "1" by their numbers.

    The supply has the middle of the voltages with which the robot may run.

    Raises:
        ConfigError: If the robot file lists no servos.
    """
    if robot.servo_bus is None:
        raise ConfigError(f"robot {robot.name} has no servos to emulate: its file lists none")
    joints = {joint.name: joint for joint in robot.joints}
    listed = []
    for servo in sorted(robot.servos, key=lambda servo: (servo.bus, servo.id)):
        joint = joints[servo.joint]
        zero, per_unit = servo.scale(joint.unit, joint.position or (0.0, 1.0))
        counts = round(zero + per_unit * (joint.home or 0.0))
        listed.append(
            ListedServo(str(servo.bus), servo.id, servo.shadow_of, counts, robot.servo_bus.protocol, servo.model)
        )
    volts = sum(robot.servo_bus.volts) / 2
    return [dataclasses.replace(bus, volts=volts) for bus in buses_of(listed, robot.servo_bus.baud)]

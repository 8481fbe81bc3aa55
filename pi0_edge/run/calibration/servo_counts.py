"""The counts of the servos, recovered from the positions in telemetry.

The firmware reports positions of joints, computed from counts by the zero and the counts per unit of its joint table,
and rounded to the resolution of a setpoint. Bridge and firmware hold the same table, so the counts can be computed
back; they are exact where the resolution is finer than a count. So calibration needs no path of its own to the servos.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import CalibrationError
from firmware_bridge.firmware.joint_table import joint_table
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import JointFlag
from pi0_edge.robots import Robot, Servo

FRESH_S = 0.5
"""An older measurement counts as none. Longer than in the firmware: nothing moves by itself here."""

_FARTHEST = 32767  # counts of the resolution in a telemetry message


class ServoCounts:
    """The counts of each joint's commanded servo.

    Attributes:
        joints: Names of the joints, in the order of every array.
        servos: The commanded servo of each joint.
    """

    def __init__(self, robot: Robot) -> None:
        """Prepares the computation.

        Raises:
            ConfigError: If the robot has no servos, the firmware cannot drive it, or its resolution is coarser than a
                count.
        """
        if robot.servo_bus is None:
            raise ConfigError(f"robot {robot.name} has no servos that measure: its file lists none")
        table = joint_table(robot)
        commanded = {servo.joint: servo for servo in table.servos if not servo.is_shadow}
        self.joints = tuple(joint.name for joint in table.joints)
        self.servos: tuple[Servo, ...] = tuple(_commanded(robot, name) for name in self.joints)
        self._zero = np.array([commanded[index].zero for index in range(len(self.joints))])
        self._per_unit = np.array([commanded[index].per_unit for index in range(len(self.joints))])
        self._resolution = np.array([joint.resolution for joint in table.joints])
        coarse = np.abs(self._per_unit) * self._resolution
        if coarse.max() >= 1.0:
            worst = int(coarse.argmax())
            raise ConfigError(
                f"robot {robot.name}, {self.joints[worst]}: a setpoint's count is {coarse[worst]:.2g} of the servo's; "
                f"give a resolution below {1.0 / abs(self._per_unit[worst]):.2g} to calibrate it"
            )

    def of(self, measured: NDArray[np.float32], ages_s: NDArray[np.float32], flags: NDArray[np.uint8]) -> NDArray:
        """Counts, float64 [joints], of one tick; fields as in `firmware_bridge.client.Tick`.

        Raises:
            CalibrationError: If a servo is silent, or farther from the zero of the file than telemetry can say.
        """
        silent = (ages_s > FRESH_S) | ((flags & JointFlag.MEASURED) == 0)
        if silent.any():
            raise CalibrationError(
                f"nothing is measured of {self._named(silent)}: check power, plug, ID and baud rate, and that the "
                "firmware was built with the back end of these servos"
            )
        steps = np.rint(measured.astype(np.float64) / self._resolution)
        if (far := np.abs(steps) >= _FARTHEST).any():
            raise CalibrationError(
                f"{self._named(far)}: too far from the zero of the robot file for telemetry; calibrate with a file "
                "whose zero is near 2048, such as that of the robot without calibration"
            )
        return np.rint(self._zero + self._per_unit * steps * self._resolution)

    def _named(self, which: NDArray[np.bool_]) -> str:
        chosen = [place for place in range(len(self.joints)) if which[place]]
        return ", ".join(f"{self.joints[place]} ({_address(self.servos[place])})" for place in chosen)


def _commanded(robot: Robot, joint: str) -> Servo:
    return next(servo for servo in robot.servos if servo.joint == joint and servo.shadow_of is None)


def _address(servo: Servo) -> str:
    return f"servo {servo.id} on bus {servo.bus}"

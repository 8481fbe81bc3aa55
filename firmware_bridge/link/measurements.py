"""What the joints measured, from the messages `Measured` and `Health` of the firmware, in physical units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.robot import RobotJoints
from pi0_edge.protos.serial_link import Health, HealthRow, JointFlag, Measured, MeasuredRow, Telemetry

_OLDEST = 255  # servo steps; the firmware counts no further


class JointMeasurements(NamedTuple):
    """The joints at the begin of a tick; every array is float32 [joints] but for `flags`, uint8 [joints].

    `position` is in physical units, `age_s` counts from the measurement to the begin of the tick and is infinite where
    there is none, `current` is in ampere, `flags` are bits of `JointFlag`. A joint without MEASURED has no encoder, or
    was not measured yet: its position is the commanded one.
    """

    position: NDArray[np.float32]
    age_s: NDArray[np.float32]
    current: NDArray[np.float32]
    flags: NDArray[np.uint8]


class JointHealth(NamedTuple):
    """Servo temperature in degrees Celsius and supply in volts, float32 [joints]; 0 where it was never read."""

    temperature: NDArray[np.float32]
    volts: NDArray[np.float32]


def measurements_at(
    telemetry: Telemetry, measured: Measured | None, robot: RobotJoints, tick_period_s: float
) -> JointMeasurements:
    """What was known of the joints when a tick began.

    Args:
        telemetry: Of the tick.
        measured: The newest of the firmware, of this tick or, on a line that is full, of one before; None before the
            first.
        robot: The joints.
        tick_period_s: Seconds.
    """
    commanded = np.array(telemetry.executed, np.float32)
    if measured is None:
        unknown = np.full(robot.count, np.inf, np.float32)
        return JointMeasurements(commanded, unknown, np.zeros_like(commanded), np.zeros(robot.count, np.uint8))
    rows = np.array(measured.values, np.int16).reshape(measured.rows, measured.joints)
    condition = rows[MeasuredRow.CONDITION].astype(np.uint16)
    flags, steps = (condition >> 8).astype(np.uint8), condition & 0xFF
    late_s = ((telemetry.tick - measured.tick) & 0xFFFFFFFF) * tick_period_s
    age_s = np.where(steps < _OLDEST, steps / robot.servo_hz + late_s, np.inf).astype(np.float32)
    position = (rows[MeasuredRow.POSITION] * robot.resolution).astype(np.float32)
    position = np.where(flags & JointFlag.MEASURED, position, commanded)
    return JointMeasurements(position, age_s, rows[MeasuredRow.CURRENT].astype(np.float32) / 1000, flags)


def health_of(health: Health) -> JointHealth:
    """Temperature and supply in physical units."""
    rows = np.array(health.values, np.uint8).reshape(health.rows, health.joints).astype(np.float32)
    return JointHealth(rows[HealthRow.TEMPERATURE], rows[HealthRow.VOLTAGE] / 10)

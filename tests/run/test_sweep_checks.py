"""What is wrong with a sweep, and the counts behind the positions of telemetry."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.errors import CalibrationError
from firmware_bridge.firmware.joint_table import float32
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import JointFlag
from pi0_edge.robots import load_robot
from pi0_edge.run.calibration.servo_counts import ServoCounts
from pi0_edge.run.calibration.sweep_checks import mistakes_in_sweep

SO101 = load_robot("so101")
MEASURED = np.full(6, JointFlag.MEASURED, np.uint8)
FRESH = np.zeros(6, np.float32)


def swept(*columns: np.ndarray) -> list[str]:
    names = ["waist", "shoulder", "elbow"][: len(columns)]
    return list(mistakes_in_sweep(names, np.stack(columns, axis=1).astype(float)))


def one_after_the_other(count: int) -> list[np.ndarray]:
    """Each joint moves in its own time."""
    sweep = 2048 + 1000 * np.sin(np.linspace(0, 2 * np.pi, 200))
    rest = np.full(200, 2048.0)
    return [np.concatenate([sweep if part == place else rest for part in range(count)]) for place in range(count)]


def test_a_whole_sweep_has_no_mistake() -> None:
    assert swept(*one_after_the_other(3)) == []


@pytest.mark.parametrize(("ticks", "said"), [(0, ["no joint was moved"]), (1, ["waist was not moved"])])
def test_a_sweep_that_ends_at_once_has_no_motion(ticks: int, said: list[str]) -> None:
    assert swept(np.full(ticks, 2048.0)) == said


def test_a_joint_that_was_not_moved_is_named() -> None:
    columns = one_after_the_other(3)
    columns[1] = 2048 + 40 * np.sin(np.arange(600))
    assert swept(*columns) == ["shoulder was not moved"]


@pytest.mark.parametrize("multi_turn", [False, True], ids=["feetech wraps", "dynamixel counts on"])
def test_a_range_across_the_end_of_the_encoder_is_named(multi_turn: bool) -> None:
    columns = one_after_the_other(3)
    across = columns[2] + 1500  # up to 4548
    columns[2] = across if multi_turn else across % 4096
    (said,) = swept(*columns)
    assert said.startswith("elbow passed the end of its encoder, from 4095 to 0")


@pytest.mark.parametrize("sign", [1, -1])
def test_two_joints_that_move_as_one_are_named(sign: int) -> None:
    columns = one_after_the_other(3)
    noise = np.random.default_rng(0).integers(-3, 4, 600)
    columns[2] = 2100 + sign * (columns[1] - 2048) + noise
    (said,) = swept(*columns)
    assert said.startswith("shoulder and elbow moved as one, count for count: their servos are on one axis")


def test_joints_that_a_person_moves_at_once_by_different_amounts_are_two() -> None:
    columns = one_after_the_other(2)
    columns[1] = 2048 + 0.8 * (columns[0] - 2048) + 0.3 * (columns[1] - 2048)
    assert swept(*columns) == []


@given(st.lists(st.integers(0, 4095), min_size=6, max_size=6))
def test_counts_are_recovered_exactly(counts: list[int]) -> None:
    """Through float32 as the firmware computes, and the 16 bits of a telemetry message."""
    reader = ServoCounts(SO101)
    measured = []
    for joint, servo, count in zip(SO101.joints, reader.servos, counts, strict=True):
        zero, per_unit = servo.scale(joint.unit, joint.position or (0.0, 1.0))
        resolution = float32(joint.resolution or 0.0)
        position = np.float32(np.float32(count - np.float32(zero)) / np.float32(per_unit))
        steps = round(float(np.float32(position / np.float32(resolution))))
        measured.append(steps * resolution)
    assert reader.of(np.array(measured, np.float32), FRESH, MEASURED).tolist() == counts


def test_a_position_that_telemetry_cannot_hold_is_not_taken_for_one() -> None:
    reader = ServoCounts(SO101)
    measured = np.zeros(6, np.float32)
    measured[1] = 3.2767
    with pytest.raises(CalibrationError, match=r"shoulder_lift \(servo 2 on bus 0\): too far from the zero"):
        reader.of(measured, FRESH, MEASURED)


@pytest.mark.parametrize("how", ["never", "too long ago"])
def test_a_silent_servo_is_named(how: str) -> None:
    ages, flags = FRESH.copy(), MEASURED.copy()
    if how == "never":
        flags[2] = 0
    else:
        ages[2] = 0.6
    with pytest.raises(CalibrationError, match=r"nothing is measured of elbow_flex \(servo 3 on bus 0\): check power"):
        ServoCounts(SO101).of(np.zeros(6, np.float32), ages, flags)


def test_a_resolution_coarser_than_a_count_is_refused() -> None:
    joints = (dataclasses.replace(SO101.joints[0], resolution=2e-3), *SO101.joints[1:])
    with pytest.raises(
        ConfigError, match=r"shoulder_pan: a setpoint's count is 1\.3 of the servo's; give a resolution"
    ):
        ServoCounts(dataclasses.replace(SO101, joints=joints))


def test_a_robot_without_servos_has_no_counts() -> None:
    with pytest.raises(ConfigError, match="robot ur5e has no servos that measure"):
        ServoCounts(load_robot("ur5e"))

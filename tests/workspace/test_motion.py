"""The predicted motion is that of the compiled core: any setpoints, rates, and moments at which a chunk enters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bench_motions import JOINTS, positions, random_walk, rest_of_tick, steps_of_tick
from firmware_library import bench, require
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.bridge.workspace.motion import ArmState, MotionPredictor, Setpoints
from firmware_bridge.lockstep.host_firmware import HostFirmware
from firmware_bridge.robot import joints_of
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import ChunkResult


@pytest.mark.parametrize(("control_hz", "servo_hz"), [(50, 250), (100, 500), (200, 1000)])
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    largest_step=st.sampled_from([0.0, 0.01, 0.1, 1.0, 4.0]),
    moment=st.integers(0, 9),
    early=st.booleans(),
)
def test_the_prediction_is_what_the_core_executes(
    control_hz: int, servo_hz: int, seed: int, largest_step: float, moment: int, early: bool
) -> None:
    """Bit for bit, also beyond the limits, where the state at the start is known."""
    require("make", "gcc")
    table = dataclasses.replace(bench(), control_hz=control_hz, servo_hz=servo_hz)
    firmware = HostFirmware(table).armed()
    robot = joints_of(table)
    home = np.array([round(joint.home / joint.resolution) for joint in table.joints])
    plan, chunk = random_walk(seed, 20, largest_step, home), random_walk(seed + 1, 15, largest_step, home)
    plan[0] = home  # the firmware refuses a first setpoint that is out of reach
    first = firmware.tick_number + 3
    assert firmware.play(first, plan.tolist()).result == ChunkResult.ACCEPTED
    for _ in range(moment):
        steps_of_tick(firmware)
    firmware.tick()
    motion = firmware.motion_array()
    start = ArmState(firmware.tick_number, motion[:, 0], motion[:, 1])
    entry = first + 12
    predictor = MotionPredictor(robot)
    arrival = entry - (3 if early else 2)
    predicted = predictor.predict(
        start, Setpoints((Plan(first, robot.of_counts(plan)),)), Plan(entry, robot.of_counts(chunk)), arrival
    )
    rest_of_tick(firmware)
    executed = [positions(firmware)]
    for tick in range(start.tick + 1, entry + len(chunk)):
        executed += steps_of_tick(firmware)
        if tick == arrival:
            assert firmware.play(entry, chunk.tolist()).result == ChunkResult.ACCEPTED
    motion = predicted.between(start.tick + 1, entry + len(chunk) - 1)
    assert np.array_equal(motion.positions, executed)
    assert not predicted.velocities[-1].any()


def test_without_a_plan_a_joint_at_rest_stays_until_the_chunk_begins() -> None:
    robot = joints_of(bench())
    start = ArmState(100, robot.home.astype(np.float32), np.zeros(JOINTS, np.float32))
    chunk = Plan(104, np.tile(robot.home + 0.1, (5, 1)))
    predictor = MotionPredictor(robot)
    motion = predictor.predict(start, Setpoints(), chunk)
    assert motion.first_tick == 101 and len(motion.positions) >= 1 + 8 * predictor.servo_steps
    assert np.array_equal(motion.positions[: 1 + 3 * predictor.servo_steps], np.tile(start.position, (16, 1)))
    assert (motion.positions[17:, 0] > 0).all()

"""The follower predicts what the compiled core makes of chunk after chunk, from telemetry alone."""

from __future__ import annotations

import numpy as np
import pytest
from bench_motions import positions, random_walk, rest_of_tick, steps_of_tick
from firmware_library import bench, home, require
from hypothesis import given, settings
from hypothesis import strategies as st
from workspace_builders import telemetry

from firmware_bridge.bridge.workspace.follower import ArmFollower
from firmware_bridge.lockstep.host_firmware import HostFirmware
from firmware_bridge.robot import joints_of
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import ChunkResult, State

ROBOT = joints_of(bench())


@given(
    seed=st.integers(0, 2**32),
    largest_step=st.sampled_from([0.01, 0.1, 1.0]),
    pauses=st.lists(st.integers(3, 14), min_size=1, max_size=4),
)
@settings(max_examples=30)
def test_chunk_after_chunk_is_predicted_bit_for_bit(seed: int, largest_step: float, pauses: list[int]) -> None:
    """Every chunk enters while the one before is under way, or after it has ended and the arm brakes."""
    require("make", "gcc")
    firmware, follower = HostFirmware(bench()).armed(), ArmFollower(ROBOT)
    follower.on_telemetry(firmware.tick())
    rest_of_tick(firmware)
    for number, pause in enumerate([3, *pauses]):
        counts = random_walk(seed + number, 10, largest_step, np.array(home()))
        if number == 0:
            counts[0] = home()  # the firmware refuses a first setpoint that is out of reach
        entry = firmware.tick_number + 3
        chunk = Plan(entry, ROBOT.of_counts(counts))
        predicted = follower.predict(chunk)
        assert predicted is not None
        assert firmware.play(entry, counts.tolist()).result == ChunkResult.ACCEPTED
        follower.accepted(chunk, firmware.tick_number)
        executed = []
        for tick in range(firmware.tick_number + 1, entry + pause):
            follower.on_telemetry(report := firmware.tick())
            if report.state == State.SAFE:
                return
            executed += [(tick, positions(firmware)), *((tick, row) for row in rest_of_tick(firmware))]
        compared = [row for tick, row in executed if entry <= tick <= chunk.last_tick]
        assert len(compared) >= 15
        assert np.array_equal(predicted.positions[1 : 1 + len(compared)], compared)


@given(seed=st.integers(0, 2**32), late=st.integers(1, 4))
@settings(max_examples=20)
def test_a_chunk_that_enters_later_than_predicted_is_followed_from_its_report_on(seed: int, late: int) -> None:
    require("make", "gcc")
    firmware, follower = HostFirmware(bench()).armed(), ArmFollower(ROBOT)
    follower.on_telemetry(firmware.tick())
    rest_of_tick(firmware)
    first, second = (random_walk(seed + number, 25, 0.1, np.array(home())) for number in range(2))
    first[0] = home()
    begin = firmware.tick_number + 3
    for rows, entry in ((first, begin), (second, begin + 8)):
        chunk = Plan(entry, ROBOT.of_counts(rows))
        while firmware.tick_number < entry - 4:
            follower.on_telemetry(firmware.tick())
            rest_of_tick(firmware)
        assert follower.predict(chunk) is not None
        for _ in range(0 if entry == begin else 1 + late):
            follower.on_telemetry(firmware.tick())
            rest_of_tick(firmware)
        assert firmware.play(entry, rows.tolist()).result == ChunkResult.ACCEPTED
        overtaken = max(0, firmware.tick_number + 2 - entry)
        follower.accepted(chunk.since(entry + overtaken), firmware.tick_number)
    third = Plan(firmware.tick_number + 6, ROBOT.of_counts(first[:10]))
    for _ in range(3):
        follower.on_telemetry(firmware.tick())
        rest_of_tick(firmware)
    predicted = follower.predict(third)
    assert predicted is not None
    assert firmware.play(third.first_tick, first[:10].tolist()).result == ChunkResult.ACCEPTED
    executed = [steps_of_tick(firmware) for _ in range(8)][2:]
    assert np.array_equal(predicted.positions[1 : 1 + 6 * firmware.servo_steps], np.concatenate(executed))


def test_the_velocity_is_that_of_the_last_three_ticks_and_unknown_after_a_gap() -> None:
    follower = ArmFollower(ROBOT)
    assert follower.newest_tick is None
    for tick, position in enumerate(0.5 * 10.0 * (np.arange(3) * 0.02) ** 2):  # 10 rad/s²
        follower.on_telemetry(telemetry(tick, ROBOT.home + position))
    assert follower._velocity()[0] * ROBOT.servo_hz == pytest.approx(10.0 * 0.04, rel=1e-3)
    follower.on_telemetry(telemetry(9, ROBOT.home + 0.1))
    assert follower.newest_tick == 9 and not follower._velocity().any()


def test_a_plan_ends_with_the_activity_of_the_arm() -> None:
    follower = ArmFollower(ROBOT)
    follower.on_telemetry(telemetry(1, ROBOT.home))
    chunk = Plan(3, np.tile(ROBOT.home, (20, 1)))
    assert follower.predict(chunk) is not None
    follower.accepted(chunk, 0)
    assert follower._held.chunks == (chunk,)
    follower.on_telemetry(telemetry(2, ROBOT.home, State.SAFE))
    assert follower._held.chunks == ()


def test_a_chunk_that_is_past_due_has_no_motion() -> None:
    follower = ArmFollower(ROBOT)
    follower.on_telemetry(telemetry(50, ROBOT.home))
    assert follower.predict(Plan(20, np.tile(ROBOT.home, (20, 1)))) is None

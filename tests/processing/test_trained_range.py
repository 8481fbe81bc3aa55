"""States that a policy cannot know are told by joint, value in the robot's units, range, and likely cause."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pi0_edge.processing import Mode, Normalizer, load_robot
from pi0_edge.processing.joint_conventions import CONVENTIONS
from pi0_edge.processing.trained_range import TrainedRange
from pi0_edge.robots import Robot

ALOHA_SIM = load_robot("aloha_sim")
ZEROS, ONES = np.zeros(14), np.ones(14)
STANDARD = Normalizer(Mode.OPENPI_ZSCORE, {"mean": ZEROS, "std": ONES})
DEGREES = np.array([0, 90, -45, 0, 120, 0, 90, 0, 90, -45, 0, 120, 0, 90.0])


def standing_still(place: int, centre: float = 0.0, mode: Mode = Mode.LEROBOT_MEAN_STD) -> Normalizer:
    """Statistics of a robot whose joint at `place` did not move in training."""
    mean, width = ZEROS.copy(), ONES.copy()
    mean[place], width[place] = centre, 0.0
    names = {Mode.LEROBOT_MEAN_STD: ("mean", "std"), Mode.LEROBOT_MIN_MAX: ("min", "max")}
    low, high = names.get(mode, ("q01", "q99"))
    return Normalizer(mode, {low: mean, high: width if high == "std" else mean + width})


def test_a_state_within_the_range_fits():
    assert TrainedRange(ALOHA_SIM, STANDARD).misfit(np.full(14, 9.9)) is None
    assert TrainedRange(ALOHA_SIM, STANDARD).misfit(np.full(14, -9.9)) is None


def test_degrees_are_recognized():
    unfit = TrainedRange(ALOHA_SIM, STANDARD).misfit(DEGREES)
    assert unfit is not None
    assert len(unfit.joints) == 8
    assert str(unfit).startswith(
        "the state of joint left_wrist_angle is 120, expected -10 to 10 (10 standard deviations around the mean in the "
        "policy's statistics); in radians it would be 2.094, which fits: are these degrees?"
    )
    assert "(also out of range: right_wrist_angle, left_shoulder" in str(unfit)


@pytest.mark.parametrize(
    ("unit", "value", "words"),
    [("rad", 90, "degrees"), ("ratio", 100, "percent"), ("m", 350, "millimetres"), ("rad", 1e6, "check units")],
)
def test_the_unit_of_the_joint_says_what_was_likely_meant(unit, value, words):
    joint = dataclasses.replace(ALOHA_SIM.joints[0], name="it", unit=unit)
    robot = Robot("one", 1, 1, {"cam": "base_0_rgb"}, 50, joints=(joint,))
    unfit = TrainedRange(robot, Normalizer(Mode.OPENPI_ZSCORE, {"mean": np.zeros(1), "std": np.ones(1)})).misfit(
        np.array([float(value)])
    )
    assert unfit is not None and words in str(unfit)


@pytest.mark.parametrize("mode", [Mode.LEROBOT_MEAN_STD, Mode.LEROBOT_QUANTILES, Mode.LEROBOT_MIN_MAX])
def test_a_joint_that_stood_still_is_told_as_it_was_measured(mode):
    state = ZEROS.copy()
    state[3] = 0.2537
    unfit = TrainedRange(ALOHA_SIM, standing_still(3, 0.25, mode)).misfit(state)
    assert unfit is not None
    message = str(unfit)
    assert "left_forearm_roll is 0.2537, but it stood still at 0.25 in training" in message
    assert "the difference of 0.0037 becomes" in message and "still_joints: as_trained" in message
    factor = unfit.joints[0].normalized / 0.0037
    assert factor == pytest.approx(1e8 if mode is Mode.LEROBOT_MEAN_STD else 2e8, rel=1e-2)


def test_a_drift_of_a_joint_that_stood_still_may_be_accepted_and_nothing_else():
    state = ZEROS.copy()
    state[3] = 0.5
    accepting = TrainedRange(ALOHA_SIM, standing_still(3), still_as_trained=True)
    assert accepting.misfit(state) is None
    state[4] = 90
    unfit = accepting.misfit(state)
    assert unfit is not None and [joint.name for joint in unfit.joints] == ["left_wrist_angle"]


def test_rounding_of_a_constant_counts_as_standing_still():
    recorded = np.full((1000, 14), 1.57, np.float32).astype(np.float64)
    variance = np.mean(recorded**2, axis=0) - np.mean(recorded, axis=0) ** 2
    noise = Normalizer(Mode.OPENPI_ZSCORE, {"mean": recorded[0], "std": np.sqrt(np.maximum(variance, 0)) + 1e-7})
    assert noise.still.all()
    assert not STANDARD.still.any()
    assert not Normalizer(Mode.OPENPI_ZSCORE, {"mean": recorded[0], "std": np.full(14, 1e-3)}).still.any()


def test_a_joint_that_moved_is_told_before_one_that_stood_still():
    state = DEGREES.copy()
    state[3] = 0.1
    unfit = TrainedRange(ALOHA_SIM, standing_still(3)).misfit(state)
    assert unfit is not None
    assert str(unfit).startswith("the state of joint left_wrist_angle is 120")
    assert unfit.joints[-1].name == "left_forearm_roll"


@pytest.mark.parametrize("mode", list(Mode))
def test_the_preimage_is_what_forward_takes_to_the_limit(mode):
    names = ("mean", "std", "q01", "q99", "q10", "q90", "min", "max")
    stats = {name: np.full(3, 0.3 if name in ("mean", "q01", "q10", "min") else 0.9) for name in names}
    for width in (0.9, 0.3):  # 0.3: no width at all, but for z-scores
        normalizer = Normalizer(mode, {n: v if v[0] == 0.3 else np.full(3, width) for n, v in stats.items()}, 1e-8)
        for limit in (-3.0, 0.0, 10.0):
            np.testing.assert_allclose(normalizer.forward(normalizer.preimage(np.full(3, limit))), limit, atol=1e-6)


def test_the_range_is_told_in_the_robots_own_joint_convention():
    aloha = load_robot("aloha")
    mean, std = np.zeros(14), np.full(14, 0.05)
    mean[1], mean[6] = 0.5, 0.5  # π0's signs and gripper angles
    state = CONVENTIONS["aloha_to_pi"].state_to_robot(mean.copy())
    checked = TrainedRange(aloha, Normalizer(Mode.OPENPI_ZSCORE, {"mean": mean, "std": std}))
    assert checked.misfit(state) is None
    state[1] = 30.0
    unfit = checked.misfit(state)
    assert unfit is not None
    assert (unfit.joints[0].value, unfit.joints[0].name) == (30.0, "left_shoulder")
    assert unfit.joints[0].low == pytest.approx(-1, abs=1e-3) and unfit.joints[0].high == pytest.approx(0, abs=1e-3)
    assert "more than a full turn: are these degrees?" in str(unfit), "0.52 rad would not fit either"


def test_a_gripper_in_percent_is_noticed_although_its_angle_is_cut_off():
    wide = Normalizer(Mode.OPENPI_ZSCORE, {"mean": np.full(14, 0.5), "std": np.full(14, 0.3)})
    state = np.full(14, 0.1)
    checked = TrainedRange(load_robot("aloha"), wide)
    assert checked.misfit(state) is None
    state[6] = 80.0
    unfit = checked.misfit(state)
    assert unfit is not None and unfit.joints[0].name == "left_gripper"
    assert "are these percent?" in str(unfit)


def test_a_gripper_angle_and_its_opening_are_inverse():
    convention = CONVENTIONS["aloha_to_pi"]
    state = np.linspace(0.02, 0.98, 14)
    np.testing.assert_allclose(convention.state_to_robot(convention.state_to_pi(state)), state, atol=1e-12)


def test_a_state_without_names_or_statistics():
    libero = load_robot("libero")  # eight states, seven actions
    unfit = TrainedRange(libero, Normalizer(Mode.OPENPI_ZSCORE, {"mean": ZEROS, "std": ONES})).misfit(
        np.array([0, 0, 0, 0, 0, 0, 0, 57.3])
    )
    assert unfit is not None and str(unfit).startswith("the state of joint 7 is 57.3")
    assert TrainedRange(libero, Normalizer(Mode.IDENTITY)).misfit(np.full(8, 1e6)) is None

"""Rules about measured joints and chunks: planted mistakes are named, ordinary data never accused."""

from __future__ import annotations

import re

import mismatch_cases as cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.run.mismatch import Mismatch, MismatchGuard
from pi0_edge.run.mismatch.action_rules import disagreement
from pi0_edge.run.mismatch.joint_rules import CLEARLY, Compared, JointRules, clear_winner
from pi0_edge.training_profile.limits import WATCHED, Limits
from pi0_edge.training_profile.postures import joint_changes

ANGLES = np.array([1, 1, 1, 1, 1, 0], bool)
NAMES = [joint.name for joint in cases.robot().joints]
ENDS = np.array([joint.position for joint in cases.robot().joints])


@pytest.fixture
def rules() -> JointRules:
    return JointRules(cases.profile().joints, cases.robot())


def in_range(state: np.ndarray) -> np.ndarray:
    """As LeRobot records it: -100 to 100, grippers 0 to 100."""
    share = (state - ENDS[:, 0]) / (ENDS[:, 1] - ENDS[:, 0])
    return np.where(ANGLES, 200 * share - 100, 100 * share)


def flipped(joint: int) -> np.ndarray:
    return np.where(np.arange(6) == joint, -1.0, 1.0)


def offset(joint: int, size: float) -> np.ndarray:
    return np.where(np.arange(6) == joint, size, 0.0)


PLANTED = {
    "degrees": (
        cases.START * np.where(ANGLES, 180 / np.pi, 1),
        "joint-units",
        "all joints",
        "degrees instead of radians",
    ),
    "degrees and percent": (
        cases.START * np.where(ANGLES, 180 / np.pi, 100),
        "joint-units",
        "all joints",
        "degrees and percent",
    ),
    "range": (in_range(cases.START), "joint-units", "all joints", "range of -100 to 100"),
    "percent": (cases.START * np.where(ANGLES, 1, 100), "gripper-convention", "gripper", "percent instead of a ratio"),
    "exchanged": (cases.START + offset(5, 0.8), "gripper-convention", "gripper", "open and closed are exchanged"),
    "sign": (cases.START * flipped(2), "joint-sign", "elbow_flex", "elbow_flex turns the other way"),
    "zero": (cases.START + offset(3, 0.6), "joint-zero", "wrist_flex", r"its zero differs by about \+0\.59"),
    "quarter": (cases.START + offset(0, np.pi / 2), "joint-zero", "shoulder_pan", "a quarter turn"),
    "order": (cases.START[[0, 2, 1, 3, 4, 5]], "joint-order", "shoulder_lift, elbow_flex", "are exchanged"),
    "gripper first": (np.roll(cases.START, 1), "joint-order", "all joints", "last joint is given first"),
    "reversed": (cases.START[::-1].copy(), "joint-order", "all joints", "reversed order"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_at_rest_is_named(rules, name):
    state, rule, subject, words = PLANTED[name]
    states = state + np.random.default_rng(0).normal(0, 1e-3, (30, 6))
    (found,) = rules.at_rest(states)
    assert (found.rule, found.subject, found.refuses) == (rule, subject, True)
    assert re.search(words, found.text), found.text


def test_the_message_has_value_and_expected_range(rules):
    (found,) = rules.at_rest((cases.START * flipped(2))[None])
    assert "elbow_flex is -0.8 rad, expected 0.7" in found.text
    assert str(found).endswith("to move it nevertheless, give --accept-mismatch joint-sign")


def test_another_pose_names_the_joints_that_are_elsewhere(rules):
    elsewhere = cases.START + np.array([0.25, 0.25, -0.25, -0.2, 0, 0])
    (found,) = rules.at_rest(elsewhere[None])
    assert (found.rule, found.subject) == ("start-pose", "shoulder_pan, shoulder_lift, elbow_flex, wrist_flex")
    far = cases.START + np.array([-1.2, 0.25, 0.9, -0.2, 0, 0])
    assert [mismatch.rule for mismatch in rules.at_rest(far[None])] == ["joint-range", "start-pose"]


def test_single_outliers_at_rest_do_not_count(rules):
    states = np.tile(cases.START, (30, 1))
    states[::3] = 99.0
    assert rules.at_rest(states) == []


@given(st.integers(0, 10_000))
def test_ordinary_episodes_are_never_accused(seed):
    """Neither those of the profile nor new ones of the same kind."""
    guard = JointRules(cases.profile().joints, cases.robot())
    moved = cases.states(seed)
    assert guard.at_rest(moved[:1]) == []
    rows = moved[:: cases.HZ // 2]
    compared = [guard.compared(state) for state in rows]
    for first in range(len(rows) - WATCHED + 1):
        window = slice(first, first + WATCHED)
        assert guard.while_running(rows[window], compared[window]) == []


@given(st.integers(0, 63), st.floats(0, 1))
def test_no_state_between_examples_of_the_start_is_accused(place, share):
    profile = cases.profile().joints
    examples = profile.start_examples
    state = share * examples[place % len(examples)] + (1 - share) * examples[0]
    assert JointRules(profile, cases.robot()).at_rest(state[None]) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda x: x * flipped(0), "joint-sign"),
        (lambda x: x[:, [0, 2, 1, 3, 4, 5]], "joint-order"),
        (lambda x: x * np.where(ANGLES, 180 / np.pi, 1), "joint-units"),
        (lambda x: np.where(ANGLES, x, 1 - x), "gripper-convention"),
    ],
)
def test_a_mistake_is_named_while_running(rules, change, rule):
    rows = change(cases.states(77)[:: cases.HZ // 2])[1 : 1 + WATCHED]
    (found,) = rules.while_running(rows, [rules.compared(state) for state in rows])
    assert found.rule == rule and found.refuses


def test_what_the_start_pose_excludes_is_not_blamed_while_running(rules):
    """A gripper that closes on nothing looks like one with open and closed exchanged, but began as it should."""
    rows = cases.states(77)[:: cases.HZ // 2][1 : 1 + WATCHED]
    exchanged = np.where(ANGLES, rows, 1 - rows)
    (blamed,) = rules.while_running(exchanged, [rules.compared(state) for state in exchanged])
    assert blamed.rule == "gripper-convention"
    assert rules.at_rest(np.tile(cases.START, (30, 1))) == []
    found = rules.while_running(exchanged, [rules.compared(state) for state in exchanged])
    assert [one.rule for one in found if one.refuses] == []


def test_a_joint_out_of_range_while_running_warns(rules):
    rows = cases.states(77)[:: cases.HZ // 2][:WATCHED] + offset(4, 2.0)
    (found,) = rules.while_running(rows, [rules.compared(state) for state in rows])
    assert (found.rule, found.subject, found.refuses) == ("joint-range", "wrist_roll", False)


@given(st.integers(0, 1000))
def test_every_alternative_is_an_inverse_of_itself_or_of_a_mistake(seed):
    """Undoing what was planted gives the state back."""
    state = np.random.default_rng(seed).uniform(ENDS[:, 0], ENDS[:, 1])[None]
    changes = joint_changes(cases.robot())
    np.testing.assert_allclose(changes["range"].undo(in_range(state)), state, atol=1e-12)
    np.testing.assert_allclose(changes["order first is last"].undo(np.roll(state, 1, 1)), state)
    np.testing.assert_allclose(changes["order last is first"].undo(np.roll(state, -1, 1)), state)
    for name, change in changes.items():
        if name.startswith(("sign", "exchanged")) or (name.startswith("order") and "is" not in name.split()):
            np.testing.assert_allclose(change.undo(change.undo(state)), state, atol=1e-12)


def test_an_alternative_wins_only_where_it_clearly_is_nearer():
    limits = Limits(1.0, {"a": 0.2})

    def seen(own: float, other: float, times: int) -> list[Compared]:
        return [Compared(own, {"a": other, "unknown": 0.0})] * times

    def winner(compared: list[Compared]) -> str | None:
        return clear_winner(compared, limits, CLEARLY, fits=1.5)

    assert winner(seen(2.0, 0.5, 8)) == "a"
    assert winner(seen(0.5, 0.3, 8)) is None  # nearer by less than in training
    assert winner(seen(1.6, 1.3, 8)) is None  # not clearly nearer
    assert winner(seen(9.0, 1.6, 8)) is None  # does not fit itself
    assert winner(seen(2.0, 0.5, 5) + seen(0.5, 2.0, 3)) is None  # 5 of 8 do not persist
    assert winner(seen(2.0, 0.5, 6) + seen(0.5, 2.0, 2)) == "a"


def first(chunk: np.ndarray) -> list[Mismatch]:
    return MismatchGuard(cases.profile(), cases.robot()).first_chunk(cases.states(3)[40], chunk)


def chunk(seed: int = 3, row: int = 40) -> np.ndarray:
    return cases.actions(cases.states(seed))[row : row + 50]


def test_a_chunk_that_begins_where_the_arm_is_passes():
    assert first(chunk()) == []


def test_relative_actions_are_named():
    (found,) = first(chunk() - np.where(ANGLES, cases.states(3)[40], 0))
    assert found.rule == "relative-actions" and found.refuses
    assert "shoulder_lift stands at" in found.text and "check delta_actions" in found.text


def test_actions_in_degrees_and_elsewhere_are_named():
    (found,) = first(chunk() * np.where(ANGLES, 180 / np.pi, 1))
    assert found.rule == "first-action" and "the actions are in degrees" in found.text
    (found,) = first(chunk() + offset(2, 0.5))
    assert (found.rule, found.subject) == ("first-action", "elbow_flex") and "statistics" in found.text


@given(st.integers(0, 39), st.integers(0, 200))
def test_actions_of_the_training_data_are_never_accused(seed, row):
    guard = MismatchGuard(cases.profile(), cases.robot())
    assert guard.first_chunk(cases.states(seed)[row], chunk(seed, row)) == []


def test_chunks_that_agree_and_disagree():
    profile = cases.profile()
    assert profile.actions is not None
    widths = profile.joints.widths
    same = disagreement(profile.actions, widths, chunk(row=0), chunk(row=25), 25, cases.HZ)
    np.testing.assert_allclose(same, 0, atol=1e-12)
    other = disagreement(profile.actions, widths, chunk(row=0), chunk(row=25) + offset(1, 1.0), 25, cases.HZ)
    assert other[1] > 1 and (np.delete(other, 1) == 0).all()

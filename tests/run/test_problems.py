"""What the pre-flight finds wrong with a policy and its cameras, by rule."""

from __future__ import annotations

import pytest

from pi0_edge.protos import policy_pb2
from pi0_edge.robots import load_robot
from pi0_edge.run.problems import ACCEPTABLE, PreflightError, camera_problems, policy_problems, speed_problems

ROBOT = load_robot("aloha_sim")


def metadata(**changes: object) -> policy_pb2.PolicyMetadata:
    """Of a policy that fits the robot, but for the changes."""
    fields: dict = {
        "horizon": 50,
        "action_dim": 14,
        "state_dim": 14,
        "control_hz": 50.0,
        "cameras": ["top", "left_wrist", "right_wrist"],
        "action_names": ROBOT.action_names,
        "gate": policy_pb2.GATE_PASSED,
    }
    return policy_pb2.PolicyMetadata(**{**fields, **changes})


def without(name: str) -> policy_pb2.PolicyMetadata:
    found = metadata()
    found.ClearField(name)  # pyright: ignore[reportArgumentType]
    return found


def rules(problems) -> list[str]:
    return [problem.rule for problem in problems]


def test_a_policy_of_this_robot_has_no_problems():
    assert rules(policy_problems(metadata(), ROBOT)) == []
    assert rules(camera_problems(metadata(), ROBOT, ("top", "left_wrist", "right_wrist"))) == []


@pytest.mark.parametrize(
    ("policy", "rule", "words"),
    [
        (metadata(action_names=ROBOT.action_names[1:]), "action-names", "the policy commands left_shoulder"),
        (metadata(action_names=ROBOT.action_names[::-1]), "action-names", "but aloha_sim has left_waist"),
        (without("action_names"), "action-names", "commands nothing by name"),
        (metadata(state_dim=13), "state-dim", "expects 13 joints, the arm has 14"),
        (metadata(control_hz=20.0), "control-rate", "acts 20 times per second, aloha_sim 50"),
        (without("control_hz"), "control-rate", "does not say its rate"),
        (metadata(gate=policy_pb2.GATE_FAILED, gate_reasons=["cosine 0.9"]), "gate", "did not pass (cosine 0.9)"),
        (metadata(gate=policy_pb2.GATE_MISSING), "gate", "it was never judged"),
        (metadata(overrides=["stale-prefix"]), "policy-overrides", "overrode stale-prefix"),
    ],
)
def test_what_is_wrong_with_a_policy_has_a_rule_and_says_what_was_found(policy, rule: str, words: str):
    found = list(policy_problems(policy, ROBOT))
    assert rules(found) == [rule]
    assert words in str(found[0])
    assert ("--accept-mismatch" in str(found[0])) == (rule in ACCEPTABLE)


def test_cameras_are_compared_by_name():
    found = list(camera_problems(metadata(), ROBOT, ("top", "left_wrist", "front")))
    assert rules(found) == ["unknown-camera", "missing-camera"]
    assert "the policy knows no camera front, it knows top, left_wrist, right_wrist" in str(found[0])
    assert "no camera is right_wrist of aloha_sim" in str(found[1])


def test_a_policy_is_slow_where_two_chunks_do_not_fit_in_one():
    assert rules(speed_problems(0.49, 1.0)) == []
    assert rules(speed_problems(0.51, 1.0)) == ["slow-policy"]


def test_the_refusal_lists_every_problem():
    problems = [*policy_problems(metadata(state_dim=6, control_hz=30.0), ROBOT)]
    message = str(PreflightError(problems))
    assert message.startswith("the arm is not armed, 2 problems:\n  state-dim: ")
    assert "\n  control-rate: " in message

"""Policy and parameters are compared before anything moves."""

from __future__ import annotations

from typing import Any

import pytest
from pi0_edge_ros.agreement import agree
from ros_parameters import settings

from pi0_edge.errors import ConfigError
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.robots import load_robot


def policy(**changes: Any) -> PolicyMetadata:
    told = {"action_dim": 2, "state_dim": 2, "control_hz": 50.0, "cameras": ["top"], "default_prompt": "Go"}
    return PolicyMetadata(**{**told, "horizon": 10, "action_names": ["a", "b"], **changes})


def test_what_fits_is_agreed_without_a_warning():
    agreed = agree(settings(), policy())
    assert (agreed.joints, agreed.control_hz, agreed.prompt, agreed.warnings) == (("a", "b"), 50.0, "Go", ())
    assert agreed.splice.name == "rtc"


def test_the_order_is_the_policys_whatever_the_parameter_says():
    agreed = agree(settings(joints=["elbow", "waist"], joint_map=["a=waist", "b=elbow"]), policy())
    assert agreed.joints == ("waist", "elbow")


def test_a_policy_without_names_is_taken_on_trust_only_where_somebody_says_so():
    with pytest.raises(ConfigError, match="set trust_joint_order to true"):
        agree(settings(), policy(action_names=[]))
    agreed = agree(settings(trust_joint_order=True), policy(action_names=[]))
    assert agreed.joints == ("a", "b") and "on trust" in agreed.warnings[0]


def test_trust_does_not_go_beyond_a_policy_without_names():
    with pytest.raises(ConfigError, match="it lacks b and has c instead"):
        agree(settings(joints=["a", "c"], trust_joint_order=True), policy())


@pytest.mark.parametrize(
    ("parameters", "metadata", "said"),
    [
        ({"joints": ["a"]}, {}, "has 1 names, expected 2: a, b"),
        ({"joints": ["a", "c"]}, {}, "it lacks b and has c instead"),
        ({"joint_map": ["a=b"]}, {}, "it lacks nothing and has a instead"),
        ({"joint_map": ["z=a"]}, {}, "joint_map has z; the policy has a, b"),
        ({"joints": ["a", "b", "c"]}, {"state_dim": 3}, "3 values of state and 2 actions"),
        ({"cameras": ["wrist"]}, {}, "cameras has wrist; the policy has top"),
        ({"control_hz": 25.0}, {}, "control_hz is 25, but the policy was trained at 50"),
        ({"splice": "trained-rtc"}, {}, "splice is 'trained-rtc'"),
        ({"splice": "linear-blend"}, {}, "linear-blend"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(parameters, metadata, said):
    with pytest.raises(ConfigError, match=said):
        agree(settings(**parameters), policy(**metadata))


def test_a_policy_of_velocities_is_refused():
    droid = load_robot("droid")
    names = list(droid.action_names)
    told = policy(action_dim=8, state_dim=8, action_names=names, cameras=["top"])
    with pytest.raises(ConfigError, match="joint_1_velocity"):
        agree(settings(joints=names), told)


def test_the_rate_must_come_from_somewhere():
    told = policy()
    told.ClearField("control_hz")
    with pytest.raises(ConfigError, match="set parameter control_hz"):
        agree(settings(), told)
    assert agree(settings(control_hz=25.0), told).control_hz == 25.0


def test_a_policy_that_was_trained_to_continue_a_plan_is_asked_so():
    assert agree(settings(), policy(trained_delay=5)).splice.name == "trained-rtc"
    assert agree(settings(splice="hold-swap"), policy(trained_delay=5)).splice.name == "hold-swap"


def test_what_the_policy_will_not_see_or_somebody_overrode_is_said():
    told = policy(cameras=["top", "wrist"], overrides=["accepted-failed-gate"], default_prompt="")
    warnings = " ".join(agree(settings(), told).warnings)
    assert "cameras wrist" in warnings and "accepted-failed-gate" in warnings and "no prompt yet" in warnings

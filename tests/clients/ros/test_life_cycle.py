"""The node in a real ROS 2: transitions over its services, topics, the e-stop beside an inference."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from held_policy import HeldPolicy, held_server
from PIL import Image
from ros_system import Peer, RosProcess, free_domain, needs_ros, start_node

from pi0_edge.errors import EngineError
from pi0_edge.robots import load_robot
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.real_time

torch.set_num_threads(1)

JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]
POSITIONS = [round(0.01 * place, 2) for place in range(len(JOINTS))]
NODE = ("joints:=[" + ",".join(JOINTS) + "]", "cameras:=[top]", "replan_s:=0.05", "connect_timeout_s:=1.0")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HeldPolicy, PolicyServer]]:
    needs_ros()
    with held_server(tmp_path_factory.mktemp("policy")) as running:
        yield running


@pytest.fixture(scope="module")
def processes(served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, RosProcess]]:
    folder, domain = tmp_path_factory.mktemp("ros"), free_domain()
    node = start_node(folder, domain, *NODE, f"server:={served[1].address}")
    peer = Peer(folder, domain)
    try:
        yield peer, node
    finally:
        peer.stop()
        assert node.stop() == 0, node.log.read_text()[-2000:]


@pytest.fixture
def peer(processes, served) -> Iterator[Peer]:
    """The peer of an unconfigured node, whose parameters are as it was started."""
    served[0].error = None
    served[0].seen.clear()
    yield processes[0]
    served[0].let_go()
    peer = processes[0]
    peer("play")
    peer("set", joints=JOINTS, server=served[1].address, camera__top__compressed=False, splice="auto")
    if peer("state") == "active":
        peer("transition", name="deactivate")
    if peer("state") == "inactive":
        peer("transition", name="cleanup")
    assert peer("state") == "unconfigured"


def play(peer: Peer, names: list[str] = JOINTS, positions: list[float] = POSITIONS, **more: object) -> None:
    peer("play", **{"names": names, "positions": positions, "camera": "raw", **more})


def activated(peer: Peer) -> None:
    assert peer("transition", name="configure") and peer("transition", name="activate")


def test_a_life(peer, served):
    policy = served[0]
    assert peer("state") == "unconfigured"
    assert not peer("transition", name="activate")
    assert peer("transition", name="configure") and peer("state") == "inactive"
    # Another order than the policy's, and a joint more.
    play(peer, [*JOINTS[::-1], "lid"], [*POSITIONS[::-1], 9.0])
    assert peer("trajectories", more_than=0, limit_s=0.3) == [] and policy.seen == []
    assert peer("transition", name="activate") and peer("state") == "active"
    sent = peer("trajectories", more_than=2)
    assert len(sent) > 2
    for message in sent:
        assert message["joints"] == JOINTS
        assert all(earlier < later for earlier, later in pairwise(message["after_ns"]))
        assert message["stamp_ns"] < message["came_ns"] < message["stamp_ns"] + message["after_ns"][-1]
        assert len(message["positions"]) == len(message["after_ns"]) <= 10
    observation, _ = policy.seen[0]
    np.testing.assert_allclose(observation.state, POSITIONS, atol=1e-6)
    assert observation.images["top"].shape == (48, 64, 3) and observation.prompt == "Transfer cube"
    assert any(plan is not None for _, plan in policy.seen), "no chunk continued the plan"
    peer("prompt", text="Transfer")
    so_far = len(peer("trajectories", more_than=-1))
    peer("trajectories", more_than=so_far + 2)
    assert policy.seen[-1][0].prompt == "Transfer"
    assert peer("diagnosis", containing="moves the arm")["level"] == 0
    assert peer("transition", name="deactivate")
    so_far = len(peer("trajectories", more_than=0))
    assert len(peer("trajectories", more_than=so_far, limit_s=0.3)) == so_far, "it goes on after deactivate"
    assert peer("transition", name="cleanup") and peer("state") == "unconfigured"


@pytest.mark.slow
def test_a_prompt_that_was_published_before_configure_counts(peer, served):
    peer("prompt", text="cube")
    activated(peer)
    play(peer)
    assert peer("diagnosis", containing="moves the arm")["prompt"] == "cube"
    assert served[0].seen[-1][0].prompt == "cube"
    peer("prompt", text="Transfer cube")


def test_the_estop_is_answered_during_an_inference_and_nothing_is_sent_after_it(peer, served):
    policy = served[0]
    activated(peer)
    policy.hold()
    play(peer)
    assert policy.begun.wait(15)
    before = len(peer("trajectories", more_than=-1))
    answer = peer("estop")
    assert policy.seen and not policy._may_run.is_set(), "the inference still runs"
    # No bridge: that nothing was stopped is said, and the node stops all the same.
    assert not answer["success"] and "names no bridge" in answer["message"]
    assert "emergency stop" in peer("diagnosis", containing="emergency stop")["message"]
    assert peer("state") == "inactive"
    policy.let_go()
    assert len(peer("trajectories", more_than=before, limit_s=0.3)) == before


@pytest.mark.slow
def test_compressed_images_and_old_images(peer, served):
    content = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), (200, 30, 30), np.uint8)).save(content, format="JPEG", quality=95)
    peer("set", camera__top__compressed=True)
    activated(peer)
    so_far = len(peer("trajectories", more_than=-1))
    play(peer, camera="jpeg", jpeg=content.getvalue().hex(), late_s=2.0)
    said = peer("diagnosis", containing="s old, expected at most 0.3 s")
    assert said["level"] == 1 and "camera top" in said["message"]
    assert len(peer("trajectories", more_than=-1)) == so_far and served[0].seen == []
    play(peer, camera="jpeg", jpeg=content.getvalue().hex())
    assert len(peer("trajectories", more_than=so_far)) > so_far
    red = served[0].seen[0][0].images["top"].mean((0, 1))
    assert red[0] > 180 and red[1] < 60 and red[2] < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"joints": JOINTS[1:]}, "has 13 names, expected 14"),
        ({"joints": [*JOINTS[:-1], "lid"]}, "it lacks right_gripper and has lid instead"),
        ({"server": "127.0.0.1:9"}, "127.0.0.1:9"),
        ({"splice": "glue"}, "parameter splice is glue"),
    ],
)
def test_what_does_not_fit_stays_unconfigured_and_says_why(peer, processes, parameters, said):
    peer("set", **parameters)
    assert not peer("transition", name="configure")
    assert peer("state") == "unconfigured"
    assert said in processes[1].log.read_text()


@pytest.mark.slow
def test_errors_of_the_policy_lead_to_inactive_and_it_can_be_activated_again(peer, served):
    served[0].error = EngineError("the engine has no memory")
    so_far = len(peer("trajectories", more_than=-1))
    activated(peer)
    play(peer)
    said = peer("diagnosis", containing="3 inferences in a row failed")
    assert said["level"] == 2 and peer("state") == "inactive"
    served[0].error = None
    assert peer("transition", name="activate")
    assert len(peer("trajectories", more_than=so_far)) > so_far


@pytest.mark.slow
def test_a_joint_that_is_missing_or_not_a_number_is_said_and_nothing_is_sent(peer, served):
    activated(peer)
    play(peer, JOINTS[1:], POSITIONS[1:])
    assert "without left_waist" in peer("diagnosis", containing="left_waist")["message"]
    play(peer, JOINTS, [float("nan"), *POSITIONS[1:]])
    assert "left_waist at nan" in peer("diagnosis", containing="at nan")["message"]
    assert served[0].seen == [] and peer("state") == "active"

"""Observe, ask a real policy server, send: without ROS, with a clock that the test moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from held_policy import HeldPolicy, held_server
from pi0_edge_ros.agreement import agree
from pi0_edge_ros.session import PAUSE_NS, Session
from pi0_edge_ros.trajectories import MessageClasses
from ros_messages import NANOSECONDS, JointState, JointTrajectory, JointTrajectoryPoint, header, raw_image
from ros_parameters import settings

from pi0_edge.errors import EngineError
from pi0_edge.robots import load_robot
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

torch.set_num_threads(1)

JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
PERIOD = NANOSECONDS // 50
HORIZON = 10


class Robot:
    """A session with a robot that stands still, at times that the test sets."""

    def __init__(self, served: tuple[HeldPolicy, PolicyServer], **changes: Any) -> None:
        self.policy, server = served
        self.now_ns = 1_000 * NANOSECONDS
        self.sent: list[JointTrajectory] = []
        self.client = PolicyClient(server.address)
        values = settings(joints=JOINTS[::-1], **{"replan_s": 0.1, **changes})
        agreement = agree(values, self.client.metadata())
        classes = MessageClasses(JointTrajectory, JointTrajectoryPoint)
        self.session = Session(values, agreement, self.client, classes, self.sent.append, lambda: self.now_ns)

    def show(self, positions: Any = None, **image: Any) -> None:
        values = np.linspace(-0.3, 0.3, len(JOINTS)) if positions is None else positions
        self.session.inbox.take_joints(JointState(JOINTS, list(values), header(self.now_ns)))
        self.session.inbox.take_image("top", raw_image(PIXELS, self.now_ns, **image))

    def step(self) -> None:
        """One control period, until an inference that it began has ended."""
        self.show()
        self.session.step()
        self.settle()
        self.now_ns += PERIOD

    def settle(self) -> None:
        wait(lambda: self.session._running is None or self.session._running.done())


def wait(holds: Callable[[], object], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HeldPolicy, PolicyServer]]:
    folder: Path = tmp_path_factory.mktemp("policy")
    with held_server(folder) as running:
        yield running


@pytest.fixture
def robot(served: tuple[HeldPolicy, PolicyServer]) -> Iterator[Robot]:
    served[0].error = None
    served[0].seen.clear()
    made = Robot(served)
    yield made
    made.policy.let_go()
    made.client.close()
    made.session.close()


def test_nothing_is_asked_or_sent_before_the_start(robot):
    robot.step()
    assert robot.sent == [] and robot.policy.seen == []


def test_a_chunk_is_sent_with_the_time_of_its_observation_and_the_policys_joints(robot):
    robot.session.start()
    observed_ns = robot.now_ns
    robot.step()
    message = robot.sent[0]
    assert message.joint_names == JOINTS
    assert message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec == observed_ns
    assert len(message.points) == HORIZON
    seen, plan = robot.policy.seen[0]
    np.testing.assert_array_equal(seen.images["top"], PIXELS)
    np.testing.assert_allclose(seen.state, np.linspace(-0.3, 0.3, len(JOINTS)), atol=1e-6)
    assert plan is None and seen.prompt == "Transfer cube"


def test_the_next_chunk_continues_what_was_sent(robot):
    robot.session.start()
    for _ in range(6):
        robot.step()
    assert len(robot.sent) == 2
    plan = robot.policy.seen[1][1]
    sent = np.array([point.positions for point in robot.sent[0].points])
    np.testing.assert_allclose(plan.actions, sent[5:], atol=1e-5)


def test_a_chunk_that_comes_late_enters_at_the_action_that_is_due(robot):
    robot.policy.hold()
    robot.session.start()
    robot.show()
    robot.session.step()
    assert robot.policy.begun.wait(10)
    robot.now_ns += 4 * PERIOD
    robot.policy.let_go()
    robot.settle()
    after = [point.time_from_start.nanosec // PERIOD for point in robot.sent[0].points]
    assert after == [5, 6, 7, 8, 9, 10]
    assert robot.session.counts.skipped == 4


def test_a_chunk_that_is_past_due_moves_nothing_and_is_said(robot):
    robot.policy.hold()
    robot.session.start()
    robot.show()
    robot.session.step()
    assert robot.policy.begun.wait(10)
    robot.now_ns += 20 * PERIOD
    robot.policy.let_go()
    robot.settle()
    assert robot.sent == [] and robot.session.counts.late == 1
    assert "came 0.40 s after its observation and reaches 0.20 s" in robot.session.problem


@pytest.mark.parametrize("again", [False, True])
def test_after_a_stop_the_answer_of_a_running_inference_is_thrown_away(robot, again):
    robot.policy.hold()
    robot.session.start()
    robot.show()
    robot.session.step()
    assert robot.policy.begun.wait(10)
    begin_s = time.monotonic()
    robot.session.stop()
    assert time.monotonic() - begin_s < 5, "it waited for the inference"
    if again:
        robot.session.start()
    robot.policy.let_go()
    robot.settle()
    assert robot.sent == [] and robot.session.is_active == again and not robot.session.problem
    if again:
        robot.step()
        assert len(robot.sent) == 1 and robot.policy.seen[-1][1] is None


def test_a_step_while_an_inference_runs_returns_and_begins_no_second_one(robot):
    robot.policy.hold()
    robot.session.start()
    for _ in range(5):
        robot.show()
        robot.session.step()
        robot.now_ns += PERIOD
    assert robot.policy.begun.wait(10)
    robot.policy.let_go()
    robot.settle()
    assert len(robot.policy.seen) == 1


def test_messages_that_cannot_be_used_are_said_and_the_session_goes_on(robot):
    robot.session.start()
    robot.session.step()
    assert "no joint state" in robot.session.problem
    robot.show(positions=[np.nan] * len(JOINTS))
    robot.session.step()
    robot.settle()
    assert "at nan" in robot.session.problem and robot.session.counts.refused == 1
    assert robot.policy.seen == [] and robot.session.is_active
    robot.now_ns += PAUSE_NS
    robot.step()
    assert len(robot.sent) == 1 and robot.session.problem == ""


def test_after_errors_in_a_row_it_stops_by_itself_and_says_why(robot):
    robot.policy.error = EngineError("the engine has no memory")
    robot.session.start()
    for failed in (1, 2, 3):
        assert robot.session.is_active
        robot.step()
        robot.now_ns += PAUSE_NS
        assert robot.session.counts.errors == failed
    assert not robot.session.is_active and robot.sent == []
    assert robot.session.gave_up.startswith("3 inferences in a row failed, the last one: ")
    robot.policy.error = None
    robot.session.start()
    robot.step()
    assert len(robot.sent) == 1 and not robot.session.gave_up


def test_an_error_between_chunks_that_come_stops_nothing(robot):
    robot.session.start()
    for _ in range(4):
        robot.policy.error = EngineError("once")
        robot.now_ns += NANOSECONDS
        robot.step()
        robot.policy.error = None
        robot.now_ns += NANOSECONDS
        robot.step()
    assert robot.session.counts.errors == 4 and len(robot.sent) == 4 and robot.session.is_active


def test_a_clock_that_begins_anew_forgets_the_plan(robot):
    robot.session.start()
    robot.step()
    robot.now_ns -= 500 * NANOSECONDS
    robot.step()
    assert len(robot.sent) == 2 and robot.policy.seen[-1][1] is None
    assert robot.sent[1].header.stamp.sec == 500


def test_a_clock_that_begins_anew_during_an_inference_throws_its_answer_away(robot):
    robot.policy.hold()
    robot.session.start()
    robot.show()
    robot.session.step()
    assert robot.policy.begun.wait(10)
    robot.now_ns -= 500 * NANOSECONDS
    robot.session.step()
    robot.policy.let_go()
    robot.settle()
    assert robot.sent == []


def test_a_server_that_is_gone_is_an_error_in_words(served):
    gone = Robot(served)
    gone.client.close()
    gone.session.start()
    gone.step()
    assert gone.session.problem and gone.sent == []
    gone.session.close()


def test_an_error_that_nobody_foresaw_is_not_lost(robot):
    def broken(message: object) -> None:
        raise RuntimeError("the middleware is gone")

    robot.session._publish = broken
    robot.session.start()
    robot.step()
    assert robot.session.problem == "RuntimeError: the middleware is gone"


def test_close_ends_a_running_inference(served):
    robot = Robot(served)
    robot.policy.hold()
    robot.session.start()
    robot.show()
    robot.session.step()
    assert robot.policy.begun.wait(10)
    robot.client.close()
    robot.session.close()
    robot.policy.let_go()
    assert robot.sent == []

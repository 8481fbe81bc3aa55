"""A path that leaves the workspace is found, compared with dense sampling; a way back in is not refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspace_builders import (
    PLANAR,
    PLANAR_FILE,
    aloha_content,
    as_sent,
    changed,
    planar_content,
    telemetry,
    written,
)

from firmware_bridge.bridge.workspace.boxes import Rule, rules
from firmware_bridge.bridge.workspace.kinematics import Kinematics
from firmware_bridge.bridge.workspace.motion import ArmState, Motion, MotionPredictor, Setpoints
from firmware_bridge.bridge.workspace.path_check import PathCheck
from firmware_bridge.bridge.workspace.settings import load_settings
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.errors import ChunkError
from firmware_bridge.robot import RobotJoints, load_joints
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import State

pytest.importorskip("mujoco", reason="mujoco is not installed")

ALOHA = load_joints("aloha")
LAST = 100  # the newest tick of telemetry
FIRST = 104  # the first of a chunk


@cache
def parts(name: str) -> tuple[RobotJoints, Kinematics, tuple[Rule, ...]]:
    with TemporaryDirectory() as folder:
        path = PLANAR_FILE if name == "planar" else written(Path(folder), aloha_content())
        robot = PLANAR if name == "planar" else ALOHA
        described = load_settings(path, robot.name, robot.names)
        return robot, Kinematics(described, robot), tuple(rules(described))


def path_check(name: str) -> PathCheck:
    robot, kinematics, kept = parts(name)
    return PathCheck(kinematics, kept, robot)


def motion_to(name: str, setpoints: np.ndarray, start: np.ndarray) -> Motion:
    robot, _, _ = parts(name)
    state = ArmState(LAST, start.astype(np.float32), np.zeros(robot.count, np.float32))
    chunk = as_sent(robot, FIRST, setpoints)
    return MotionPredictor(robot).predict(state, Setpoints(), chunk).between(FIRST, chunk.last_tick)


def at(name: str, *positions: float) -> np.ndarray:
    robot, _, _ = parts(name)
    return np.array([*positions, *robot.home[len(positions) :]])


@pytest.mark.parametrize("name", ["planar", "aloha"])
@given(seed=st.integers(0, 2**32), width=st.sampled_from([1e-3, 0.02, 0.3]))
@settings(max_examples=40)
def test_no_joint_within_its_range_moves_a_frame_farther_than_its_reach(name: str, seed: int, width: float) -> None:
    robot, kinematics, _ = parts(name)
    rng = np.random.default_rng(seed)
    middle = rng.uniform(robot.lower, robot.upper)
    half = width * rng.uniform(0, 1, robot.count)
    frames = kinematics.at(middle[None], half[None])
    sampled = middle + half * np.where(rng.random((64, robot.count)) < 0.5, 1, -1) * rng.uniform(0, 1, (64, 1)) ** 0.2
    points = kinematics.at(sampled, np.zeros_like(sampled)).points
    moved = np.linalg.norm(points - frames.points, axis=2)
    assert (moved <= frames.reach + 1e-12).all()
    assert (frames.reach < 12 * width).all()


def test_the_reach_of_a_hinge_is_the_way_of_the_tip_and_that_of_a_slide_its_own() -> None:
    _, kinematics, _ = parts("planar")
    straight = np.zeros((1, 3))
    assert kinematics.at(straight, np.array([[0.01, 0, 0]])).reach[0, 0] == pytest.approx(0.01 * 0.55)
    assert kinematics.at(straight, np.array([[0, 0, 0.1]])).reach[0, 0] == pytest.approx(0.01)
    np.testing.assert_allclose(kinematics.at(straight, straight).points[0, 0], [0.55, 0, 0.1], atol=1e-12)
    up = np.array([[np.pi / 2, 0.0, 1.0]])
    np.testing.assert_allclose(kinematics.at(up, straight).points[0, 0], [0, 0, 0.75], atol=1e-12)


def sampled_clearances(name: str, motion: Motion, rng: np.random.Generator) -> Iterator[tuple[int, float]]:
    """Of positions between two servo steps, each joint anywhere between them, and of those where it brakes."""
    robot, kinematics, kept = parts(name)
    predictor = MotionPredictor(robot)
    for step in range(1, len(motion.positions)):
        a, b = motion.positions[step - 1].astype(float), motion.positions[step].astype(float)
        mixed = a + (b - a) * rng.uniform(0, 1, (4, robot.count))
        position, velocity = b, motion.velocities[step].astype(float)
        braking = []
        while np.abs(velocity).max() > 0:
            velocity = np.sign(velocity) * np.maximum(np.abs(velocity) - predictor.max_change, 0)
            position = np.clip(position + velocity, robot.lower, robot.upper)
            braking.append(position)
        poses = np.array([a, b, *mixed, *braking[:: max(1, len(braking) // 4)], *braking[-1:]])
        points = kinematics.at(poses, np.zeros_like(poses)).points
        yield (
            motion.first_tick + (step - 1) // motion.servo_steps,
            min(float(rule.clearance(points[:, rule.frame]).min()) for rule in kept),
        )


def start_inside(name: str, rng: np.random.Generator) -> np.ndarray:
    robot, kinematics, kept = parts(name)
    while True:
        start = robot.to_counts(robot.home + rng.normal(0, 0.4, robot.count)) * robot.resolution
        points = kinematics.at(start[None], np.zeros((1, robot.count))).points
        if all(rule.clearance(points[:, rule.frame])[0] > 0.002 for rule in kept):
            return start


@pytest.mark.parametrize("name", ["planar", "aloha"])
@given(seed=st.integers(0, 2**32), size=st.sampled_from([0.1, 0.4, 1.5]), rough=st.sampled_from([0.0, 0.01, 0.5]))
@settings(max_examples=40)
def test_what_is_accepted_stays_inside_and_what_is_refused_is_near_a_border(
    name: str, seed: int, size: float, rough: float
) -> None:
    robot, _, _ = parts(name)
    rng = np.random.default_rng(seed)
    start = start_inside(name, rng)
    phase = np.linspace(0, np.pi, 25)[:, None]
    way = size * rng.normal(0, 1, robot.count) * (1 - np.cos(phase)) + rough * rng.normal(0, 1, (25, robot.count))
    motion = motion_to(name, np.clip(start + way, robot.lower, robot.upper), start)
    found = path_check(name).excursion(motion)
    sampled = list(sampled_clearances(name, motion, rng))
    outside = [tick for tick, clearance in sampled if clearance < 0]
    if found is None:
        assert outside == []
        return
    assert not outside or found.tick <= outside[0]
    steps = np.abs(np.diff(motion.positions, axis=0)).max()
    stop = (np.abs(motion.velocities) ** 2 / (2 * MotionPredictor(robot).max_change)).max()
    slack = robot.count * (steps + stop)  # no frame is farther than a metre from a joint
    assert min(clearance for _, clearance in sampled) < slack


def test_the_way_from_where_the_arm_is_to_the_first_setpoint_is_checked() -> None:
    """Start and setpoints lie on both sides of the laptop; the joints pass through it."""
    start, end = at("planar", 0.0, -2.3), at("planar", 0.0, -0.5)
    check = path_check("planar")
    for position in (start, end):
        assert check.excursion(motion_to("planar", np.tile(position, (5, 1)), position)) is None
    found = check.excursion(motion_to("planar", np.tile(end, (30, 1)), start))
    assert found is not None and "tip enters the forbidden box laptop from" in found.what


def test_a_path_beyond_a_face_is_named_with_its_axis_depth_and_tick() -> None:
    start = at("planar", 0.3)
    down = np.linspace(0.3, -0.3, 50)[:, None] * [1, 0, 0]
    found = path_check("planar").excursion(motion_to("planar", down, start))
    assert found is not None and "the allowed box bench below its min z by up to" in found.what
    heights = 0.1 + 0.55 * np.sin(down[:, 0])
    first_below = FIRST + int(np.argmax(heights < 0.05 + 0.005))
    assert first_below - 3 <= found.tick <= first_below
    deepest = 0.055 - heights.min()
    assert deepest <= found.depth < deepest + 0.02


def test_an_arm_that_is_outside_is_led_back_but_not_farther_out_nor_left_there() -> None:
    check, outside = path_check("planar"), at("planar", -0.4)  # the tip is 0.16 m below the bench
    inward = np.linspace(-0.4, 0.3, 50)[:, None] * [1, 0, 0]
    assert check.excursion(motion_to("planar", inward, outside)) is None
    assert check.excursion(motion_to("planar", inward[:10], outside)) is None  # a part of the way
    outward = np.linspace(-0.4, -0.6, 50)[:, None] * [1, 0, 0]
    found = check.excursion(motion_to("planar", outward, outside))
    assert found is not None and "where it is already, and goes" in found.what and "farther" in found.what
    found = check.excursion(motion_to("planar", np.tile(outside, (50, 1)), outside))
    assert found is not None and "already, and is not led back" in found.what
    out_again = np.concatenate([inward, inward[::-1]])[20:80]
    found = check.excursion(motion_to("planar", out_again, inward[20]))
    assert found is not None and "by up to" in found.what


def test_a_frame_may_pass_from_one_allowed_box_to_another_where_they_overlap(tmp_path: Path) -> None:
    start, end = at("planar", 1.0, -0.9), at("planar", 1.4, -1.0)
    way = np.linspace(start, end, 50)
    without_shelf = changed(planar_content(), "allowed/shelf", None)
    narrow = load_settings(written(tmp_path, without_shelf), "planar_arm", PLANAR.names)
    narrow_check = PathCheck(Kinematics(narrow, PLANAR), tuple(rules(narrow)), PLANAR)
    wide = planar_content()
    wide = changed(wide, "frames/wrist", None)
    wide = changed(wide, "allowed/bench/frames", ["tip"])
    described = load_settings(written(tmp_path, wide), "planar_arm", PLANAR.names)
    wide_check = PathCheck(Kinematics(described, PLANAR), tuple(rules(described)), PLANAR)
    motion = motion_to("planar", way, start)
    assert wide_check.excursion(motion) is None
    assert narrow_check.excursion(motion) is not None


class TestOfTheBridge:
    """`Workspace`, fed with telemetry as the bridge feeds it."""

    def workspace(self, start: np.ndarray, state: State = State.RUNNING) -> Workspace:
        workspace = Workspace(PLANAR_FILE, PLANAR)
        for tick in range(LAST - 2, LAST + 1):
            workspace.on_telemetry(telemetry(tick, start, state))
        return workspace

    def refusal(self, workspace: Workspace, chunk: Plan, now: float = LAST + 1.0) -> str:
        try:
            workspace.check(chunk, FIRST - 3, now)
        except ChunkError as error:
            assert not error.malformed
            return str(error)
        return ""

    def test_a_refusal_names_the_action_the_tick_and_the_time(self) -> None:
        start = at("planar", 0.3)
        down = as_sent(PLANAR, FIRST, np.linspace(0.3, -0.3, 50)[:, None] * [1, 0, 0])
        said = self.refusal(self.workspace(start), down)
        assert said.startswith("workspace: tip leaves the allowed box bench below its min z by up to")
        tick = int(said.split("(tick ")[1].split(",")[0])
        assert f"first at action {tick - FIRST + 2} (tick {tick}, in {(tick - LAST - 1) * 0.02:.2f} s)" in said

    def test_a_chunk_without_known_position_is_refused(self) -> None:
        hold = as_sent(PLANAR, FIRST, np.tile(at("planar", 0.3), (10, 1)))
        assert "has not reported a tick for 0.5 s" in self.refusal(Workspace(PLANAR_FILE, PLANAR), hold)
        assert "has not reported a tick" in self.refusal(self.workspace(at("planar", 0.3)), hold, LAST + 26.0)

    def test_the_path_begins_where_the_accepted_plan_leads_and_not_where_the_arm_is(self) -> None:
        """Until the new chunk enters, the arm follows the old one; from there its first setpoint is near."""
        start = at("planar", 0.0, 0.0)
        away = np.linspace(start, at("planar", 0.5, 0.0), 20)
        workspace = self.workspace(start)
        first = as_sent(PLANAR, LAST + 2, away)
        assert self.refusal(workspace, first) == ""
        workspace.accepted(first, LAST - 1)
        goes_on = as_sent(PLANAR, LAST + 12, np.tile(away[10], (10, 1)))
        assert self.refusal(workspace, goes_on) == ""


def test_a_home_that_is_outside_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content: dict[str, Any] = changed(planar_content(), "allowed/bench/max", [0.5, 0.1, 0.5])
    Workspace(written(tmp_path, content), PLANAR)
    assert "the home position of planar_arm is outside of the workspace: tip leaves" in caplog.text

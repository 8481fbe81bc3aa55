"""The guard as a run uses it: before arming, at the first chunk, while running; what is accepted by name."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import get_args

import mismatch_cases as cases
import numpy as np
import pytest
from numpy.typing import NDArray

from pi0_edge.cameras import CameraImage
from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.protos import bridge_pb2
from pi0_edge.robots import load_robot
from pi0_edge.run.events import Answered, Event, Observed, RunListener
from pi0_edge.run.mismatch import RULES, Mismatch, MismatchGuard
from pi0_edge.run.mismatch.rules import Rule
from pi0_edge.training_profile import collect_profile

EVERY = cases.HZ // 2


def guard(**options: object) -> MismatchGuard:
    return MismatchGuard(cases.profile(), cases.robot(), prompt=cases.PROMPT, **options)  # pyright: ignore[reportArgumentType]


def rules_of(found: list[Mismatch]) -> list[tuple[str, str, bool]]:
    return [(mismatch.rule, mismatch.subject, mismatch.refuses) for mismatch in found]


def work(
    watching: MismatchGuard,
    states: NDArray[np.float64],
    *,
    hz: float = cases.HZ,
    prompt: str = cases.PROMPT,
    chunks: list[NDArray[np.float64]] | None = None,
    mirrored: bool = False,
    first_tick: int = 0,
) -> None:
    """Shows a guard the rows of an episode, an observation and its chunk every half second."""
    for number, row in enumerate(range(0, len(states) - 50, EVERY)):
        tick = first_tick + row
        time_ns = round(1e9 * (1 + tick / hz))
        images = cases.pictures(states[row], tick, time_ns)
        if mirrored:
            images["front"] = replace(images["front"], pixels=np.ascontiguousarray(images["front"].pixels[:, ::-1]))
        observed = Observed(tick, time_ns, images, states[row].astype(np.float32), prompt, noise_seed=0)
        watching.on_observed(observed)
        chunk = cases.actions(states)[row : row + 50] if chunks is None else chunks[number]
        report = bridge_pb2.ChunkReport()
        watching.on_answered(Answered(observed, time_ns, chunk.astype(np.float32), (), 0.0, 0.0, report))


def longer(seed: int = 50) -> NDArray[np.float64]:
    """Two episodes one after the other, 10 s."""
    return np.concatenate([cases.states(seed), cases.states(seed)[::-1]])


def test_the_right_robot_may_be_armed():
    assert guard().before_arming(cases.at_rest()) == []
    assert guard(cameras=cases.CAMERAS).before_arming(cases.at_rest()) == []


def test_it_is_a_listener_that_finds_nothing_in_ordinary_work():
    watching: RunListener = (checked := guard())
    work(checked, longer())
    watching.on_event(Event(0, 0, "paused"))
    assert checked.mismatches == []


def test_every_rule_is_described():
    assert tuple(RULES) == get_args(Rule)


def test_a_policy_without_profile_refuses_and_still_sees_black_cameras():
    bare = MismatchGuard(None, cases.robot())
    dark = [
        (state, {"front": replace(images["front"], pixels=images["front"].pixels * 0)})
        for state, images in cases.at_rest()
    ]
    assert rules_of(bare.before_arming(dark)) == [("training-profile", "", True), ("camera-black", "front", True)]
    assert bare.first_chunk(cases.START, np.zeros((50, 6))) == []
    accepted = MismatchGuard(None, cases.robot(), accepted=("training-profile",))
    (found,) = accepted.before_arming(cases.at_rest())
    assert not found.refuses and found.accepted
    work(accepted, longer())
    assert accepted.mismatches == []


def test_an_accepted_rule_is_visible_and_does_not_refuse():
    accepting = guard(accepted=["joint-sign", "start-pose"])
    assert accepting.overrides == ("accept-mismatch-joint-sign", "accept-mismatch-start-pose")
    flipped = cases.START * np.where(np.arange(6) == 2, -1, 1)
    (found,) = accepting.before_arming([(flipped, images) for _, images in cases.at_rest()])
    assert (found.rule, found.refuses, found.accepted) == ("joint-sign", False, True)
    assert str(found).startswith("joint-sign (accepted by name): ")
    with pytest.raises(ConfigError, match="there is no mismatch rule 'joint-sing'; the rules are training-profile"):
        guard(accepted=["joint-sing"])


def test_joint_names_and_their_order_must_be_those_of_the_training_data():
    robot = cases.robot()
    joints = tuple(robot.joints[place] for place in (1, 0, 2, 3, 4, 5))
    other = replace(robot, joints=joints, action_names=tuple(joint.name for joint in joints))
    found = MismatchGuard(cases.profile(), other).before_arming(cases.at_rest())
    assert found[0].rule == "joint-names" and found[0].refuses
    assert "joint 1 is shoulder_lift, in the training data it is shoulder_pan" in found[0].text


def test_a_robot_with_fewer_joints_is_refused_by_its_names_alone():
    robot = cases.robot()
    joints = robot.joints[:5]
    servos = robot.servos[:5]
    smaller = replace(
        robot, joints=joints, servos=servos, action_names=(), state_dim=5, action_dim=5, delta_actions=(5,)
    )
    seen = [(state[:5], images) for state, images in cases.at_rest()]
    found = MismatchGuard(cases.profile(), smaller).before_arming(seen)
    assert rules_of(found) == [("joint-names", "", True)]
    assert "so101 has 5 joints, the training data have 6" in found[0].text


def test_the_control_rate_is_compared_and_measured():
    other = MismatchGuard(cases.profile(), replace(cases.robot(), control_hz=30.0))
    (found,) = other.before_arming(cases.at_rest())
    assert (found.rule, found.refuses) == ("control-rate", True)
    assert "is set to 30 Hz, in the training data it is 50 Hz" in found.text and "0.60 times as fast" in found.text
    slow = guard()
    work(slow, longer(), hz=40)
    assert rules_of(slow.mismatches) == [("control-rate", "", True)]
    assert "is measured as 40 Hz" in slow.mismatches[0].text
    nearly = guard()
    work(nearly, longer(), hz=47)
    assert nearly.mismatches == []


def test_another_prompt_warns_and_another_spelling_does_not():
    asked = MismatchGuard(cases.profile(), cases.robot(), prompt="Fold the towel")
    (found,) = asked.before_arming(cases.at_rest())
    assert (found.rule, found.refuses) == ("prompt", False) and "'Stack the cups'" in found.text
    work(watching := guard(), longer(), prompt="stack  the cups.")
    assert watching.mismatches == []
    work(watching := guard(), longer(), prompt="Fold the towel")
    assert rules_of(watching.mismatches) == [("prompt", "", False)]  # once, not at every observation


def test_cameras_that_are_missing_or_unknown_are_named():
    found = guard(cameras=("front", "top")).before_arming(cases.at_rest())
    assert rules_of(found) == [("camera-names", "wrist", True), ("camera-names", "top", True)]
    one = [(state, {"front": images["front"]}) for state, images in cases.at_rest()]
    assert rules_of(guard().before_arming(one)) == [("camera-names", "wrist", True)]


@pytest.mark.parametrize(("height", "width", "refuses"), [(120, 160, False), (60, 60, True)])
def test_images_of_another_size_warn_and_of_another_shape_refuse(height, width, refuses):
    def scaled(image: CameraImage) -> CameraImage:
        rows, columns = np.arange(height) * 60 // height, np.arange(width) * 80 // width
        return replace(image, pixels=image.pixels[rows][:, columns])

    seen = [(state, {**images, "wrist": scaled(images["wrist"])}) for state, images in cases.at_rest()]
    (found,) = guard().before_arming(seen)
    assert rules_of([found]) == [("image-size", "wrist", refuses)]
    assert f"{width} x {height} pixels, in the training data they have 80 x 60" in found.text


def test_what_a_profile_lacks_is_said_as_a_warning():
    profile = collect_profile(cases.robot(), [cases.training_episode(seed) for seed in range(20)], None, "these")
    (found,) = MismatchGuard(profile, cases.robot()).before_arming(cases.at_rest())
    assert rules_of([found]) == [("training-profile", "", False)]
    assert found.text.startswith("control-rate cannot be checked: these does not say")


def test_a_robot_that_lists_no_joints_is_compared_without_names():
    """LIBERO: eight states without units, seven actions that are differences of a pose."""
    libero = load_robot("libero")

    def eight(states: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([states, states[:, :2]], axis=1)

    episodes = [cases.training_episode(seed) for seed in range(20)]
    episodes = [replace(e, states=eight(e.states), actions=np.zeros((len(e.states), 7))) for e in episodes]
    profile = collect_profile(libero, episodes, 20.0, "these")
    watching = MismatchGuard(profile, libero)
    start = eight(cases.START[None])[0]
    found = watching.before_arming([(start, images) for _, images in cases.at_rest()])
    assert [mismatch.refuses for mismatch in found] == [False]
    assert found[0].text.startswith("first-action, relative-actions, chunk-overlap cannot be checked")
    assert watching.first_chunk(start, np.ones((50, 7))) == []
    away = start + np.where(np.arange(8) == 4, 1.0, 0.0)
    (found,) = [m for m in watching.before_arming([(away, i) for _, i in cases.at_rest()]) if m.refuses]
    assert (found.rule, found.subject) == ("joint-zero", "4")


def test_a_mirrored_camera_is_seen_while_running_and_told_once():
    told: list[Mismatch] = []
    watching = guard(on_mismatch=told.append)
    work(watching, longer(), mirrored=True)
    assert rules_of(watching.mismatches) == [("camera-mirrored", "front", True)]
    assert told == watching.mismatches


def test_what_was_seen_before_a_pause_does_not_count():
    """Six of eight moments are needed, and a pause begins anew."""
    watching = guard()
    states = longer()
    work(watching, states[: 50 + 6 * EVERY], mirrored=True)
    watching.on_event(Event(0, 0, "paused"))
    work(watching, states[: 50 + 6 * EVERY], mirrored=True, first_tick=1000)
    assert watching.mismatches == []


def test_observations_more_often_than_twice_a_second_are_looked_at_twice_a_second():
    watching = guard()
    images = cases.pictures(cases.START, 0, 0)
    mirrored = {
        **images,
        "front": replace(images["front"], pixels=np.ascontiguousarray(images["front"].pixels[:, ::-1])),
    }
    for tick in range(0, 150):  # 3 s at 50 Hz: six looks
        fresh = {name: replace(image, taken_ns=20_000_000 * tick) for name, image in mirrored.items()}
        watching.on_observed(
            Observed(tick, 20_000_000 * tick, fresh, cases.START.astype(np.float32), cases.PROMPT, noise_seed=0)
        )
    assert watching.mismatches == []


def test_chunks_that_plan_something_else_each_time_warn():
    states = longer()
    count = len(range(0, len(states) - 50, EVERY))
    away = np.where(np.arange(6) == 1, 1.5, 0.0)
    chunks = [cases.actions(states)[25 * k : 25 * k + 50] for k in range(count)]
    bent = [chunk + (k % 2) * away * np.linspace(0, 3, 50)[:, None].clip(0, 1) for k, chunk in enumerate(chunks)]
    work(watching := guard(), states, chunks=bent)
    assert rules_of(watching.mismatches) == [("chunk-overlap", "shoulder_lift", False)]


def test_relative_actions_are_seen_while_running_after_two_of_three_chunks():
    states = longer()
    rows = range(0, len(states) - 50, EVERY)
    arm = np.where(np.arange(6) < 5, 1.0, 0.0)
    work(watching := guard(), states, chunks=[cases.actions(states)[k : k + 50] - arm * states[k] for k in rows])
    assert "relative-actions" in {mismatch.rule for mismatch in watching.mismatches}


@pytest.mark.parametrize(
    ("observations", "says"),
    [
        ([], "no observation was given"),
        ([(np.zeros(5), {})], "6 finite numbers, found shape"),
        ([(np.full(6, np.nan), {})], "6 finite numbers"),
        ([(cases.START, cases.pictures(cases.START, 0, 0)), (cases.START, {})], "not in all observations"),
    ],
)
def test_observations_of_no_use_are_refused(observations, says):
    with pytest.raises(ObservationError, match=says):
        guard().before_arming(observations)


def test_looking_takes_a_small_part_of_a_tick():
    """The guard must not hold up a run: two cameras with 480 x 640 pixels are looked at within 20 ms."""
    watching = guard()
    images = {name: CameraImage(np.tile(cases.background(name), (8, 8, 1)), 0, 0) for name in cases.CAMERAS}
    took = []
    for k in range(10):
        observed = Observed(25 * k, 500_000_000 * k, images, cases.START.astype(np.float32), cases.PROMPT, noise_seed=0)
        before = time.thread_time()
        watching.on_observed(observed)
        took.append(time.thread_time() - before)
    assert np.median(took) < 0.02

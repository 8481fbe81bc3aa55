"""Which messages make an observation: stamps, ages, prompts."""

from __future__ import annotations

import numpy as np
import pytest
from pi0_edge_ros.inbox import Inbox
from pi0_edge_ros.settings import Camera
from ros_messages import NANOSECONDS, CompressedImage, JointState, compressed, header, raw_image

from pi0_edge.errors import ObservationError

NOW = 1_000 * NANOSECONDS
PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
CAMERAS = [Camera("top", "top", False), Camera("wrist", "wrist", True)]


def joints(age_s: float = 0.0) -> JointState:
    return JointState(["b", "a"], [2.0, 1.0], header(round(NOW - age_s * NANOSECONDS)))


def filled(top_s: float = 0.01, wrist_s: float = 0.02, joints_s: float = 0.0, prompt: str = "Go") -> Inbox:
    inbox = Inbox(CAMERAS, ["a", "b"], prompt, max_age_s=0.3, max_apart_s=0.2)
    inbox.take_image("top", raw_image(PIXELS, round(NOW - top_s * NANOSECONDS)))
    png = CompressedImage("png", compressed(PIXELS, "PNG"), header(round(NOW - wrist_s * NANOSECONDS)))
    inbox.take_image("wrist", png)
    inbox.take_joints(joints(joints_s))
    return inbox


def test_the_newest_of_everything_makes_an_observation_with_the_time_of_the_joints():
    inbox = filled(joints_s=0.005)
    observed = inbox.read(inbox.moment(NOW))
    assert observed.time_ns == NOW - 5_000_000
    assert observed.state.tolist() == [1.0, 2.0] and observed.prompt == "Go"
    assert [np.array_equal(observed.images[name], PIXELS) for name in ("top", "wrist")] == [True, True]


@pytest.mark.parametrize(
    ("ages", "said"),
    [
        ({"top_s": 0.31}, "image of the camera top is 0.310 s old, expected at most 0.3 s"),
        ({"wrist_s": 5.0}, "image of the camera wrist is 5.000 s old"),
        ({"joints_s": 0.4}, "joint state is 0.400 s old"),
        ({"top_s": 0.25}, "camera top was taken 0.250 s from the joint state, expected at most 0.2 s"),
        ({"top_s": 0.02, "wrist_s": 0.02, "joints_s": 0.25}, "0.230 s from the joint state"),
        ({"top_s": -0.1}, "0.100 s from now in the future"),
        ({"joints_s": -1.0}, "joint state was taken 1.000 s from now in the future"),
        ({"top_s": 1000.0}, "camera top has no stamp"),
        ({"joints_s": 1000.0}, "joint state has no stamp"),
        ({"prompt": ""}, "no prompt"),
    ],
)
def test_messages_that_do_not_belong_together_make_no_observation(ages, said):
    with pytest.raises(ObservationError, match=said):
        filled(**ages).moment(NOW)


def test_what_has_not_come_is_named():
    inbox = Inbox(CAMERAS, ["a", "b"], "Go", 0.3, 0.2)
    with pytest.raises(ObservationError, match="no joint state with any of a, b"):
        inbox.moment(NOW)
    inbox.take_joints(JointState(["lid"], [0.0], header(NOW)))
    with pytest.raises(ObservationError, match="no joint state"):
        inbox.moment(NOW)
    inbox.take_joints(joints())
    with pytest.raises(ObservationError, match="no image of the camera top"):
        inbox.moment(NOW)


def test_another_source_of_other_joints_does_not_hide_ours():
    inbox = filled()
    inbox.take_joints(JointState(["lid"], [0.0], header(NOW)))
    assert inbox.read(inbox.moment(NOW)).state.tolist() == [1.0, 2.0]


def test_a_blank_prompt_is_refused_and_the_one_before_stays():
    inbox = filled()
    with pytest.raises(ObservationError, match="blank"):
        inbox.take_prompt(" \n")
    assert inbox.prompt == "Go"
    inbox.take_prompt("Fold the towel")
    assert inbox.moment(NOW).prompt == "Fold the towel"


def test_an_image_that_cannot_be_read_is_named_by_its_camera():
    inbox = filled()
    inbox.take_image("wrist", CompressedImage("jpeg", b"none", header(NOW)))
    with pytest.raises(ObservationError, match="camera wrist: a compressed image"):
        inbox.read(inbox.moment(NOW))

"""Rules that compare what is written down: names, rates, sizes, prompts. No statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pi0_edge.robots import Robot
from pi0_edge.run.mismatch.rules import Mismatch, Rule
from pi0_edge.training_profile import TrainingProfile

RATE_TOLERANCE = 0.1
"""By how much the measured rate of ticks may differ from that of the training data."""

_ASPECT_TOLERANCE = 0.02
_SHOWN_PROMPTS = 5


def no_profile() -> Mismatch:
    """What is said of a policy without a training profile."""
    text = (
        "this policy comes without a training profile, so that nothing here can be compared with its training data; "
        "make one from that data with `pi0-edge calibrate --training-profile`"
    )
    return Mismatch("training-profile", "", text, refuses=True)


def unchecked(profile: TrainingProfile) -> Iterator[Mismatch]:
    """One warning for each reason for which rules cannot be checked."""
    reasons: dict[str, list[str]] = {}
    for rule, why in profile.missing.items():
        reasons.setdefault(why, []).append(rule)
    for why, rules in reasons.items():
        yield Mismatch("training-profile", "", f"{', '.join(rules)} cannot be checked: {why}", refuses=False)


def setup(profile: TrainingProfile, robot: Robot, cameras: Collection[str]) -> Iterator[Mismatch]:
    """Names of joints and cameras, and the control rate."""
    yield from joint_names(profile, robot)
    if (found := control_rate(profile, robot.control_hz, "is set to")) is not None:
        yield found
    for camera in sorted(profile.cameras.keys() - set(cameras)):
        text = f"there is no camera {camera}, with which the policy was trained; connect it, or correct its name"
        yield Mismatch("camera-names", camera, text, refuses=True)
    for camera in sorted(set(cameras) - profile.cameras.keys()):
        known = ", ".join(profile.cameras) or "none"
        text = (
            f"the policy was not trained with the camera {camera}, but with {known}; leave it out, or correct its name"
        )
        yield Mismatch("camera-names", camera, text, refuses=True)


def joint_names(profile: TrainingProfile, robot: Robot) -> Iterator[Mismatch]:
    """Whether the joints are called as in the training data, in that order."""
    trained, here = profile.joints.names, tuple(joint.name for joint in robot.joints)
    if len(trained) != robot.state_dim:
        text = f"{robot.name} has {robot.state_dim} joints, the training data have {len(trained)}; give its own layout"
        yield Mismatch("joint-names", "", text, refuses=True)
    elif here and trained != here and not all(name.isdecimal() for name in trained):
        place = next(k for k, (one, other) in enumerate(zip(trained, here, strict=True)) if one != other)
        text = (
            f"joint {place + 1} is {here[place]}, in the training data it is {trained[place]}; give the layout of the "
            "robot that the policy was trained on, with its joints in that order"
        )
        yield Mismatch("joint-names", here[place], text, refuses=True)


def control_rate(profile: TrainingProfile, hz: float | None, verb: str, tolerance: float = 1e-3) -> Mismatch | None:
    """Whether actions are executed as often as they were recorded.

    Args:
        profile: Of the training data.
        hz: The rate here; None where it is not known.
        verb: How it is known: "is set to" or "is measured as".
        tolerance: Relative difference that is allowed.
    """
    trained = profile.control_hz
    if trained is None or hz is None or abs(hz / trained - 1) <= tolerance:
        return None
    text = (
        f"the control rate {verb} {hz:.4g} Hz, in the training data it is {trained:.4g} Hz: every motion would be "
        f"{hz / trained:.2f} times as fast; set control_hz of the robot to {trained:.4g}"
    )
    return Mismatch("control-rate", "", text, refuses=True)


def prompt(profile: TrainingProfile, text: str) -> Mismatch | None:
    """Whether a prompt is among those of the training data, apart from case, spaces and a full stop at its end."""
    if not profile.prompts or _plain(text) in map(_plain, profile.prompts):
        return None
    listed = ", ".join(repr(known) for known in profile.prompts[:_SHOWN_PROMPTS])
    more = len(profile.prompts) - _SHOWN_PROMPTS
    known = f"{listed} and {more} more" if more > 0 else listed
    return Mismatch("prompt", "", f"the prompt {text!r} is none of the training data; those are {known}", refuses=False)


def image_sizes(profile: TrainingProfile, sizes: Mapping[str, tuple[int, int]]) -> Iterator[Mismatch]:
    """Whether images, {camera: (height, width)}, have the size of those in the training data.

    Another shape refuses, because it is padded or squeezed differently; the same shape in another size warns.
    """
    for camera, (height, width) in sizes.items():
        trained = profile.cameras.get(camera)
        if trained is None or (height, width) == (trained.height, trained.width):
            continue
        same_shape = abs(height / width * trained.width / trained.height - 1) <= _ASPECT_TOLERANCE
        text = (
            f"the camera {camera} has images of {width} x {height} pixels, in the training data they have "
            f"{trained.width} x {trained.height}; set the camera to that size"
        )
        yield Mismatch(_SIZE, camera, text, refuses=not same_shape)


_SIZE: Rule = "image-size"


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")

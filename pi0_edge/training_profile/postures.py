"""Joint states: how far two of them are apart, and what a changed robot would do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.robots import Robot

States = NDArray[np.float64]
"""float64 [n, joints], in the robot's own units and joint convention."""

LEAST_WIDTH = {"rad": 0.1, "m": 0.01, "ratio": 0.1}
"""By unit: what a joint is taken to move at least, so that one that stood still is not infinitely sensitive."""

_RANGE = 100.0
"""LeRobot's normalised joints run from -100 to 100, its grippers from 0 to 100."""


@dataclass(frozen=True)
class JointChange:
    """What may be different about the joints.

    Attributes:
        rule: Of the mismatch guard that it breaks.
        subject: The joint, or several.
        words: What a person would say.
        undo: Gives states, [n, joints], as they would be in the training data.
    """

    rule: str
    subject: str
    words: str
    undo: Callable[[States], States]


def distances(found: States, examples: States, widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each state to the nearest example: the largest difference of any joint, in widths of that joint; [n]."""
    apart = np.abs(found[:, None] - examples[None]) / widths
    return apart.max(axis=2).min(axis=1)


def alternatives(
    found: States, examples: States, widths: NDArray[np.float64], changes: Mapping[str, JointChange]
) -> dict[str, NDArray[np.float64]]:
    """Distances of states from the nearest example by alternative, each float64 [n]."""
    return {name: distances(change.undo(found), examples, widths) for name, change in changes.items()}


def joint_units(robot: Robot) -> list[str]:
    """The unit of every dimension of the state; radians where the robot does not say."""
    joints = robot.joints
    return [joint.unit for joint in joints] if len(joints) == robot.state_dim else ["rad"] * robot.state_dim


def least_widths(robot: Robot) -> NDArray[np.float64]:
    """`LEAST_WIDTH` of every joint, float64 [joints]."""
    return np.array([LEAST_WIDTH[unit] for unit in joint_units(robot)])


def joint_changes(robot: Robot) -> dict[str, JointChange]:
    """What may be different about the joints of a robot, by name; none where it does not list its joints."""
    if len(robot.joints) != robot.state_dim:
        return {}
    return dict((*_units(robot), *_grippers(robot), *_signs(robot), *_orders(robot)))


def _units(robot: Robot) -> Iterator[tuple[str, JointChange]]:
    names, units = [joint.name for joint in robot.joints], np.array([joint.unit for joint in robot.joints])
    angles = units == "rad"
    if angles.any():
        words = "the joints are in degrees instead of radians"
        scale = np.where(angles, np.pi / 180, 1.0)
        yield "degrees", JointChange("joint-units", "all joints", words, lambda x: x * scale)
        words = "the joints and grippers are in degrees and percent instead of radians and a ratio"
        both = np.where(units == "ratio", 1 / _RANGE, scale)
        if (units == "ratio").any():
            yield "degrees and percent", JointChange("joint-units", "all joints", words, lambda x: x * both)
    if all(joint.position is not None for joint in robot.joints):
        ends = np.array([joint.position for joint in robot.joints], np.float64)
        least, width = ends[:, 0], ends[:, 1] - ends[:, 0]
        share = np.where(angles, 2 * _RANGE, _RANGE)

        def from_range(x: States) -> States:
            return least + (x + np.where(angles, _RANGE, 0.0)) / share * width

        words = f"the joints are in LeRobot's range of -{_RANGE:g} to {_RANGE:g}"
        yield "range", JointChange("joint-units", "all joints", words, from_range)
    for place in np.flatnonzero(units == "m"):
        scale_m = np.where(np.arange(len(units)) == place, 1e-3, 1.0)
        words = f"{names[place]} is in millimetres instead of metres"
        yield f"millimetres {names[place]}", JointChange("joint-units", names[place], words, _scaled(scale_m))


def _grippers(robot: Robot) -> Iterator[tuple[str, JointChange]]:
    ends = [None if j.closed is None or j.open is None else (j.closed, j.open) for j in robot.joints]
    places = [place for place, end in enumerate(ends) if end is not None]
    groups = [places, *([place] for place in places)] if len(places) > 1 else [places] if places else []
    for group in groups:
        subject = ", ".join(robot.joints[place].name for place in group)
        chosen = np.isin(np.arange(len(ends)), group)
        mirror = np.array([sum(end) if end is not None and place in group else 0.0 for place, end in enumerate(ends)])
        words = f"open and closed are exchanged for {subject}"
        flip = np.where(chosen, -1.0, 1.0)
        yield f"exchanged {subject}", JointChange("gripper-convention", subject, words, _scaled(flip, mirror))
        words = f"{subject} is in percent instead of a ratio"
        percent = np.where(chosen, 1 / _RANGE, 1.0)
        yield f"percent {subject}", JointChange("gripper-convention", subject, words, _scaled(percent))


def _signs(robot: Robot) -> Iterator[tuple[str, JointChange]]:
    for place, joint in enumerate(robot.joints):
        if joint.unit == "rad":
            flip = np.where(np.arange(len(robot.joints)) == place, -1.0, 1.0)
            words = f"{joint.name} turns the other way"
            yield f"sign {joint.name}", JointChange("joint-sign", joint.name, words, _scaled(flip))


def _orders(robot: Robot) -> Iterator[tuple[str, JointChange]]:
    names = [joint.name for joint in robot.joints]
    count = len(names)
    for one in range(count):
        for other in range(one + 1, count):
            order = list(range(count))
            order[one], order[other] = other, one
            words = f"{names[one]} and {names[other]} are exchanged"
            subject = f"{names[one]}, {names[other]}"
            yield f"order {names[one]} {names[other]}", JointChange("joint-order", subject, words, _ordered(order))
    whole = {"reversed": (list(range(count))[::-1], "the joints are in reversed order")}
    if count % 2 == 0 and count > 2:
        half = count // 2
        whole["halves"] = [*range(half, count), *range(half)], "the two arms are exchanged"
    whole["first is last"] = [*range(1, count), 0], "the last joint is given first"
    whole["last is first"] = [count - 1, *range(count - 1)], "the first joint is given last"
    for name, (order, words) in whole.items():
        yield f"order {name}", JointChange("joint-order", "all joints", words, _ordered(order))


def _scaled(scale: NDArray[np.float64], offset: NDArray[np.float64] | float = 0.0) -> Callable[[States], States]:
    return lambda states: states * scale + offset


def _ordered(order: list[int]) -> Callable[[States], States]:
    return lambda states: states[:, order]

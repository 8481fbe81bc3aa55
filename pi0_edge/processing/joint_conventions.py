"""Named transforms between a robot's own joint convention and the one π0 was pretrained with.

`aloha_to_pi`: ALOHA (six joints and a gripper per arm; what follows these 14 dimensions, such as the velocities of a
mobile base, is unchanged). Signs of some joints differ, and grippers are linear openings there and joint angles here.
Two gripper scales are involved, because ALOHA reports the follower's gripper and is commanded with the leader's:

    state    p in [0, 1] -> opening 0.01844 + p * (0.05800 - 0.01844) m
             -> angle arcsin((r² + opening² - a²) / (2 r opening)), r = 0.022 m horn, a = 0.036 m arm
             -> (angle - 0.5476) / (1.6296 - 0.5476)
    action   angle = v + 0.5476 -> (angle + 0.6213) / (1.4910 + 0.6213)

Constants from openpi (encoder counts 2405 to 3110 of 4096 with zero at 2048 are 0.5476 to 1.6296 rad).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FLIPPED = (1, 2, 8, 9)
_GRIPPERS = (6, 13)
_OPENING = (0.01844, 0.05800)
_ANGLE = (0.5476, 1.6296)
_COMMAND = (-0.6213, 1.4910)
_ARM, _HORN = 0.036, 0.022


@dataclass(frozen=True)
class JointConvention:
    """Conversions of one robot; each maps [..., dims] to the same shape.

    Attributes:
        dims: How many dimensions state and actions must have at least.
        state_to_pi: Robot state to π0's.
        state_to_robot: π0's state to the robot's; its inverse within what a gripper can open.
        actions_to_robot: π0's actions to commands.
        actions_to_pi: Commands to π0's actions (for training).
    """

    dims: int
    state_to_pi: Callable[[Array], Array]
    state_to_robot: Callable[[Array], Array]
    actions_to_robot: Callable[[Array], Array]
    actions_to_pi: Callable[[Array], Array]


def _unchanged(values: Array) -> Array:
    return values


def _converted(values: Array, convert: Callable[[Array], Array]) -> Array:
    """Joint signs flipped and grippers converted; both arms have the same layout."""
    values = values.copy()
    values[..., _FLIPPED] *= -1.0
    values[..., _GRIPPERS] = convert(values[..., _GRIPPERS])
    return values


def _opening_to_angle(opening: Array) -> Array:
    metres = _OPENING[0] + opening * (_OPENING[1] - _OPENING[0])
    sine = (_HORN**2 + metres**2 - _ARM**2) / (2 * _HORN * metres)
    return (np.arcsin(np.clip(sine, -1.0, 1.0)) - _ANGLE[0]) / (_ANGLE[1] - _ANGLE[0])


def _angle_to_opening(value: Array) -> Array:
    angle = np.clip(value * (_ANGLE[1] - _ANGLE[0]) + _ANGLE[0], -np.pi / 2, np.pi / 2)
    metres = _HORN * np.sin(angle) + np.sqrt(_ARM**2 - (_HORN * np.cos(angle)) ** 2)
    return (metres - _OPENING[0]) / (_OPENING[1] - _OPENING[0])


def _angle_to_command(value: Array) -> Array:
    return (value + _ANGLE[0] - _COMMAND[0]) / (_COMMAND[1] - _COMMAND[0])


def _command_to_angle(command: Array) -> Array:
    return command * (_COMMAND[1] - _COMMAND[0]) + _COMMAND[0] - _ANGLE[0]


CONVENTIONS = {
    "none": JointConvention(0, _unchanged, _unchanged, _unchanged, _unchanged),
    "aloha_to_pi": JointConvention(
        dims=14,
        state_to_pi=lambda state: _converted(state, _opening_to_angle),
        state_to_robot=lambda state: _converted(state, _angle_to_opening),
        actions_to_robot=lambda actions: _converted(actions, _angle_to_command),
        actions_to_pi=lambda actions: _converted(actions, _command_to_angle),
    ),
}

"""Which robots of LeRobot a policy can drive, and how their names and units map to those of the policy's robot.

Nothing on the wire says in which units a robot of LeRobot reports its joints. What is not known is refused:

| policy's robot                                    | client's joints          | units                              |
|---------------------------------------------------|--------------------------|------------------------------------|
| of a checkpoint that LeRobot saved, no joints     | as many as the state has | unchanged, in the client's order   |
| with joints whose names no arm of LeRobot has     | these, in any order,     | those of the robot's file, unless  |
|                                                   | with or without `.pos`   | `units` says degrees               |
| with joints of the names of LeRobot's own arms    | the same                 | what `units` says; refused without |
| with actions that are not positions of its joints | refused                  |                                    |

In `degrees`, an angle of LeRobot counts from the middle of the range that its calibration found, and a gripper from 0
(closed) to 100 (open). An arm in LeRobot's range of -100 to 100 is refused: only its calibration knows what that means.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.processing import Observation
from pi0_edge.robots import Robot
from pi0_edge.serving.lerobot_async.messages import RemotePolicyConfig
from pi0_edge.serving.lerobot_joints import (
    JointMap,
    Units,
    is_of_lerobots_arm,
    joint_order,
    joint_scales,
    listed,
)
from pi0_edge.serving.messages import PROMPT_CHARACTERS

LEROBOT_PREFIX = "lerobot:"
"""What the name of a robot begins with that was read from a checkpoint of LeRobot."""

_STATE, _IMAGES = "observation.state", "observation.images."


class RobotMatch:
    """One client's robot as the policy's robot.

    Attributes:
        cameras: Name of the client's camera -> camera of the policy's robot.
        joints: Names of the client's joints, in its order.
    """

    def __init__(self, robot: Robot, config: RemotePolicyConfig, units: Units | None = None) -> None:
        """Checks that the policy can drive the client's robot.

        Args:
            robot: The policy's robot.
            config: What the client asks for.
            units: What the client's joints are in; None where that is not known.

        Raises:
            ConfigError: If it cannot; the message says which names were found and expected.
        """
        self._robot = robot
        self.joints = _state_names(config)
        self.cameras = _cameras(robot, config)
        self._map = _joint_map(robot, self.joints, units)

    def state(self, values: dict[str, Any]) -> NDArray[np.float64]:
        """The client's joints in its own units and order.

        Args:
            values: Of the client's observation.

        Raises:
            ObservationError: If a joint is missing or not a finite number.
        """
        state = [_number(name, values.get(name)) for name in self.joints]
        return np.array(state, np.float64)

    def observation(self, values: dict[str, Any]) -> Observation:
        """The client's observation as the policy takes it. Values that its features do not list are ignored.

        Raises:
            ObservationError: If a joint or a camera is missing, or the prompt is no text or over-long.
        """
        images: dict[str, Any] = {}
        for name, camera in self.cameras.items():
            if name not in values:
                raise ObservationError(f"the observation has no image of the camera {name!r}, which its features list")
            images[camera] = values[name]
        prompt = values.get("task")
        if not isinstance(prompt, (str, type(None))) or len(prompt or "") > PROMPT_CHARACTERS:
            raise ObservationError(f"task is no text of at most {PROMPT_CHARACTERS} characters; shorten it")
        return Observation(images, self._map.to_policy(self.state(values)), prompt or None)

    def to_client(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of actions in the client's order and units.

        Args:
            actions: float64 [rows, action_dim], in the units of the policy's robot.
        """
        return self._map.to_client(actions)


def _state_names(config: RemotePolicyConfig) -> list[str]:
    feature = config.lerobot_features.get(_STATE)
    names = None if feature is None else feature.get("names")
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"lerobot_features[{_STATE!r}] lists no names of joints; expected one name for each")
    if len(set(names)) != len(names) or len({name.removesuffix(".pos") for name in names}) != len(names):
        raise ConfigError(f"lerobot_features[{_STATE!r}] names a joint twice: {listed(names)}")
    shape = feature.get("shape") if feature else None
    if not isinstance(shape, (list, tuple)) or list(shape) != [len(names)]:
        raise ConfigError(f"lerobot_features[{_STATE!r}] has {len(names)} names and another shape; expected as many")
    return list(names)


def _cameras(robot: Robot, config: RemotePolicyConfig) -> dict[str, str]:
    cameras: dict[str, str] = {}
    for feature, described in config.lerobot_features.items():
        info = described.get("info")
        if not feature.startswith(_IMAGES) or (isinstance(info, dict) and info.get("is_depth_map") is True):
            continue
        name = feature.removeprefix(_IMAGES)
        known_as = config.rename_map.get(feature, feature).removeprefix(_IMAGES)
        camera = robot.camera(known_as)
        if camera is None:
            raise ConfigError(
                f"the client has a camera {known_as[:60]!r}, and the policy's robot {robot.name} has "
                f"{listed([*robot.cameras, *robot.camera_aliases])}; name it so in --robot.cameras of the client, or "
                "give the robot's file camera_aliases"
            )
        if camera in cameras.values():
            raise ConfigError(f"the client has two cameras that mean {camera!r} of {robot.name}; leave one out")
        cameras[name] = camera
    if not cameras:
        raise ConfigError(f"the client has no camera, expected at least one of {listed(list(robot.cameras))}")
    return cameras


def _joint_map(robot: Robot, names: list[str], units: Units | None) -> JointMap:
    if not robot.joints:
        if not robot.name.startswith(LEROBOT_PREFIX):
            raise ConfigError(
                f"the policy's robot {robot.name} lists no joints, so the names {listed(names)} cannot be checked; "
                "give a robot file with joints"
            )
        if not len(names) == robot.state_dim == robot.action_dim:
            raise ConfigError(
                f"the client has {len(names)} joints ({listed(names)}), expected {robot.state_dim} for the state and "
                f"{robot.action_dim} for the actions of {robot.name}"
            )
        if units == "degrees":
            raise ConfigError(f"{robot.name} has the units that LeRobot recorded it in; leave degrees out")
        return JointMap.unchanged(len(names))
    joints = [joint.name for joint in robot.joints]
    if list(robot.action_names) != joints or robot.state_dim != len(joints):
        raise ConfigError(f"state and actions of {robot.name} are not the positions of its joints; it cannot be served")
    order = joint_order(names, joints, robot.name)
    if units is None and any(is_of_lerobots_arm(joint) for joint in joints):
        raise ConfigError(
            f"{listed(names)} are joints of an arm of LeRobot, which reports degrees or a range of -100 to 100, and "
            f"{robot.name} has {robot.joints[0].unit}; start the server with --lerobot-units degrees if the client "
            "runs with --robot.use_degrees=true, or robot if it has the units of the robot's file"
        )
    return JointMap(order, joint_scales(robot.joints, units))


def _number(name: str, value: Any) -> float:
    if isinstance(value, np.ndarray) and value.shape in ((), (1,)):
        value = value.reshape(()).item()
    if type(value) not in (int, float) or not math.isfinite(value):
        found = "missing" if value is None else f"no finite number ({type(value).__name__})"
        raise ObservationError(f"the joint {name!r} of the observation is {found}; expected its position")
    return float(value)

"""LeRobot's robot as the robot of the server's policy: cameras, joints and units, checked before anything moves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.protos import policy_pb2
from pi0_edge.robots import Robot, load_robot
from pi0_edge.serving.lerobot_joints import (
    JointMap,
    check_units,
    is_of_lerobots_arm,
    joint_order,
    joint_scales,
    listed,
)

if TYPE_CHECKING:
    from lerobot_policy_pi0_edge.configuration_pi0_edge import Pi0EdgeConfig

logger = logging.getLogger(__name__)

IMAGES = "observation.images."
IMAGE = "observation.image"
"""How LeRobot names the picture of an environment that has one camera without a name."""


class PolicyRobot:
    """Between the robot of LeRobot and the robot of the server's policy.

    Attributes:
        action_dim: Actions of the policy.
    """

    def __init__(
        self,
        config: Pi0EdgeConfig,
        metadata: policy_pb2.PolicyMetadata,
        state_names: Sequence[str] | None,
        action_names: Sequence[str] | None,
    ) -> None:
        """Checks the names that are known.

        Args:
            config: Settings of the policy.
            metadata: What the server said about it.
            state_names: Of the robot's joints in the order of its state; None where LeRobot does not tell.
            action_names: In the order of its actions; None where LeRobot does not tell.

        Raises:
            ConfigError: If names or units do not fit; the message says what was found and expected.
        """
        self._config = config
        self._metadata = metadata
        self._robot = None if config.robot is None else _checked_robot(config.robot, metadata)
        self.action_dim = metadata.action_dim
        scales = _degrees(config, metadata, self._robot)
        given = list(config.joints) or None
        self._state = self._map(given or state_names, metadata.state_dim, scales, "state")
        self._actions = self._map(given or action_names, metadata.action_dim, scales, "actions")
        if given is None and action_names is None:
            order = ", ".join(metadata.action_names) or "as recorded"
            logger.warning("LeRobot does not tell the robot's joints; they are taken in the policy's order: %s", order)

    def check_shapes(self, state: Sequence[int] | None, action: Sequence[int] | None) -> None:
        """Checks how many values the robot's state and actions have, as far as that is known.

        Raises:
            ConfigError: If the policy has another number.
        """
        expected = (("state", state, self._metadata.state_dim), ("action", action, self.action_dim))
        for name, shape, count in expected:
            if shape is not None and tuple(shape) != (count,):
                raise ConfigError(
                    f"the robot's {name} has the shape {list(shape)}, and the policy of {self._config.server} has "
                    f"{count} values ({self._known_joints()}); serve a policy that was trained for this robot"
                )

    def cameras(self, keys: Sequence[str]) -> dict[str, str]:
        """The policy's camera for each image of LeRobot.

        Args:
            keys: Names of LeRobot's images, such as `observation.images.front`.

        Raises:
            ConfigError: If the policy does not have a camera, has it under two names, or none is left.
        """
        found: dict[str, str] = {}
        names = [key.removeprefix(IMAGES) for key in keys]
        unused = set(self._config.cameras) - set(names)
        if unused and keys:
            raise ConfigError(f"--policy.cameras names {listed(sorted(unused))}, and the robot has {listed(names)}")
        for key, name in zip(keys, names, strict=True):
            camera = self._camera(name)
            if camera == "":
                continue
            if camera in found.values():
                raise ConfigError(f"the robot has two cameras that mean {camera!r} of the policy; leave one out")
            found[key] = camera
        if not found:
            raise ConfigError(
                f"the robot has no camera, expected at least one of {listed(self._metadata.cameras)}; lerobot-record "
                "leaves all cameras out under --dataset.video=false"
            )
        return found

    def state(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """The robot's state in the policy's order and units.

        Args:
            values: [state_dim], as LeRobot has it.
        """
        return self._state.to_policy(values)

    def plan(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Rows of actions of the robot, [rows, action_dim], in the policy's order and units."""
        return self._actions.to_policy(rows)

    def actions(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """The inverse of `plan`."""
        return self._actions.to_client(rows)

    def _map(self, names: Sequence[str] | None, count: int, scales: NDArray[np.float64] | None, what: str) -> JointMap:
        joints = list(self._metadata.action_names)
        scale = np.ones(count) if scales is None else scales
        if names is None or len(joints) != count:
            if names is not None and len(names) != count:
                raise ConfigError(
                    f"the robot's {what} is {listed(names)}, {len(names)} values, and the policy of "
                    f"{self._config.server} has {count}; serve a policy that was trained for this robot"
                )
            return JointMap(np.arange(count), scale)
        return JointMap(joint_order(names, joints, f"the policy of {self._config.server}"), scale)

    def _camera(self, name: str) -> str:
        known = list(self._metadata.cameras)
        wanted = self._config.cameras.get(name, name)
        if wanted == "" or wanted in known:
            return wanted
        if self._robot is not None and (camera := self._robot.camera(wanted)):
            return camera
        if wanted == IMAGE and len(known) == 1:
            return known[0]
        raise ConfigError(
            f"the robot has a camera {wanted!r}, and the policy of {self._config.server} has {listed(known)}; map it: "
            f"""--policy.cameras='{{"{name}": "{known[0] if known else ""}"}}', or leave it out with "" """.rstrip()
        )

    def _known_joints(self) -> str:
        return ", ".join(self._metadata.action_names) or "without names"


def _checked_robot(name: str, metadata: policy_pb2.PolicyMetadata) -> Robot:
    robot = load_robot(name)
    theirs = (metadata.state_dim, metadata.action_dim, list(metadata.action_names), list(metadata.cameras))
    ours = (robot.state_dim, robot.action_dim, list(robot.action_names), list(robot.cameras))
    if ours != theirs:
        raise ConfigError(
            f"--policy.robot {robot.name} has state, actions, joints and cameras {ours}, and the policy of the server "
            f"{theirs}; give the robot file that the policy is served with"
        )
    return robot


def _degrees(
    config: Pi0EdgeConfig, metadata: policy_pb2.PolicyMetadata, robot: Robot | None
) -> NDArray[np.float64] | None:
    """The policy's units for one of the robot's; None where they are the same."""
    units = check_units(config.joint_units)
    joints: Mapping[str, None] = dict.fromkeys(metadata.action_names)
    if units is None and any(map(is_of_lerobots_arm, joints)):
        raise ConfigError(
            f"{listed(list(joints))} are joints of an arm of LeRobot, which reports degrees or a range of -100 to 100; "
            "say --policy.joint_units=degrees with --policy.robot where the robot runs with use_degrees=true, or "
            "--policy.joint_units=robot if it has the units of the policy"
        )
    if units != "degrees":
        return None
    if robot is None or [joint.name for joint in robot.joints] != list(joints):
        raise ConfigError(
            "--policy.joint_units=degrees needs --policy.robot, the name or file of the policy's robot, whose state "
            "and actions are the positions of its joints: it says which units degrees become"
        )
    return joint_scales(robot.joints, units)

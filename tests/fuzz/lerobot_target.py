"""Messages of LeRobot's asynchronous client: any bytes are plain values of a listed message, or a refusal."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.robots import load_robot
from pi0_edge.serving.lerobot_async.messages import RemotePolicyConfig, read_config, read_observation
from pi0_edge.serving.lerobot_async.pickle_reader import DEPTH_LIMIT, MODULES
from pi0_edge.serving.lerobot_async.robot_match import RobotMatch

JOINTS = [joint.name for joint in load_robot("aloha_sim").joints]


@cache
def known_match() -> RobotMatch:
    """A robot that fits."""
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"shape": (len(JOINTS),), "names": [f"{joint}.pos" for joint in JOINTS]},
        "observation.images.top": {"shape": (48, 64, 3)},
    }
    return RobotMatch(load_robot("aloha_sim"), RemotePolicyConfig(MODULES[0], "pi0", "", features, 50, {}))


def check(data: bytes) -> None:
    """Raises where the reader does anything but refuse, or gives values that are not plain.

    The first byte chooses what the others are: what the client asks for, or an observation.
    """
    message = data[1:]
    try:
        if data and data[0] % 2:
            config = read_config(message)
            assert config.module in MODULES and all(type(name) is str for name in config.rename_map)
            assert_plain(config.lerobot_features)
            RobotMatch(load_robot("aloha_sim"), config)
            return
        found = read_observation(message)
        assert_plain(found.observation)
        assert type(found.must_go) is bool and found.timestep >= 0 and np.isfinite(found.timestamp)
        observation = known_match().observation(found.observation)
        assert np.all(np.isfinite(observation.state)) and np.shape(observation.state) == (len(JOINTS),)
    except (ObservationError, ConfigError):
        return


def assert_plain(value: Any, depth: int = 0) -> None:
    """Nothing but what the reader promises."""
    assert depth <= DEPTH_LIMIT + 1
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if type(value) in (list, tuple):
        for item in value:
            assert_plain(item, depth + 1)
    elif type(value) is np.ndarray:
        assert value.dtype.kind in "biuf" and value.ndim <= 4
    else:
        assert value is None or type(value) in (bool, int, float, str), type(value)
